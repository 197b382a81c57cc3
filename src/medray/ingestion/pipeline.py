"""`ingest`: the Ray Data graph from a folder to a cohort.

Two passes: heads of files, then series. Voxels never travel between tasks: each task writes its own shards and returns a
manifest row, so that memory is one volume a worker however many there are. What an earlier run has finished is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from medray import __version__
from medray.audit import Event, Trail, open_trail
from medray.cohort.cohort import Cohort
from medray.cohort.commit import commit_cohort
from medray.engine import stream
from medray.errors import InputError
from medray.ingestion.assemble import SeriesSource, assemble
from medray.ingestion.intake import Intake
from medray.ingestion.layouts import LABEL_FILES, Layout, read_layout
from medray.ingestion.ledger import Outcome, committed, forget, pending, to_redo
from medray.ingestion.merge import beside, current, merged
from medray.ingestion.read import crashed, take_in
from medray.ingestion.scan import FileRecord, chunks, scan_chunk
from medray.pacs.remote import is_pacs
from medray.privacy.faces import require_atlas
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import naming
from medray.storage.location import Entry, locate

__all__ = ["ingest", "resolve_quarantine"]

EVENTS_AT_ONCE = 64

Progress = Callable[[str, int, int], None]


def ingest(
    source: str | Path,
    root: str | Path,
    *,
    profile: str = "basic",
    labels: str = LABEL_FILES,
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
    names = naming(chosen, site=site)

    def take(folder: str | Path) -> Cohort:
        place = locate(folder)
        entries = place.entries()
        layout = read_layout(place, [entry.name for entry in entries], labels)
        return _take_folder(Intake(place, locate(root), names, chosen, layout.labels), layout, entries, on_progress)

    if is_pacs(str(source)):
        from medray.ingestion.pacs import pull  # noqa: PLC0415 - a DICOM network and a web server that a folder doesn't need

        return pull(str(source), str(root), take, names, on_progress)
    return take(source)


def _take_folder(intake: Intake, layout: Layout, entries: Sequence[Entry], on_progress: Progress) -> Cohort:
    """Take in what a listing names: scan, assemble, read, merge, commit."""
    trail, key_check = open_trail(), replace(intake, naming=naming(intake.profile)).key_check
    lineage = {"profile": str(intake.profile), "key_check": key_check, "medray": __version__}
    old = current(intake, lineage).cohort
    intake.root.sweep()
    source = intake.naming.name("source", intake.source.path)
    trail.record([Event("ingest.start", source, detail=f"{len(entries)} files, profile {intake.profile}")])
    records = list(_scan(intake, entries, on_progress))
    series, problems = assemble(records, layout, intake.naming)
    if not series and not problems:
        raise InputError(f"no image among {len(entries)} files in the source: is it the right folder?")
    outcomes = _finish(intake, series, old, trail, on_progress)
    base = current(intake, lineage)  # another run may have committed meanwhile
    contents = merged(base.cohort, intake, series, outcomes, problems)
    lineage["audit"] = trail.head()
    cohort = commit_cohort(intake.root, contents, lineage, base=base, join=partial(beside, intake, lineage))
    trail.record([Event("cohort.commit", cohort.index.id, detail=f"{len(cohort.rows)} series")])
    forget(intake.root, outcomes.keys(), cohort)
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
