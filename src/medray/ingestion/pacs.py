"""From a PACS to a cohort: pull what a query matches, or receive what is sent, through a spool that survives a crash."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medray import config
from medray.audit import Event, Trail, open_trail
from medray.cohort.cohort import Cohort, open_cohort
from medray.errors import MedrayError, NotFoundError, StorageError
from medray.formats.dicom_header import DicomHeader
from medray.ingestion.intake import abilities
from medray.ingestion.ledger import PASSING, note_pulled, pulled, to_redo
from medray.pacs.dicomweb import DicomwebPacs
from medray.pacs.dimse import DimsePacs
from medray.pacs.remote import Pacs, RemoteSeries, parse_address
from medray.pacs.scp import Arrival, Listening, StoreScp, Witness
from medray.pacs.spool import Spool
from medray.pacs.stow import StowServer, stow_app
from medray.privacy.pseudonym import Naming

__all__ = ["Receiving", "pull", "receive"]

SERIES_AT_ONCE = 200
"""Series that are pulled before they are taken in and deleted again."""
CHECK_S = 1.0

Ingest = Callable[[Path], Cohort]


def pull(source: str, root: str, ingest: Ingest, naming: Naming, on_progress: Callable[[str, int, int], None]) -> Cohort:
    """Pull what a query matches and isn't in the cohort yet, some series at a time.

    Args:
        source: See `medray.pacs.remote.parse_address`.
        root: The cohort.
        ingest: Takes a folder in.
        naming: Tells which series the cohort holds.
        on_progress: Called with ``("pull", done, total)``.

    Raises:
        StorageError: If the PACS fails, handed out a series in part, or another run pulls the same; what came whole is in the
            cohort then, and nothing else.
        NotFoundError: If nothing matches.
    """
    address, trail = parse_address(source), open_trail()
    pacs: Pacs = DimsePacs(address) if address.scheme.startswith("dimse") else DicomwebPacs(address)
    spool = Spool(config.home() / "spool" / f"pull-{hashlib.sha256(source.encode()).hexdigest()[:16]}")
    pulling, cohort, whole = _Pulling(pacs, spool, naming, trail), None, 0
    with spool.held():
        spool.sweep(arriving=True)
        matching = list(pacs.find())
        trail.record([Event("pacs.query", address.host, detail=f"{len(matching)} series match")])
        held = _held(root)
        wanted = [item for item in matching if not 0 < item.instances <= held.get(naming.name("series", item.series), 0)]
        for start in range(0, len(wanted), SERIES_AT_ONCE):
            some = []
            for number, item in enumerate(wanted[start : start + SERIES_AT_ONCE], start=start + 1):
                some += [item] if pulling.retrieved(item) else []
                on_progress("pull", number, len(wanted))
            cohort = pulling.taken_in(some, ingest) or cohort
            whole += len(some)
        shutil.rmtree(spool.folder, ignore_errors=True)
    if whole < len(wanted):
        left = f"{len(wanted) - whole} of {len(wanted)} series"
        raise StorageError(f"{left} could not be retrieved whole, and were left out: run the same command again")
    if cohort is None and not matching:
        raise NotFoundError(f"the PACS at {address.host} has no series that matches")
    return cohort or open_cohort(root)


@dataclass(frozen=True, slots=True)
class _Pulling:
    pacs: Pacs
    spool: Spool
    naming: Naming
    trail: Trail

    def retrieved(self, item: RemoteSeries) -> bool:
        """Fetch a series into the spool whole, or not at all: half of one looks like a whole one."""
        target, arrived = self.naming.name("series", item.series), 0
        try:
            for _ in range(2):
                arrived = self.pacs.retrieve(item, self.spool)
                if arrived and arrived >= item.instances:
                    self.trail.record([Event("pacs.retrieve", target, "ok", f"{arrived} of {item.instances} objects")])
                    return True
            self.trail.record([Event("pacs.retrieve", target, "incomplete", f"{arrived} of {item.instances} objects")])
        except StorageError as error:
            self.trail.record([Event("pacs.retrieve", target, "failed", str(error))])
        self.spool.discard(item.series)
        return False

    def taken_in(self, items: Sequence[RemoteSeries], ingest: Ingest) -> Cohort | None:
        """Take in what is in the spool, note it, and empty the spool."""
        self.spool.settle(quiet_s=0.0)
        if not any(self.spool.settled.iterdir()):
            return None
        cohort = ingest(self.spool.settled)
        passing = {row.source for row in cohort.quarantine if row.reason in PASSING}
        made = Counter(row.origin for row in cohort.rows)
        names = {self.naming.name("series", item.series): item for item in items if passing.isdisjoint(self._sources(item))}
        note_pulled(cohort.root, abilities(), {name: (item.instances, made[name]) for name, item in names.items()})
        shutil.rmtree(self.spool.settled)
        self.spool.settled.mkdir(mode=0o700)
        return cohort

    def _sources(self, item: RemoteSeries) -> Iterator[str]:
        """Yield what a quarantine would call a series' files."""
        for file in self.spool.settled_files(item.series):
            yield self.naming.name("source", file.relative_to(self.spool.settled).as_posix())


