"""`ingest`: the Ray Data graph from a folder to a cohort.

Two light passes: heads of files, then series. Voxels never travel between tasks: each task writes its own shards and
returns a manifest row, so that memory is one volume a worker however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from medray import __version__
from medray.cohort.cohort import Cohort, Contents, commit_cohort, open_cohort
from medray.engine import stream
from medray.errors import ConfigError, InputError, NotFoundError
from medray.ingestion.read import Intake, Outcome, quarantine_row, take_in
from medray.ingestion.scan import FileRecord, Problem, SeriesSource, assemble, identify, read_label_schema
from medray.privacy.pseudonym import naming
from medray.storage.location import Location, locate

__all__ = ["DEFAULT_LABELS", "ingest", "resolve_quarantine"]

DEFAULT_LABELS = "*_dseg.nii*"
FILES_PER_TASK = 256
KEY_CHECK = "medray key check"

Progress = Callable[[str, int, int], None]


def ingest(
    source: str | Path,
    root: str | Path,
    *,
    profile: str = "basic",
    labels: str = DEFAULT_LABELS,
    on_progress: Progress = lambda stage, done, total: None,
) -> Cohort:
    """Take a folder of NIfTI and DICOM files into a cohort.

    What is in the cohort already stays: the result is a new version that holds both.

    Args:
        source: A folder, a path or a URI.
        root: The cohort's folder, a path or a URI.
        profile: ``"basic"``: pseudonyms keyed by ``MEDRAY_KEY`` or ``MEDRAY_KEY_FILE``; ``"none"``: identifiers kept.
        labels: Glob of the names of NIfTI files that are label maps.
        on_progress: Called with ``("scan" | "read", done, total)``.

    Returns:
        The committed cohort; `Cohort.quarantine` tells what was refused.

    Raises:
        NotFoundError: If the source isn't there.
        InputError: If it holds no image at all, or label values mean something else than in the cohort so far.
        ConfigError: If the profile is unknown or its key is missing.
    """
    place, target, names = locate(source), locate(root), naming(profile)
    files = [path for path, _ in place.files()]
    records = list(_scan(place, files, on_progress))
    series, problems = assemble(records, labels)
    if not series and not problems:
        raise InputError(f"no NIfTI or DICOM file among {len(files)} files in {place.path}: is it the right folder?")
    intake = Intake(place, target, read_label_schema(place), names)
    old = _current(intake)
    lineage = {"profile": profile, "key_check": names.name("source", KEY_CHECK), "medray": __version__}
    if old is not None:
        _require_same_naming(old, lineage)
        lineage["parent"] = old.index.id
    outcomes = list(_read(intake, series, on_progress))
    contents = _merged(old, intake, series, outcomes, problems)
    return commit_cohort(target, contents, lineage)


def resolve_quarantine(cohort: Cohort, source: str | Path) -> dict[str, str]:
    """Find the files behind a cohort's quarantine rows, for whoever holds the source and the key.

    Returns:
        Row source to path, for those that are in ``source``.
    """
    names = naming(cohort.index.lineage.get("profile", "basic"))
    wanted = {row.source for row in cohort.quarantine}
    found = {names.name("source", path): path for path, _ in locate(source).files()}
    return {name: path for name, path in found.items() if name in wanted}


def _scan(place: Location, files: Sequence[str], on_progress: Progress) -> Iterator[FileRecord]:
    chunks = [list(files[start : start + FILES_PER_TASK]) for start in range(0, len(files), FILES_PER_TASK)]
    done = 0
    for records in stream(chunks, lambda chunk: [identify(place, path) for path in chunk]):
        done += len(records)
        on_progress("scan", done, len(files))
        yield from records


def _read(intake: Intake, series: Sequence[SeriesSource], on_progress: Progress) -> Iterator[Outcome]:
    for done, outcome in enumerate(stream(series, lambda item: take_in(intake, item)), start=1):
        on_progress("read", done, len(series))
        yield outcome


def _current(intake: Intake) -> Cohort | None:
    try:
        return open_cohort(intake.root)
    except NotFoundError:
        return None


def _require_same_naming(old: Cohort, lineage: Mapping[str, str]) -> None:
    """Refuse another profile or key: the same patient would be in the cohort under two names, on two sides of a split."""
    for key, what in (("profile", "profile"), ("key_check", "pseudonym key")):
        if old.index.lineage.get(key, lineage[key]) != lineage[key]:
            raise ConfigError(f"{old.root.path} was made with another {what}: use the same one, or another cohort folder")


def _merged(
    old: Cohort | None,
    intake: Intake,
    series: Sequence[SeriesSource],
    outcomes: Sequence[Outcome],
    problems: Sequence[Problem],
) -> Contents:
    """Join what the cohort holds with what came in.

    Raises:
        InputError: If a series is there with other content: two sources that use the same identifiers for different
            people must not become one.
    """
    rows = {outcome.row.series: outcome.row for outcome in outcomes if outcome.row is not None}
    refused = [row for outcome in outcomes for row in outcome.quarantine]
    refused += [quarantine_row(intake.naming, problem) for problem in problems]
    schema = intake.schema
    if old is None:
        return Contents(tuple(rows.values()), tuple(refused), schema)
    if schema is not None and old.index.labels is not None and schema.names != old.index.labels.names:
        raise InputError(f"the source's labels {dict(schema.names)} are not the cohort's {dict(old.index.labels.names)}")
    changed = [row.series for row in old.rows if row.series in rows and rows[row.series].volume != row.volume]
    if changed:
        raise InputError(
            f"series {changed[0]} (and {len(changed) - 1} more) is in the cohort with other voxels: "
            "ingest sources that share identifiers into cohorts of their own"
        )
    kept = {row.series: row for row in old.rows if row.series not in rows}
    fresh = {row.source for row in refused}
    read = {intake.naming.name("source", path) for item in series for path in (*item.files, item.label)}
    refused += [row for row in old.quarantine if row.source not in fresh | read]
    return Contents((*kept.values(), *rows.values()), tuple(refused), schema or old.index.labels)
