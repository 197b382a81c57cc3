"""What a network is between."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Ends"]


@dataclass(frozen=True, slots=True)
class Ends:
    """What a network is between.

    Attributes:
        inputs: Channels of an image.
        outputs: Channels of the answer.
        sides: Of a patch: two of a picture's, three of a volume's.
    """

    inputs: int
    outputs: int
    sides: tuple[int, ...]

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.sides)
