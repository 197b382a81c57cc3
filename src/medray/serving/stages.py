"""How long each stage of an answer takes."""

from __future__ import annotations

import time

__all__ = ["Stages"]


class Stages(dict[str, float]):
    """Seconds of each stage, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.perf_counter()

    def end(self, stage: str) -> None:
        """Say that a stage is over and the next begins; one that comes again is longer."""
        now = time.perf_counter()
        self[stage], self._since = self.get(stage, 0.0) + now - self._since, now

    def part(self, whole: str, stage: str, seconds: float) -> None:
        """Say that so much of a stage that is over was another one."""
        self[whole] -= seconds
        self[stage] = self.get(stage, 0.0) + seconds

    def milliseconds(self) -> dict[str, float]:
        """Return milliseconds of each stage."""
        return {stage: round(seconds * 1000, 2) for stage, seconds in self.items()}
