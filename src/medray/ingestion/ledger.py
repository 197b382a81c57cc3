"""What was done already: finished work outlives the process that did it, so that a rerun does none of it twice.

::

    ROOT/ledger/scan-<hash>.json.gz    what a chunk of files is, de-identified: kept for every later run
    ROOT/ledger/done-<key>.json        what became of one series; folded into the manifest by the next commit, then deleted
    ROOT/ledger/pulled-<hash>.json     how many objects of which series were fetched from a PACS and taken in or refused

A worker writes a series' entry last, after its shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter

from medray.cohort.cohort import Cohort
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.errors import NotFoundError
from medray.storage.location import Location

__all__ = [
    "PASSING",
    "Outcome",
    "committed",
    "forget",
    "note",
    "note_pulled",
    "pending",
    "pulled",
    "recall",
    "redo",
    "to_redo",
]

PASSING = ("forbidden", "unreadable")
"""Reasons that may have gone by the next run: such work is done again."""
REDO = "redo.json"
DONE, PULLED, SUFFIX = "done-", "pulled-", ".json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one series: a row or none, and what was quarantined."""

    row: SeriesRow | None
    quarantine: tuple[QuarantineRow, ...]


_outcome = TypeAdapter(Outcome)


def note(root: Location, key: str, outcome: Outcome) -> None:
    """Write down that a piece of work is finished."""
    root.join("ledger", f"{DONE}{key}{SUFFIX}").write(json.dumps(_outcome.dump_python(outcome, mode="json")).encode())


def pending(root: Location) -> dict[str, Outcome]:
    """Return what was finished and not yet committed, by key."""
    keys = [name.removeprefix(DONE).removesuffix(SUFFIX) for name in _names(root, DONE)]
    found = {key: recall(root, key) for key in keys}
    return {key: outcome for key, outcome in found.items() if outcome is not None}


def recall(root: Location, key: str) -> Outcome | None:
    """Return what became of a piece of work; None when it isn't finished, or was noted by another version."""
    try:
        outcome = _outcome.validate_json(root.join("ledger", f"{DONE}{key}{SUFFIX}").read())
    except (NotFoundError, ValueError):
        return None
    return None if _passing(outcome.quarantine) else outcome


def committed(cohort: Cohort | None) -> dict[str, Outcome]:
    """Return what a cohort's current version holds, by key."""
    if cohort is None:
        return {}
    rows: Mapping[str, SeriesRow] = {row.intake: row for row in cohort.rows}
    refused: dict[str, list[QuarantineRow]] = {}
    for row in cohort.quarantine:
        if row.intake:
            refused.setdefault(row.intake, []).append(row)
    passing = {key for key, found in refused.items() if _passing(found)}
    return {key: Outcome(rows.get(key), tuple(refused.get(key, ()))) for key in {*rows, *refused} - passing}


def redo(root: Location, keys: Iterable[str]) -> None:
    """Note that work must be done again though a cohort holds its result: its shards were damaged."""
    root.join("ledger", REDO).write(json.dumps(sorted({*keys, *to_redo(root)})).encode())


def to_redo(root: Location) -> set[str]:
    """Return what `redo` noted."""
    try:
        return set(json.loads(root.join("ledger", REDO).read()))
    except (NotFoundError, ValueError):
        return set()


def note_pulled(root: Location, abilities: str, series: Mapping[str, tuple[int, int]]) -> None:
    """Note how many objects of each series a PACS gave, and how many rows the cohort has of it; and who looked at them."""
    data = json.dumps({"abilities": abilities, "series": dict(sorted(series.items()))}).encode()
    root.join("ledger", f"{PULLED}{hashlib.sha256(data).hexdigest()[:32]}{SUFFIX}").write(data)


def pulled(root: Location, abilities: str) -> dict[str, tuple[int, int]]:
    """Return what `note_pulled` noted for the same abilities, the most of each series."""
    found: dict[str, tuple[int, int]] = {}
    notes = [json.loads(root.join("ledger", name).read()) for name in _names(root, PULLED)]
    for noted in (note["series"] for note in notes if note["abilities"] == abilities):
        for series, count in noted.items():
            found[series] = max(tuple(count), found.get(series, (0, 0)))
    return found


def forget(root: Location, keys: Iterable[str], cohort: Cohort) -> None:
    """Delete entries that a commit has folded in, and what `redo` noted of readings that it holds no more."""
    held = committed(cohort).keys()
    gone = held & set(keys)
    for key in gone:
        root.join("ledger", f"{DONE}{key}{SUFFIX}").remove()
    again = to_redo(root)
    left = (again - gone) & held
    if left == again:
        return
    noted = root.join("ledger", REDO)
    noted.write(json.dumps(sorted(left)).encode()) if left else noted.remove()


def _passing(refused: Iterable[QuarantineRow]) -> bool:
    return any(row.reason in PASSING for row in refused)


def _names(root: Location, prefix: str) -> list[str]:
    try:
        return [entry.name for entry in root.join("ledger").entries() if entry.name.startswith(prefix)]
    except NotFoundError:
        return []
