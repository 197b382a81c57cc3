"""A history as files: JSON and CSV, and for each DICOM series a Structured Report that says which lesion is which."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from medray.errors import InputError
from medray.formats.dicom_codes import RESPONSES
from medray.formats.dicom_results import Finding, Measurement, tracking_uid, write_report
from medray.progression.change import Amount
from medray.progression.history import History, LesionHistory
from medray.progression.visit import TimePoint
from medray.storage.location import Location

__all__ = ["plain_history", "structured_report", "write_history"]

HEAD = (
    "label", "lesion", "time_point", "years", "volume_mm3", "deviation_mm3", "longest_mm", "perpendicular_mm", "fate",
    "change_percent", "rate_per_year", "uid",
)  # fmt: skip
STRUCTURES_HEAD = ("label", "time_point", "years", "volume_mm3", "deviation_mm3", "change_percent", "change_low", "change_high")


def write_history(target: Location, history: History, points: Sequence[TimePoint], model: str) -> None:
    """Write ``history.json``, ``lesions.csv``, ``structures.csv`` and, for each time point of a DICOM series, ``report-N.dcm``.

    Args:
        target: The folder.
        history: What is told.
        points: Its time points, the earliest first.
        model: ``name/version`` of what made the masks.
    """
    target.join("history.json").write(json.dumps(plain_history(history, points), indent=1).encode())
    target.join("lesions.csv").write(_table(history, [uid_of(one, points) for one in history.lesions]).encode())
    target.join("structures.csv").write(_structures(history).encode())
    for at, point in enumerate(points):
        if point.series is not None:
            target.join(f"report-{at + 1}.dcm").write(structured_report(history, points, at, model))


def plain_history(history: History, points: Sequence[TimePoint]) -> dict[str, Any]:
    """Return what JSON can hold of a history, with each lesion's tracking UID."""
    plain = history.plain()
    plain["lesions"] = [
        {**said, "uid": uid_of(one, points)} for said, one in zip(plain["lesions"], history.lesions, strict=True)
    ]
    return plain


def uid_of(lesion: LesionHistory, points: Sequence[TimePoint]) -> str:
    """Return the tracking UID of a lesion: it follows from where it was first seen, so that later studies don't change it."""
    at, number = lesion.origin
    return tracking_uid(points[at].identity, lesion.label, str(number))


def structured_report(history: History, points: Sequence[TimePoint], at: int, model: str) -> bytes:
    """Write what is known of one time point as a DICOM Structured Report by TID 1500.

    Lesions have the tracking UIDs that they have in the reports of other time points (TID 1501).

    Args:
        history: Of the patient.
        points: Its time points, the earliest first.
        at: Which of them; it has to be a DICOM series.
        model: ``name/version`` of what made the masks.

    Raises:
        InputError: If it is none, or can't be referred to.
    """
    source = points[at].series
    if source is None:
        raise InputError(f"{points[at].name} is no DICOM series, which a report could be about: ask for JSON")
    findings = [
        Finding(one.label, f"{one.label} {one.number}", _measured(one, at), uid_of(one, points))
        for one in history.lesions
        if one.amounts[at] is not None and (one.diameters[at] is not None or at > one.origin[0])
    ]
    findings += [
        Finding(one.label, one.label, [Measurement("volume", one.amounts[at].mm3 / 1000, "ml")]) for one in history.structures
    ]
    response = history.responses[at]
    if response.sum_mm or response.category:
        category = response.category if response.category in RESPONSES else ""
        sums = [Measurement("sum of diameters", response.sum_mm, "mm")]
        findings.append(Finding("Target lesions", "Target lesions", sums, response=category or ""))
    return write_report(findings, source, model)


def _measured(lesion: LesionHistory, at: int) -> list[Measurement]:
    amount, diameters = lesion.amounts[at], lesion.diameters[at]
    found = [Measurement("volume", amount.mm3 / 1000, "ml")] if amount else []
    if diameters:
        found += [Measurement("long axis", diameters.longest_mm, "mm")]
        found += [Measurement("short axis", diameters.perpendicular_mm, "mm")]
    change = lesion.changes[at - 1] if at else None
    if change and change.percent is not None:
        found.append(Measurement("volume change", change.percent, "%"))
    return found


def _table(history: History, uids: Sequence[str]) -> str:
    rows = []
    for lesion, uid in zip(history.lesions, uids, strict=True):
        for at, (amount, diameters) in enumerate(zip(lesion.amounts, lesion.diameters, strict=True)):
            lengths = [round(diameters.longest_mm, 2), round(diameters.perpendicular_mm, 2)] if diameters else ["", ""]
            change = lesion.changes[at - 1] if at else None
            fate = lesion.fates[at - 1] if at else ""
            growth = [_rounded(change.percent), _rounded(change.rate_per_year)] if change else ["", ""]
            rows.append([lesion.label, lesion.number, *_when(history, at), *_volume(amount), *lengths, fate, *growth, uid])
    return _csv(HEAD, rows)


def _structures(history: History) -> str:
    rows = []
    for one in history.structures:
        for at, amount in enumerate(one.amounts):
            change = one.changes[at - 1] if at else None
            changes = [change.percent, *(change.interval_percent or (None, None))] if change else [None] * 3
            rows.append([one.label, *_when(history, at), *_volume(amount), *map(_rounded, changes)])
    return _csv(STRUCTURES_HEAD, rows)


def _when(history: History, at: int) -> list[float]:
    return [at + 1, round(history.years[at], 4)]


def _volume(amount: Amount | None) -> list[float | str]:
    return [round(amount.mm3, 2), round(amount.deviation_mm3, 2)] if amount else ["", ""]


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _csv(head: Sequence[str], rows: Iterable[Sequence[float | str]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    return text.getvalue()
