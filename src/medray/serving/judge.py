"""When a challenger is taken back: by the requests that both it and the champion have answered."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
        slower: The challenger's time of the champion's; None where it failed, or the two went in batches of different size.
        agreement: Target to how far both agree, 0 to 1, of those that either has found.
    """

    failed: bool = False
    slower: float | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)


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
        found = [pair.agreement for pair in self._pairs if pair.agreement]
        least = self._canary.agreement
        if _surely_below([sum(one.values()) / len(one) for one in found], least):
            mean = np.mean([sum(one.values()) / len(one) for one in found])
            return f"it agrees with the champion by {mean:.3f}; {least:g} is asked for"
        for target in sorted({name for one in found for name in one}):
            values = [one[target] for one in found if target in one]
            if _surely_below(values, least / 2):
                return f"it agrees with the champion on {target} by {np.mean(values):.3f}; {least / 2:g} is asked for"
        return ""


def _surely_below(values: Sequence[float], least: float) -> bool:
    """Tell whether the upper end of a mean's one-sided interval, by Student's t, is below what is asked for."""
    if len(values) < FEWEST:
        return False
    half = float(t.ppf(SURE, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) + half < least


def _least_share(hits: int, of: int) -> float:
    """Return the lower end of the one-sided Clopper-Pearson interval of a share (Biometrika 26 (1934) 404-413)."""
    return float(beta.ppf(1 - SURE, hits, of - hits + 1)) if hits else 0.0
