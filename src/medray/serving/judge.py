"""When a challenger is taken back: by the requests that both it and the champion have answered."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

from medray.registry.rollout import Canary

__all__ = ["Judge", "Pair"]

SURE = 0.999
"""With which each limit must be passed before a challenger is taken back: there is a look after each request."""
FEWEST = 8
"""Requests before means are looked at."""
REMEMBERED = 500
"""Requests; what was longer ago counts no more."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One image that both have answered, or that the challenger should have.

    Attributes:
        failed: Whether the challenger gave no answer where the champion did.
        slower: The challenger's time of the champion's; None where it failed.
        agreement: The mean over targets, 0 to 1; None where it failed.
    """

    failed: bool = False
    slower: float | None = None
    agreement: float | None = None


class Judge:
    """Looks at a challenger after each request.

    Args:
        canary: What it may do.
    """

    def __init__(self, canary: Canary) -> None:
        self._canary = canary
        self._pairs: deque[Pair] = deque(maxlen=REMEMBERED)

    @property
    def seen(self) -> int:
        """How many requests were compared."""
        return len(self._pairs)

    def add(self, pair: Pair) -> str:
        """Take a request in; return why the challenger is to be taken back, or nothing."""
        self._pairs.append(pair)
        return self._errors() or self._slowness() or self._disagreement()

    def _errors(self) -> str:
        failed, of, most = sum(pair.failed for pair in self._pairs), len(self._pairs), self._canary.errors
        if failed <= most * of or _least_share(failed, of) <= most:
            return ""
        return f"it failed at {failed} of {of} images that the champion answered; {most:.0%} is allowed"

    def _slowness(self) -> str:
        known = [pair.slower for pair in self._pairs if pair.slower is not None]
        slow = sum(value > self._canary.slower for value in known)
        if slow <= len(known) / 2 or _least_share(slow, len(known)) <= 0.5:
            return ""
        return f"it takes {np.median(known):.2f} times the champion's time; {self._canary.slower:g} is allowed"

    def _disagreement(self) -> str:
        known = np.array([pair.agreement for pair in self._pairs if pair.agreement is not None])
        if len(known) < FEWEST or known.mean() >= self._canary.agreement:
            return ""
        half = float(t.ppf(SURE, len(known) - 1)) * float(known.std(ddof=1)) / math.sqrt(len(known))
        if known.mean() + half >= self._canary.agreement:
            return ""
        return f"it agrees with the champion by {known.mean():.3f}; {self._canary.agreement:g} is asked for"


def _least_share(hits: int, of: int) -> float:
    """Return the lower end of the one-sided Clopper-Pearson interval of a share (Biometrika 26 (1934) 404-413)."""
    return float(beta.ppf(1 - SURE, hits, of - hits + 1)) if hits else 0.0
