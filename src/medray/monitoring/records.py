"""Prediction records on the store: Parquet, a folder for each model and day, which is read or deleted as a whole.

::

    ROOT/NAME/day=2026-11-28/part-<name>.parquet
    ROOT/_erased/<name>.json        see `medray.monitoring.suppression`
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.parquet import parquet_table
from medray.errors import InputError, NotFoundError
from medray.monitoring.record import PredictionRecord, records_of, table_of
from medray.monitoring.suppression import ERASED, Suppressed, read_suppressed, suppress
from medray.storage.location import Entry, Location, locate

__all__ = [
    "days_of",
    "erase_subject",
    "find_record",
    "join_days",
    "last_records",
    "models_of",
    "purge_records",
    "read_records",
    "records_root",
    "rewrite",
    "write_records",
]

DAY = "day="
ENOUGH = 2
"""Times as many records are read as are wanted: files of several replicas are not in order."""
MOST_FILES = 64
"""Of a day; more are joined to one when the day is over."""


def records_root(uri: str = "") -> Location:
    """Return where records are; below ``MEDRAY_HOME`` by default."""
    return locate(uri or config.home() / "records")


def write_records(root: Location, records: Sequence[PredictionRecord], *, name: str) -> None:
    """Write records, a file for each model and day, but those of patients who were erased since.

    Args:
        root: Of all records.
        records: In any order.
        name: Of the files; writing the same once more replaces them.

    Raises:
        StorageError: If the store can't be written.
    """
    gone = read_suppressed(root)
    days: dict[tuple[str, date], list[PredictionRecord]] = defaultdict(list)
    for record in _left(records, gone):
        days[record.model, record.at.date()].append(record)
    for (model, day), found in days.items():
        _write(_folder(root, model, day).join(f"part-{name}.parquet"), sorted(found, key=lambda record: record.at))
    if read_suppressed(root) != gone:  # somebody was erased meanwhile, who may not have seen these files
        for model, day in days:
            rewrite(root, model, day)


def read_records(
    root: Location, model: str, *, since: datetime | None = None, until: datetime | None = None
) -> list[PredictionRecord]:
    """Return a model's records of a time, the oldest first; each once.

    Args:
        root: Of all records.
        model: Its name.
        since: Not before this; from the first by default.
        until: Before this; to the last by default.
    """
    begin, end = since or datetime.min.replace(tzinfo=UTC), until or datetime.max.replace(tzinfo=UTC)
    days = [one for one in days_of(root, model) if begin.date() <= one <= end.date()]
    found = {record.id: record for one in days for record in _read_day(_folder(root, model, one))}
    return sorted((one for one in found.values() if begin <= one.at < end), key=lambda record: record.at)


def last_records(
    root: Location,
    model: str,
    count: int,
    wanted: Callable[[PredictionRecord], bool] = lambda record: True,
    *,
    since: date = date.min,
) -> list[PredictionRecord]:
    """Return a model's last records of some kind, the oldest first, and read no more files than that takes.

    Args:
        root: Of all records.
        model: Its name.
        count: How many, or all where there are fewer.
        wanted: Tells which count.
        since: No older day is looked at.
    """
    found: dict[str, PredictionRecord] = {}
    for day in reversed([day for day in days_of(root, model) if day >= since]):
        folder = _folder(root, model, day)
        for entry in sorted(_entries(folder), key=lambda entry: -entry.modified_ns):
            found |= {record.id: record for record in _read_file(folder.join(entry.name)) if wanted(record)}
            if len(found) >= ENOUGH * count:
                break
        if len(found) >= count:
            break
    return sorted(found.values(), key=lambda record: record.at)[-count:]


def find_record(root: Location, id_: str) -> PredictionRecord:
    """Return one record.

    Raises:
        NotFoundError: If there is none of that id; one of the last minute may be on its way.
    """
    for model in models_of(root):
        for day in reversed(days_of(root, model)):
            for record in _read_day(_folder(root, model, day), only=id_):
                return record
    raise NotFoundError(f"no prediction {id_[:64]!r} is on record at {root.path}: the last minute's may be on their way")


def models_of(root: Location) -> list[str]:
    """Return the names of the models that have records."""
    return sorted({entry.name.partition("/")[0] for entry in _entries(root)} - {ERASED})


def days_of(root: Location, model: str) -> list[date]:
    """Return the days of which a model has records, in order."""
    days = {entry.name.partition("/")[0] for entry in _entries(root.join(model))}
    return sorted(date.fromisoformat(day.removeprefix(DAY)) for day in days if day.startswith(DAY))


def rewrite(
    root: Location, model: str, day: date, keep: Callable[[PredictionRecord], PredictionRecord | None] = lambda record: record
) -> int:
    """Write a day anew as one file, changed or without some records, and return how many were changed or left out.

    Args:
        root: Of all records.
        model: Its name.
        day: Which; of today somebody may be writing, and what comes meanwhile stays as it is.
        keep: Record to itself, to what it is to be, or to None.
    """
    folder = _folder(root, model, day)
    files = [entry.name for entry in _entries(folder)]
    records = {record.id: record for name in files for record in _read_file(folder.join(name))}
    gone = read_suppressed(root)
    kept = {id_: keep(record) if _left([record], gone) else None for id_, record in records.items()}
    changed = sum(kept[id_] is not record for id_, record in records.items())
    if not changed and len(files) <= 1:
        return 0
    left = sorted((record for record in kept.values() if record is not None), key=lambda record: record.at)
    name = f"part-{hashlib.sha256(''.join(record.id for record in left).encode()).hexdigest()[:24]}.parquet"
    if left:
        _write(folder.join(name), left)
    for old in files:
        if old != name or not left:
            folder.join(old).remove()
    return changed if read_suppressed(root) == gone else changed + rewrite(root, model, day)


def join_days(root: Location) -> int:
    """Join each past day's files, where they are many, and return how many days that were."""
    today, joined = datetime.now(UTC).date(), 0
    for model in models_of(root):
        for day in days_of(root, model):
            if day < today - timedelta(days=1) and len(_entries(_folder(root, model, day))) > MOST_FILES:
                rewrite(root, model, day)
                joined += 1
    return joined


