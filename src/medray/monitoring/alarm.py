"""When drift is an alarm: looks at the last studies, as often and as sharply as a rate of false alarms allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.errors import ConfigError
from medray.monitoring.drift import Finding, Sample, compared

__all__ = ["Outlook", "Watch", "lately", "looked"]

OVERLAP = 2.0
"""Looks at windows that overlap find the same, so that each may be sharper than by Bonferroni's correction. By how much was
counted by ``benchmarks/drift.py``: of 200 blocks of 50 null studies none has a false alarm at 2, and three have one at 3."""


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Watch:
    """How a model is watched.

    Attributes:
        window: Studies that are looked at together.
        short: Fewer studies, that are looked at, too: they show a large change sooner.
        every: Studies after which it is looked again.
        rate: Share of windows in which a false alarm may come, whatever is looked at how often.
        groups: Kinds of groups, such as ``site``, each of which is looked at by itself, too.
        fewest: Studies of a group that there must be, in the reference as well.
    """

    window: int = Field(default=50, ge=10)
    short: int = Field(default=20, ge=5)
    every: int = Field(default=10, ge=1)
    rate: float = Field(default=0.01, gt=0, lt=1)
    groups: tuple[str, ...] = ("site", "manufacturer")
    fewest: int = Field(default=20, ge=5)

    def __post_init__(self) -> None:
        if self.short > self.window:
            raise ConfigError(f"short={self.short} is more than window={self.window}")

    @property
    def level(self) -> float:
        """The p-value at which one look is an alarm."""
        looks = max(1, round(self.window / self.every)) * len({self.short, self.window})
        return min(self.rate, OVERLAP * self.rate / looks)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one look showed.

    Attributes:
        alarm: Whether some p-value is so small that the rate of false alarms still holds.
        level: At which that is; for groups it is shared out among them.
        whole: Window's size to what all studies showed.
        groups: Kind and group, as ``site: north``, to what its studies showed.
    """

    alarm: bool
    level: float
    whole: Mapping[int, Finding]
    groups: Mapping[str, Finding]

    @property
    def worst(self) -> Finding | None:
        """The finding with the smallest p-value; None where there was too little to look at."""
        return min((*self.whole.values(), *self.groups.values()), key=lambda found: found.p, default=None)


def looked(reference: Sample, window: Sample, watch: Watch, *, seed: int = 0) -> Outlook:
    """Look at the last studies.

    Args:
        reference: Studies that are as they should be.
        window: The last ones, `Watch.window` of them at most, the newest last.
        watch: How to look.
        seed: Of the shuffles.
    """
    sizes = sorted({size for size in (watch.short, watch.window) if window.size >= size})
    whole = {size: compared(reference, lately(window, size), seed=seed) for size in sizes}
    groups = {
        f"{kind}: {group}": compared(_of(reference, kind, group), _of(window, kind, group), seed=seed)
        for kind in watch.groups
        for group in sorted(set(window.labels.get(kind, ())) - {""})
        if _several(reference, kind) and min(_count(reference, kind, group), _count(window, kind, group)) >= watch.fewest
    }
    part = watch.level / 2 if groups else watch.level
    alarm = any(found.p <= part for found in whole.values()) or any(found.p <= part / len(groups) for found in groups.values())
    return Outlook(alarm, watch.level, whole, groups)


def lately(sample: Sample, size: int) -> Sample:
    """Return the last studies of a sample."""
    return _chosen(sample, np.arange(max(0, sample.size - size), sample.size))


def _of(sample: Sample, kind: str, group: str) -> Sample:
    return _chosen(sample, np.flatnonzero([one == group for one in sample.labels[kind]]))


def _count(sample: Sample, kind: str, group: str) -> int:
    return sum(one == group for one in sample.labels.get(kind, ()))


def _several(sample: Sample, kind: str) -> bool:
    """Tell whether a reference has several groups of a kind: one alone is everybody."""
    return len(set(sample.labels.get(kind, ()))) > 1


def _chosen(sample: Sample, rows: NDArray[np.intp]) -> Sample:
    numbers = {name: values[rows] for name, values in sample.numbers.items()}
    labels = {kind: [found[int(row)] for row in rows] for kind, found in sample.labels.items()}
    return Sample(len(rows), numbers, labels, None if sample.embeddings is None else sample.embeddings[rows])
