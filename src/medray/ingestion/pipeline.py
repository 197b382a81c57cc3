"""`ingest`: the Ray Data graph from a folder to a cohort.

Two passes: heads of files, then series. Voxels never travel between tasks: each task writes its own shards and returns a
manifest row, so that memory is one volume a worker however many there are. What an earlier run has finished is not done again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medray import __version__
from medray.audit import Event, Trail, open_trail
from medray.cohort.cohort import Cohort, Contents, commit_cohort, open_cohort
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.engine import stream
from medray.errors import ConfigError, InputError, NotFoundError
from medray.ingestion.assemble import Problem, SeriesSource, assemble
from medray.ingestion.intake import Intake
from medray.ingestion.layouts import read_layout
from medray.ingestion.ledger import Outcome, committed, forget, pending, to_redo
from medray.ingestion.pacs import is_pacs, pull
from medray.ingestion.read import crashed, quarantine_row, take_in
from medray.ingestion.scan import FileRecord, chunks, scan_chunk
from medray.privacy.faces import require_atlas
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Naming, naming
from medray.storage.location import Entry, locate

__all__ = ["DEFAULT_LABELS", "ingest", "resolve_quarantine"]

DEFAULT_LABELS = "*_dseg.nii*"
EVENTS_AT_ONCE = 64

Progress = Callable[[str, int, int], None]


def ingest(
    source: str | Path,
    root: str | Path,
    *,
    profile: str = "basic",
    labels: str = DEFAULT_LABELS,
    site: str = "",
    on_progress: Progress = lambda stage, done, total: None,
) -> Cohort:
    """Take a folder of scans, or what a PACS has, into a cohort.

    What is in the cohort already stays: the result is a new version that holds both. A run that was killed is finished by the
    same call; nothing that was done is done again.

    Args:
        source: A folder, a path or a URI; or a PACS, as ``dicomweb://host/path?PatientID=…`` or ``dimse://AET@host:port/?StudyDate=…``.
        root: The cohort's folder, a path or a URI.
        profile: ``"basic"``: PS3.15's Basic Profile, with options as in ``"basic+dates+patient"``; needs ``MEDRAY_KEY`` or
            ``MEDRAY_KEY_FILE``. ``"none"``: identifiers kept.
        labels: Glob of the names of files that are label maps.
        site: Tells apart sources that use the same identifiers for different people.
        on_progress: Called with ``("pull" | "scan" | "read", done, total)``.

    Returns:
        The committed cohort; `Cohort.quarantine` tells what was refused.

    Raises:
        NotFoundError: If the source isn't there.
        InputError: If it holds no image at all, or label values mean something else than in the cohort so far.
        ConfigError: If the profile is unknown, its key is missing, or the cohort was made with others.
        StorageError: If the source or the cohort can't be reached; what was done so far is kept.
    """
    chosen = parse_profile(profile)
    if "faces" in chosen.options:
        require_atlas()
    if is_pacs(str(source)):

        def take(folder: Path) -> Cohort:
            return ingest(folder, root, profile=profile, labels=labels, site=site, on_progress=on_progress)

        return pull(str(source), str(root), take, naming(chosen, site=site), on_progress)
    place, target, names = locate(source), locate(root), naming(chosen, site=site)
    entries, trail = place.entries(), open_trail()
    layout = read_layout(place, [entry.name for entry in entries], labels)
    intake = Intake(place, target, names, chosen, layout.labels)
    old = _current(intake)
    lineage = {"profile": str(chosen), "key_check": replace(intake, naming=naming(chosen)).key_check, "medray": __version__}
    if old is not None:
        _require_same(old, intake, lineage)
    target.sweep()
    trail.record([Event("ingest.start", names.name("source", str(source)), detail=f"{len(entries)} files, profile {chosen}")])
    records = list(_scan(intake, entries, on_progress))
    series, problems = assemble(records, layout, names)
    if not series and not problems:
        raise InputError(f"no image among {len(entries)} files in the source: is it the right folder?")
    outcomes = _finish(intake, series, old, trail, on_progress)
    with target.locked():
        old = _current(intake)  # another run may have committed meanwhile
        if old is not None:
            _require_same(old, intake, lineage)
            lineage["parent"] = old.index.id
        contents = _merged(old, intake, series, outcomes, problems)
        lineage["audit"] = trail.head()
        cohort = commit_cohort(target, contents, lineage)
    trail.record([Event("cohort.commit", cohort.index.id, detail=f"{len(cohort.rows)} series")])
    forget(target, outcomes.keys() & committed(cohort).keys())  # a version that was there already keeps its old manifest
    return cohort


def resolve_quarantine(cohort: Cohort, source: str | Path, *, site: str = "") -> dict[str, str]:
    """Find the files behind a cohort's quarantine rows, for whoever holds the source and the key.

    Returns:
        Row source to path, for those that are in ``source``.
    """
    names = naming(parse_profile(cohort.index.lineage.get("profile", "basic")), site=site)
    wanted = {row.source for row in cohort.quarantine}
    found = {names.name("source", entry.name): entry.name for entry in locate(source).entries()}
    return {name: path for name, path in found.items() if name in wanted}


def numbered(rows: Sequence[SeriesRow], names: Naming) -> list[SeriesRow]:
    """Number each subject's studies in the order of their dates, over everything that the cohort holds."""
    studies: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        studies[row.subject][row.study] = max(names.unseal(row.when), studies[row.subject].get(row.study, ""))
    order = {subject: sorted(found, key=lambda study: (found[study], study)) for subject, found in studies.items()}
    return [replace(row, time_point=order[row.subject].index(row.study)) for row in rows]


