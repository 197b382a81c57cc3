"""Whether some studies are of another kind than others: one test with one false-alarm rate over everything that is recorded.

Each recorded number becomes rank scores, for what may happen to it: it moves (normal scores, van der Waerden 1952), it
spreads (their squares), its upper or lower end grows (exponential scores, Savage 1956), or a part of the studies crosses over
from low to high (steps in the middle of the ranks, as the median test of Mood 1950: what is zero in the healthy and large in
the ill does that). Each label, such as a site, becomes a yes or no. Of embeddings the maximum mean discrepancy is taken
(Gretton et al., JMLR 13 (2012) 723-773) with a Gaussian kernel. The studies of both sides are then shuffled many times: how
rarely shuffled ones show as much is a p-value that holds exactly, however the numbers hang together and are distributed
(Westfall & Young, Resampling-Based Multiple Testing, 1993). Scores are measured by how far shuffling carries each of them now
and then, so that those with long tails don't drown the others. Families of numbers have a p-value each, and the smallest of
them, again against the shuffles, is the whole test's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from medray.errors import InputError

__all__ = ["FAMILIES", "Change", "Finding", "Sample", "compared", "family_of"]

FAMILIES = ("acquisition", "image", "output", "embedding", "mix")
ACQUISITION = ("spacing_", "field_", "tilt", "mvoxels")
OUTPUT = ("volume ", "probability ", "confidence", "entropy", "boxes")
SHUFFLES = 9999
FEWEST = 5
"""Of studies on either side."""
SHOWN = 5.0
"""Change of a single number that is told of, in standard deviations of what shuffling does to it, whatever else is found."""
LEAST_SPREAD = 1e-9
RARE = 1e-3
"""Share of draws by whose least a score is measured."""
STEPS = (0.35, 0.5, 0.65)
"""Shares of the ranks at which scores step."""
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What is recorded of some studies.

    Attributes:
        numbers: Name to a value for each ``(n,)``; NaN where one isn't known.
        labels: Kind to a label for each; empty where one isn't known.
        embeddings: ``(n, F)``, NaN where there is none; None where nobody has one.
        size: How many studies.
    """

    size: int
    numbers: Mapping[str, NDArray[np.float64]]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    embeddings: NDArray[np.float32] | None = None


class Change(NamedTuple):
    """One number of which the studies differ.

    Attributes:
        name: Of the number or, with a colon, of a label.
        family: One of `FAMILIES`.
        strength: In standard deviations of what shuffling does to its scores.
        before: Its median, or the label's share, in the reference.
        after: In the window.
    """

    name: str
    family: str
    strength: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What a comparison showed.

    Attributes:
        p: How probable it is that studies of one kind differ so much or more.
        families: The same of each family of numbers alone.
        changes: The numbers that differ most, the strongest first.
        reference: How many studies were compared with.
        window: How many.
    """

    p: float
    families: Mapping[str, float]
    changes: Sequence[Change]
    reference: int
    window: int


def compared(reference: Sample, window: Sample, *, shuffles: int = SHUFFLES, seed: int = 0, told: int = 5) -> Finding:
    """Compare a window of studies with a reference.

    Args:
        reference: Studies that are as they should be.
        window: Studies of now.
        shuffles: The smallest p-value that can be told is one by so many and one.
        seed: Of the shuffles.
        told: How many changes are named at most.

    Raises:
        InputError: If either side has fewer than five studies.
    """
    if min(reference.size, window.size) < FEWEST:
        raise InputError(f"{reference.size} and {window.size} studies can't be compared: each side needs {FEWEST}")
    columns = _columns(reference, window)
    drawn = _drawn(reference.size + window.size, window.size, shuffles, seed)
    families = sorted({column.family for column in columns}, key=FAMILIES.index)
    spread = math.sqrt(window.size * reference.size / (reference.size + window.size))
    strengths = [np.abs(drawn @ column.scores) / spread for column in columns]
    told_of = [
        np.max([_by_tail(found) for column, found in zip(columns, strengths, strict=True) if column.family == family], axis=0)
        for family in families
    ]
    if reference.embeddings is not None and window.embeddings is not None:
        families.append("embedding")
        told_of.append(_discrepancy(reference.embeddings, window.embeddings, drawn))
    each = np.column_stack([_shares(found) for found in told_of])
    least = each.min(axis=1)
    changes = [
        Change(column.name, column.family, float(found[0].max()), column.before, column.after)
        for column, found in zip(columns, strengths, strict=True)
    ]
    strongest = sorted(changes, key=lambda change: -change.strength)[:told]
    p = float((least <= least[0]).mean())
    return Finding(p, dict(zip(families, each[0].tolist(), strict=True)), strongest, reference.size, window.size)


def family_of(name: str) -> str:
    """Return the family that a number belongs to."""
    if name.startswith(ACQUISITION):
        return "acquisition"
    return "output" if name.startswith(OUTPUT) else "image"


class _Column(NamedTuple):
    """A number or a label of both sides: its scores ``(N, S)``, centred, of deviation 1."""

    name: str
    family: str
    scores: Matrix
    before: float
    after: float


def _columns(reference: Sample, window: Sample) -> list[_Column]:
    found = []
    for name in sorted(reference.numbers.keys() & window.numbers.keys()):
        before, after = reference.numbers[name], window.numbers[name]
        values = np.concatenate([before, after])
        scores = _scores(values)
        if scores is not None:
            found.append(_Column(name, family_of(name), scores, _median(before), _median(after)))
    for kind in sorted(reference.labels.keys() & window.labels.keys()):
        found += _labels(kind, list(reference.labels[kind]), list(window.labels[kind]))
    return found


def _labels(kind: str, before: list[str], after: list[str]) -> list[_Column]:
    """Return a column for each label. Studies whose label isn't known say nothing: files of another format may leave it out."""
    if min(sum(map(bool, before)), sum(map(bool, after))) < FEWEST:
        return []
    both, found = [*before, *after], []
    known = np.array([bool(one) for one in both])
    for label in sorted(set(both) - {""}):
        yes = np.array([one == label for one in both], np.float64)
        if 0 < yes.sum() < known.sum():
            scores = np.where(known, yes - yes[known].mean(), 0.0)
            shares = (yes[rows].sum() / known[rows].sum() for rows in (slice(len(before)), slice(len(before), None)))
            found.append(_Column(f"{kind}: {label}", "mix", _standard(scores[:, None]), *map(float, shares)))
    return found