def purge_records(root: Location, before: date) -> int:
    """Delete days before one, and return how many that were; the audit trail says so."""
    gone = [(model, day) for model in models_of(root) for day in days_of(root, model) if day < before]
    if gone:
        open_trail().record([Event("records.purge", root.path, detail=f"{len(gone)} days before {before.isoformat()}")])
    for model, day in gone:
        folder = _folder(root, model, day)
        for entry in _entries(folder):
            folder.join(entry.name).remove()
    return len(gone)


def erase_subject(root: Location, *subjects: str, series: Collection[str] = ()) -> int:
    """Delete one patient's records, by their pseudonyms or those of their series, and return how many that were.

    Those that are still on their way from a node are left out when they arrive.
    """
    theirs = suppress(root, datetime.now(UTC), subjects, series)

    def keep(record: PredictionRecord) -> PredictionRecord | None:
        return None if theirs.has(record) else record

    return sum(rewrite(root, model, day, keep) for model in models_of(root) for day in days_of(root, model))


def _left(records: Iterable[PredictionRecord], gone: Sequence[Suppressed]) -> list[PredictionRecord]:
    return [record for record in records if not any(one.covers(record) for one in gone)]


def _folder(root: Location, model: str, day: date) -> Location:
    return root.join(model, f"{DAY}{day.isoformat()}")


def _entries(folder: Location) -> list[Entry]:
    try:
        return folder.entries()
    except NotFoundError:
        return []


def _write(file: Location, records: Sequence[PredictionRecord]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table_of(records), sink, compression="zstd")
    file.write(sink.getvalue().to_pybytes())


def _read_day(folder: Location, *, only: str = "") -> Iterator[PredictionRecord]:
    for entry in _entries(folder):
        yield from _read_file(folder.join(entry.name), only=only)


def _read_file(file: Location, *, only: str = "") -> list[PredictionRecord]:
    try:
        table = parquet_table(file.read())
    except NotFoundError:  # joined with others meanwhile
        return []
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.path} is no table of records ({type(error).__name__}): move it elsewhere") from None
    if only:
        table = table.filter(pc.equal(table["id"], only))
    return records_of(table)