def _scan(intake: Intake, entries: Sequence[Entry], on_progress: Progress) -> Iterator[FileRecord]:
    done = 0
    for records in stream(chunks(entries), lambda chunk: scan_chunk(intake, chunk)):
        done += len(records)
        on_progress("scan", done, len(entries))
        yield from records


def _finish(
    intake: Intake, series: Sequence[SeriesSource], old: Cohort | None, trail: Trail, on_progress: Progress
) -> dict[str, Outcome]:
    """Do what isn't done yet, and return what became of every series, by key."""
    settings = intake.settings
    wanted = {item.key(settings): item for item in series}
    known, left, again = committed(old), pending(intake.root), to_redo(intake.root)
    outcomes = {key: known[key] for key in wanted if key in known and key not in again}
    recovered = {key: left[key] for key in wanted if key in left and key not in known}
    trail.record(_event(wanted[key], outcome, "ingest.recover") for key, outcome in recovered.items())
    outcomes |= recovered
    work = [item for key, item in wanted.items() if key not in outcomes]
    events: list[Event] = []

    def do(item: SeriesSource) -> tuple[str, Outcome]:
        return item.key(settings), take_in(intake, item)

    def give_up(item: SeriesSource) -> tuple[str, Outcome]:
        return item.key(settings), crashed(intake, item)

    for key, outcome in stream(work, do, on_crash=give_up):
        outcomes[key] = outcome
        events.append(_event(wanted[key], outcome, "ingest.read"))
        on_progress("read", len(outcomes), len(series))
        if len(events) >= EVENTS_AT_ONCE:
            trail.record(events)
            events.clear()
    trail.record(events)
    return outcomes


def _event(item: SeriesSource, outcome: Outcome, action: str) -> Event:
    reasons = sorted({row.reason for row in outcome.quarantine})
    ended = "ok" if outcome.row is not None else reasons[0] if reasons else "refused"
    return Event(action, item.series, ended, ", ".join(reasons))


def _current(intake: Intake) -> Cohort | None:
    try:
        return open_cohort(intake.root)
    except NotFoundError:
        return None


def _require_same(old: Cohort, intake: Intake, lineage: Mapping[str, str]) -> None:
    """Refuse another profile or key: the same patient would be in the cohort under two names, on two sides of a split."""
    for key, what in (("profile", "profile"), ("key_check", "pseudonym key")):
        if old.index.lineage.get(key, lineage[key]) != lineage[key]:
            raise ConfigError(f"{old.root.path} was made with another {what}: use the same one, or another cohort folder")
    if intake.labels is not None and old.index.labels is not None and intake.labels.names != old.index.labels.names:
        given, had = dict(intake.labels.names), dict(old.index.labels.names)
        raise InputError(f"the source's labels {given} are not the cohort's {had}")


def _merged(
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
    kept: list[SeriesRow] = []
    if old is not None:
        kinds = {item.series: item.kind for item in series}
        changed = [
            row.series for row in old.rows if kinds.get(row.series) == "file" and row.series in rows
            and rows[row.series].source_hash != row.source_hash
        ]  # fmt: skip
        if changed:
            raise InputError(
                f"series {changed[0]} (and {len(changed) - 1} more) is in the cohort with other voxels: if the sources use the "
                "same names for different people, use --site; if the files were mended, take them into a new cohort"
            )
        for row in old.rows:
            new = rows.get(row.series)
            if new is not None and new.instances < row.instances:
                detail = f"{new.instances} objects came and the cohort's were made from {row.instances}: the fuller one stays"
                refused.append(quarantine_row(intake, Problem(row.series, "partial", detail), new.intake))
                rows[row.series] = row
            elif (
                new is not None and row.label and not new.label and new.volume == row.volume
            ):  # it came again without its label
                rows[row.series] = replace(row, intake=new.intake)
        kept = [row for row in old.rows if row.series not in rows]
        refused += _still_refused(old, intake, series, refused)
    every = numbered([*kept, *rows.values()], intake.naming)
    return Contents(tuple(every), tuple(refused), intake.labels or (old.index.labels if old else None))


def _still_refused(
    old: Cohort, intake: Intake, series: Sequence[SeriesSource], refused: Sequence[QuarantineRow]
) -> list[QuarantineRow]:
    """Return the quarantine rows of earlier runs about which this one says nothing new."""
    fresh = {row.source for row in refused}
    read = {intake.naming.name("source", path) for item in series for path in (*item.files, *item.labels)}
    return [row for row in old.quarantine if row.source not in fresh | read]
