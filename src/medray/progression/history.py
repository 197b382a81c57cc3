"""A patient's history: every lesion and structure at every time point, and what changed in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.errors import InputError
from medray.progression.align import Alignment, align
from medray.progression.change import Amount, Change, Fate, amount_of, change_between, fate_of, longest_of, structure_change
from medray.progression.diameters import Diameters
from medray.progression.doubt import doubted
from medray.progression.lesions import Track, cut_off, found_in, matched
from medray.progression.response import Response, response_of
from medray.progression.trend import Trend, common_trend, trend_of
from medray.progression.visit import TimePoint, years_between

__all__ = ["History", "LesionHistory", "StructureHistory", "Tracking", "followed", "history_of"]

LESION_WORDS = ("lesion", "tumor", "tumour", "nodule", "metast", "mass")
"""A label whose name has one of these is of lesions, unless it is said which are."""


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Tracking:
    """How a history is made.

    Attributes:
        lesions: Labels whose pieces are followed one by one; by their names when empty.
        repeatability: Within-patient coefficient of variation of repeated scans; see `amount_of`.
        scale: Whether the scale between two scans is taken out of structures' change, as the affine says it: for heads, whose
            skull holds it. Where nothing does, in a stripped brain or a cropped organ, the affine follows the change itself.
        warp: Whether scans are bent, too, where an affine doesn't fit: soft organs, a brain after surgery.
        one_patient: Whether scans that name several patients are taken as one's, whom two hospitals number differently.
        apart_days: Between two studies of a cohort of which no date is known; 0 refuses them.
    """

    lesions: tuple[str, ...] = ()
    repeatability: float = Field(default=0.0, ge=0)
    scale: bool = True
    warp: bool = False
    one_patient: bool = False
    apart_days: float = Field(default=0.0, ge=0)

    def require_plain(self) -> None:
        """Refuse what a model of progression can't be told: it follows what it was trained for.

        Raises:
            InputError: If lesions, repeatability, scale or warp are set.
        """
        if self.lesions or self.repeatability or self.warp or not self.scale:
            raise InputError("a progression model follows what it learned: leave out lesions, repeatability, scale and warp")


PLAIN = Tracking()


@dataclass(frozen=True, slots=True)
class LesionHistory:
    """One lesion over time.

    Attributes:
        number: Of its track, among those of its label.
        label: Its name in the masks.
        origin: The time point at which it is first there, counted from 0, and its number in that mask, the largest's being 1.
            What comes later doesn't change it.
        centres_mm: At each time point, its centre in the scan's LPS mm; None where it isn't there.
        amounts: Its volume at each time point; None where the scan doesn't show its place, or not all of it.
        diameters: Its diameters at each time point.
        fates: What became of it from each time point to the next.
        changes: By how much, from each time point to the next; None where one of them doesn't show it.
        trend: Over all of them, from three on.
    """

    number: int
    label: str
    origin: tuple[int, int]
    centres_mm: tuple[tuple[float, ...] | None, ...]
    amounts: tuple[Amount | None, ...]
    diameters: tuple[Diameters | None, ...]
    fates: tuple[Fate, ...]
    changes: tuple[Change | None, ...]
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class StructureHistory:
    """A whole structure over time.

    Attributes:
        label: Its name in the masks.
        amounts: Its volume at each time point, as scanned.
        cut_off: Time points whose scan doesn't show all of what another one does.
        changes: From each time point to the next, as the earlier scanner would have seen both; None where either is cut off.
        scales: By what factor the later scan of each step shows everything larger, which is taken out; 1 where it isn't.
        trend: Over all of them, from three on.
    """

    label: str
    amounts: tuple[Amount, ...]
    cut_off: tuple[int, ...]
    changes: tuple[Change | None, ...]
    scales: tuple[float, ...]
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class History:
    """A patient's time points and what is in them.

    Attributes:
        names: Of the time points, the earliest first.
        years: Of each, from the first.
        alignment: How they lie to each other.
        lesions: Every lesion of any time point.
        structures: Every other label.
        responses: RECIST 1.1, at each time point.
        growth: What lesions have in common, from three time points on.
    """

    names: tuple[str, ...]
    years: tuple[float, ...]
    alignment: Alignment
    lesions: tuple[LesionHistory, ...]
    structures: tuple[StructureHistory, ...]
    responses: tuple[Response, ...]
    growth: Trend | None

    def brief(self) -> dict[str, Any]:
        """Return what a table of patients says: the response category and how many lesions there are."""
        return {"response": self.responses[-1].category, "lesions": len(self.lesions)}

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        fit = {f"{a + 1}-{b + 1}": one for (a, b), one in self.alignment.pairs.items()}
        return {
            "time_points": [{"name": name, "years": years} for name, years in zip(self.names, self.years, strict=True)],
            "alignment": {
                pair: {"likeness": one.likeness, "inconsistent_mm": one.inconsistent_mm} for pair, one in fit.items()
            },
            "lesions": [asdict(one) for one in self.lesions],
            "structures": [asdict(one) for one in self.structures],
            "responses": [asdict(one) for one in self.responses],
            "growth": asdict(self.growth) if self.growth else None,
        }


def history_of(points: Sequence[TimePoint], names: Mapping[str, int], how: Tracking = PLAIN) -> History:
    """Align a patient's time points, match lesions and measure what changed.

    Args:
        points: Two or more, in any order.
        names: Of the masks' labels, and their values.
        how: Which lesions are followed, and how.

    Raises:
        InputError: If there are fewer than two time points, two of one day, or no such label.
        ImageError: If they can't be aligned; see `align`.
    """
    points = sorted(points, key=lambda point: point.day)
    lesions = followed(names, how.lesions)
    if len(points) < 2:
        raise InputError(f"change needs two time points or more; there is {len(points)}")
    if any(later.day == earlier.day for earlier, later in pairwise(points)):
        raise InputError("two time points are of one day: which came first can't be told")
    alignment = align([point.image for point in points], [point.name for point in points], warp=how.warp)
    years = tuple(years_between(points[0], point) for point in points)
    tracks = [(name, track) for name in lesions for track in _tracks(points, name, names[name], alignment)]
    described = tuple(_lesion(name, track, years, how.repeatability) for name, track in tracks)
    structures = tuple(_structure(points, name, names[name], alignment, how) for name in names if name not in lesions)
    growth = common_trend([one.trend for one in described if one.trend])
    responses = tuple(response_of([track for _, track in tracks])) or tuple(Response(0.0, 0.0, None, 0) for _ in points)
    return History(tuple(point.name for point in points), years, alignment, described, structures, responses, growth)


def followed(names: Mapping[str, int], lesions: Sequence[str] = ()) -> tuple[str, ...]:
    """Return those labels that are followed: what was said or, if nothing, those that are called lesions.

    Raises:
        InputError: If there is no such label.
    """
    unknown = [name for name in lesions if name not in names]
    if unknown:
        raise InputError(f"there is no label {unknown[0]!r}: the labels are {', '.join(names)}")
    return tuple(lesions) or tuple(name for name in names if any(word in name.lower() for word in LESION_WORDS))


def _tracks(points: Sequence[TimePoint], label: str, value: int, alignment: Alignment) -> list[Track]:
    found = [doubted(found_in(point.mask, at, value=value), point.likely.get(label)) for at, point in enumerate(points)]
    return matched(found, alignment.carried)


def _lesion(label: str, track: Track, years: Sequence[float], repeatability: float) -> LesionHistory:
    times, steps = range(len(years)), list(pairwise(range(len(years))))
    seen = [
        None if at in track.unseen else amount_of(pieces, repeatability=repeatability)
        for at, pieces in enumerate(track.lesions)
    ]
    between = ((seen[a], seen[b], years[b] - years[a]) for a, b in steps)
    centres = [np.concatenate([piece.points for piece in pieces]).mean(axis=0) if pieces else None for pieces in track.lesions]
    first = next(at for at in times if track.lesions[at])
    return LesionHistory(
        track.number,
        label,
        (first, track.lesions[first][0].number),
        tuple(None if centre is None else tuple(float(round(mm, 2)) for mm in centre) for centre in centres),
        tuple(seen),
        tuple(longest_of(track, at) for at in times),
        tuple(fate_of(track, a, b, repeatability=repeatability) for a, b in steps),
        tuple(change_between(before, after, time) if before and after else None for before, after, time in between),
        trend_of(years, seen),
    )


def _structure(points: Sequence[TimePoint], label: str, value: int, alignment: Alignment, how: Tracking) -> StructureHistory:
    found = [found_in(point.mask, at, value=value, least_mm3=0.0) for at, point in enumerate(points)]
    missing = tuple(cut_off(found, alignment.carried))
    amounts = [amount_of(one.lesions, repeatability=how.repeatability) for one in found]
    years = [years_between(points[0], point) for point in points]
    scale = alignment.scale if how.scale else lambda first, second: 1.0
    steps = list(pairwise(range(len(points))))
    scales = tuple(scale(a, b) for a, b in steps)
    changes = (
        None if {a, b} & set(missing) else structure_change(amounts[a], amounts[b], factor, years[b] - years[a])
        for (a, b), factor in zip(steps, scales, strict=True)
    )
    scaled = [None if at in missing else amount.scaled(1 / scale(0, at)) for at, amount in enumerate(amounts)]
    return StructureHistory(label, tuple(amounts), missing, tuple(changes), scales, trend_of(years, scaled))