def _held(root: str) -> dict[str, int]:
    """Return how many objects of each series the cohort was made from, or were looked at for it and left."""
    try:
        cohort = open_cohort(root)
    except NotFoundError:
        return {}
    held, made, damaged = Counter[str](), Counter[str](), set[str]()
    again = to_redo(cohort.root)
    for row in cohort.rows:
        held[row.origin] += row.instances
        made[row.origin] += 1
        damaged |= {row.origin} if row.intake in again else set()
    for name, (count, rows) in pulled(cohort.root, abilities()).items():
        if made[name] >= rows:  # a version that was restored may have fewer
            held[name] = max(held[name], count)
    return {name: count for name, count in held.items() if name not in damaged}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiving:
    """How to receive.

    Attributes:
        listening: For C-STORE.
        stow_port: For STOW-RS; None for no such server, 0 for any free port.
        token: Bearer token that STOW-RS asks for.
        spool: Folder of the spool.
        quiet_s: A study to which nothing was added for so long is taken in.
        keep_s: How long a study stays in the spool after it was taken in, for slices that come late.
        stop: Set from outside to end.
        on_ready: Called with the ports of C-STORE and STOW-RS.
        on_failure: Called when a study could not be taken in; it stays in the spool and is tried again.
    """

    listening: Listening
    stow_port: int | None = None
    token: str = ""
    spool: Path = field(default_factory=lambda: config.home() / "spool" / "receive")
    quiet_s: float = 30.0
    keep_s: float = 7 * 86_400.0
    stop: threading.Event = field(default_factory=threading.Event)
    on_ready: Callable[[int, int | None], None] = lambda dimse, stow: None
    on_failure: Callable[[MedrayError], None] = lambda error: None


def receive(receiving: Receiving, ingest: Ingest, naming: Naming) -> None:
    """Receive objects until told to stop, and take in each study when it has been quiet for a while.

    Args:
        receiving: How.
        ingest: Takes a folder in. An error of its own is recorded, and the study tried again with the next one.
        naming: Pseudonyms for the audit trail.
    """
    trail, spool = open_trail(), Spool(receiving.spool)
    with spool.held():
        spool.sweep()
        _receive(receiving, ingest, spool, trail, _Recorder(trail, naming))


def _receive(receiving: Receiving, ingest: Ingest, spool: Spool, trail: Trail, witness: Witness) -> None:
    listening = receiving.listening
    scp = StoreScp(spool, listening, witness)
    stow = None
    if receiving.stow_port is not None:
        app = stow_app(spool, witness, token=receiving.token)
        stow = StowServer(app, host=listening.host, port=receiving.stow_port, tls=listening.tls)
    try:
        receiving.on_ready(scp.port, stow.port if stow else None)
        left = any(spool.settled.iterdir())  # an earlier receiver may have died before it took them in
        while not receiving.stop.wait(CHECK_S):
            if spool.settle(quiet_s=receiving.quiet_s) or left:
                left = not _taken_in(ingest, spool, trail, receiving.on_failure)
            spool.expire(older_s=receiving.keep_s)
    finally:
        scp.stop()
        if stow:
            stow.stop()


def _taken_in(ingest: Ingest, spool: Spool, trail: Trail, on_failure: Callable[[MedrayError], None]) -> bool:
    try:
        studies = list(spool.settled.iterdir())
        ingest(spool.settled)
        spool.mark_taken(studies)
    except Exception as error:  # noqa: BLE001 - a receiver goes on receiving, whatever ails what comes after it
        with suppress(StorageError):
            trail.record([Event("pacs.ingest", "spool", "failed", type(error).__name__)])
        on_failure(error if isinstance(error, MedrayError) else MedrayError(f"an error within medray ({type(error).__name__})"))
        time.sleep(CHECK_S)
        return False
    return True


class _Recorder:
    """Writes what arrives into the audit trail: that a series begins to, before any of it is there; and how much of it came."""

    def __init__(self, trail: Trail, naming: Naming) -> None:
        self._trail = trail
        self._naming = naming

    def begins(self, caller: str, header: DicomHeader) -> None:
        self._trail.record([Event("pacs.store", self._name(header), "begun", "", caller)])

    def ends(self, arrival: Arrival) -> None:
        brought = [
            Event("pacs.store", self._name(header), "ok", f"{count} new objects", arrival.caller)
            for header, count in arrival.series
        ]
        refused = [
            Event("pacs.store", "objects", reason, f"{count} refused", arrival.caller) for reason, count in arrival.refused
        ]
        self._trail.record([*brought, *refused])

    def _name(self, header: DicomHeader) -> str:
        return self._naming.name("series", header.series)