def _scores(values: NDArray[np.float64]) -> Matrix | None:
    """Return the scores of each value, and whether it is missing where some are; None where all are the same."""
    known = np.isfinite(values)
    missing = [(~known).astype(np.float64)] if 0 < known.sum() < len(values) else []
    parts = list(missing)
    if known.sum() > 1 and np.ptp(values[known]) > LEAST_SPREAD:
        place = (rankdata(values[known]) - 0.5) / known.sum()
        normal = ndtri(place)
        steps = [(place > share).astype(np.float64) for share in STEPS]
        for score in (normal, normal**2, -np.log1p(-place), -np.log(place), *steps):
            whole = np.zeros(len(values))
            whole[known] = score - score.mean()
            parts.append(whole)
    return _standard(np.column_stack(parts)) if parts else None


def _standard(scores: NDArray[np.float64]) -> Matrix:
    off = scores - scores.mean(axis=0)
    standard: Matrix = (off / np.maximum(off.std(axis=0), LEAST_SPREAD)).astype(np.float32)
    return standard


@lru_cache(maxsize=4)
def _drawn(studies: int, window: int, shuffles: int, seed: int) -> Matrix:
    """Return who is in the window ``(1 + shuffles, studies)``, 1 or 0: the last ones in the first row, then drawn ones."""
    drawn = np.zeros((1 + shuffles, studies), np.float32)
    drawn[0, -window:] = 1
    chosen = np.random.default_rng(seed).random((shuffles, studies), np.float32).argpartition(window, axis=1)[:, :window]
    np.put_along_axis(drawn[1:], chosen, 1, axis=1)
    return drawn


def _discrepancy(reference: NDArray[np.float32], window: NDArray[np.float32], drawn: Matrix) -> NDArray[np.float64]:
    """Return the maximum mean discrepancy of each draw; who has no embedding lies in the middle of the others.

    Scales and the kernel's width are those of both sides together: the kernel must not know who is in the window.
    """
    both = np.concatenate([reference, window])
    deviation = np.maximum(np.nanstd(both, axis=0), 1e-6)
    both = np.nan_to_num(((both - np.nanmean(both, axis=0)) / deviation).astype(np.float32))
    lengths = (both**2).sum(axis=1)
    apart = np.maximum(lengths[:, None] + lengths - 2 * both @ both.T, 0)
    width = float(np.median(apart)) or 1.0
    kernel = np.exp(-apart / width).astype(np.float32)
    inside = ((drawn @ kernel) * drawn).sum(axis=1, dtype=np.float64)
    touching = (drawn @ kernel.sum(axis=1)).astype(np.float64)
    n, m = len(window), len(reference)
    rest = float(kernel.sum()) - 2 * touching + inside
    found: NDArray[np.float64] = inside / n**2 + rest / m**2 - 2 * (touching - inside) / (n * m)
    return found


def _by_tail(found: Matrix) -> NDArray[np.float32]:
    """Return of each draw ``(D, S)`` the score that stands out most, by what one draw in a thousand exceeds."""
    tail = max(1, round(RARE * len(found)))
    far = np.partition(found, len(found) - tail, axis=0)[len(found) - tail]
    most: NDArray[np.float32] = (found / np.maximum(far, LEAST_SPREAD)).max(axis=1)
    return most


def _shares(found: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return for each draw the share of all draws that show as much as it or more."""
    order = np.sort(found)
    slack = 1e-6 * float(np.abs(order).max(initial=0))  # the same sum in another order is as much
    shares: NDArray[np.float64] = 1 - np.searchsorted(order, found - slack, side="left") / len(found)
    return shares


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan
