"""What a cohort holds and what came in become one: nothing good is lost to a worse reading, or to a run beside this one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from medray.cohort.cohort import Cohort
from medray.cohort.commit import Base, Contents, base_of, joined
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.cohort.order import in_order
from medray.errors import ConfigError, InputError
from medray.ingestion.assemble import Problem, SeriesSource, same_plane
from medray.ingestion.intake import Intake
from medray.ingestion.ledger import Outcome
from medray.ingestion.read import quarantine_row
from medray.privacy.pseudonym import Naming

__all__ = ["beside", "current", "merged", "numbered"]


def current(intake: Intake, lineage: Mapping[str, str]) -> Base:
    """Open the current version, to build on it.

    Raises:
        ConfigError: If it was made with another profile or key: the same patient would be in the cohort under two names, on two
            sides of a split.
        InputError: If its labels mean something else.
    """
    base = base_of(intake.root)
    if base.cohort is not None:
        _require_same(base.cohort, intake, lineage)
    return base


def merged(
    old: Cohort | None,
    intake: Intake,
    series: Sequence[SeriesSource],
    outcomes: Mapping[str, Outcome],
    problems: Sequence[Problem],
) -> Contents:
    """Join what the cohort holds with what came in.

    A DICOM series that came again with more slices replaces what was read of it: its UID says that it is the same one.

    Raises:
        InputError: If a file that is named like one in the cohort has other content: two sources that use the same names for
            different people must not become one.
    """
    rows = {outcome.row.series: outcome.row for outcome in outcomes.values() if outcome.row is not None}
    refused = [row for outcome in outcomes.values() for row in outcome.quarantine]
    refused += [quarantine_row(intake, problem) for problem in problems]
    held = {row.series: row for row in old.rows} if old else {}
    rows = {row.series: row for row in _named_as_held(held, rows)}
    _require_unchanged(held, rows, series)
    for name in held.keys() & rows.keys():
        new = rows[name]
        rows[name], objection = _better(held[name], new)
        refused += [quarantine_row(intake, problem, new.intake) for problem in objection]
    if old is not None:
        refused += _still_refused(old, intake, series, refused)
    every = numbered([*(held | rows).values()], intake.naming)
    return Contents(tuple(every), tuple(refused), intake.labels or (old.index.labels if old else None))


def beside(intake: Intake, lineage: Mapping[str, str], contents: Contents, other: Cohort, base: Cohort | None) -> Contents:
    """Take in what a run beside this one has committed.

    Raises:
        ConfigError: If that run uses another profile or key.
        InputError: If its labels mean something else.
    """
    _require_same(other, intake, lineage)
    both = joined(contents, other, base)
    return replace(both, rows=tuple(numbered(both.rows, intake.naming)))


def numbered(rows: Sequence[SeriesRow], names: Naming) -> list[SeriesRow]:
    """Number each subject's studies in the order of their dates, over everything that the cohort holds."""
    studies: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        studies[row.subject][row.study] = max(names.unseal(row.when), studies[row.subject].get(row.study, ""))
    order = {subject: sorted(found, key=lambda study: (in_order(found[study]), study)) for subject, found in studies.items()}
    return [replace(row, time_point=order[row.subject].index(row.study)) for row in rows]


def _require_same(old: Cohort, intake: Intake, lineage: Mapping[str, str]) -> None:
    for key, what in (("profile", "profile"), ("key_check", "pseudonym key")):
        if old.index.lineage.get(key, lineage[key]) != lineage[key]:
            raise ConfigError(f"{old.root.path} was made with another {what}: use the same one, or another cohort folder")
    if intake.labels is not None and old.index.labels is not None and intake.labels.names != old.index.labels.names:
        given, had = dict(intake.labels.names), dict(old.index.labels.names)
        raise InputError(f"the source's labels {given} are not the cohort's {had}")


def _require_unchanged(held: Mapping[str, SeriesRow], rows: Mapping[str, SeriesRow], series: Sequence[SeriesSource]) -> None:
    kinds = {item.series: item.kind for item in series}
    shared = [name for name in held.keys() & rows.keys() if kinds.get(name) == "file"]
    changed = sorted(name for name in shared if rows[name].source_hash != held[name].source_hash)
    if changed:
        raise InputError(
            f"series {changed[0]} (and {len(changed) - 1} more) is in the cohort with other voxels: if the sources use the "
            "same names for different people, use --site; if the files were mended, take them into a new cohort"
        )


def _named_as_held(held: Mapping[str, SeriesRow], rows: Mapping[str, SeriesRow]) -> Iterator[SeriesRow]:
    """Give a stack the name that it has in the cohort: with further slices, its plane may lie a hair off."""
    free: dict[str, list[SeriesRow]] = defaultdict(list)
    for row in held.values():
        if row.plane and row.series not in rows:
            free[row.origin].append(row)
    for row in rows.values():
        same = (
            [other for other in free[row.origin] if same_plane(row.plane, other.plane)]
            if row.plane and row.series not in held
            else []
        )
        if same:
            free[row.origin].remove(same[0])
        yield replace(row, series=same[0].series) if same else row


def _better(held: SeriesRow, new: SeriesRow) -> tuple[SeriesRow, list[Problem]]:
    """Choose between two readings of one series, and say what speaks against the new one where it isn't taken."""
    if new.instances < held.instances:
        detail = f"{new.instances} objects came and the cohort's were made from {held.instances}: the fuller one stays"
        return held, [Problem(new.series, "partial", detail)]
    if not held.label or new.label:
        return new, []
    if new.volume == held.volume:  # it came again without its label
        return replace(held, intake=new.intake), []
    detail = "the series came with other voxels and without its label, which would be lost: take both in together"
    return held, [Problem(new.series, "unlabelled", detail)]


def _still_refused(
    old: Cohort, intake: Intake, series: Sequence[SeriesSource], refused: Sequence[QuarantineRow]
) -> list[QuarantineRow]:
    """Return the quarantine rows of earlier runs about which this one says nothing new."""
    fresh = {row.source for row in refused}
    paths = {path for item in series for path in (*item.files, *sum(item.copies, ()), *item.labels)}
    read = {intake.naming.name("source", path) for path in paths}
    return [row for row in old.quarantine if row.source not in fresh | read]
