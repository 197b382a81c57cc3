"""Take a patient out of a cohort, for good: out of every version, and out of what is taken in from now on.

``ROOT/erased/`` keeps the pseudonyms of who was erased, so that a rerun over the same sources, or a commit that was under way,
doesn't bring them back; which versions were replaced by which, for the lineage of models that name an old one; and by what to
look for the rest where an erasure was killed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress as passing_over
from dataclasses import dataclass, replace
from typing import Any, Protocol

from medray.cohort.ancestry import parents_of, with_ancestors
from medray.cohort.cohort import Cohort, open_cohort
from medray.cohort.commit import Base, Contents, base_of, commit_cohort, remake_version
from medray.cohort.shards import shard_location
from medray.cohort.suppression import Suppressed, read_suppressed, suppress
from medray.errors import InputError, NotFoundError
from medray.storage.location import Location

__all__ = ["Drawn", "Erasure", "erase_from_cohort", "has_subject"]

LEDGER = "ledger"
Shard = tuple[str, str]
"""Its folder, and its content's hash."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was taken out of a cohort.

    Attributes:
        cohort: The version that is current now.
        replaced: Ids of versions that are no more, to those that stand in their place: the same without the patient.
        series: Of the patient, in any version.
        labels: Content hashes of what annotators drew on these.
        shards: Files that are gone.
    """

    cohort: str
    replaced: Mapping[str, str]
    series: Sequence[str]
    labels: Sequence[str]
    shards: int


class Drawn(Protocol):
    """What annotators drew."""

    def drawn(self, series: Sequence[str]) -> Sequence[str]:
        """Return the content hashes of label maps on some images."""

    def erase(self, series: Sequence[str]) -> Sequence[str]:
        """Forget them, and return the same."""


def has_subject(root: Location, subject: str) -> bool:
    """Tell whether a cohort has a patient, or has had one whose erasure began.

    Raises:
        NotFoundError: If there is no complete cohort.
        InputError: If it has nobody else, or is damaged.
    """
    current = open_cohort(root)
    if set(current.subjects) == {subject}:
        raise InputError(f"the patient is the only one of the cohort at {root.path}: delete its folder")
    if subject in current.subjects or subject in read_suppressed(root):
        return True
    return any(subject in cohort.subjects for cohort in _versions(root).values())


def erase_from_cohort(root: Location, subject: str, labels: Drawn) -> Erasure:
    """Take a patient out.

    A version that had them is written anew without them and deleted, as is every shard that no remaining version needs;
    versions that never had them stay as they are. Called again after a kill, it finishes what was begun.

    Args:
        root: The cohort, which `has_subject`.
        subject: The patient's pseudonym.
        labels: What annotators drew on its images.
    """
    known = read_suppressed(root).get(subject) or Suppressed(subject=subject)
    suppress(root, known)  # first: from here on nobody brings them back
    gone = 0
    while True:
        base = base_of(root)  # before the versions: whoever commits meanwhile is joined
        versions = _versions(root)
        theirs = {name: cohort for name, cohort in versions.items() if subject in cohort.subjects}
        if not theirs:
            break
        assert base.cohort is not None  # noqa: S101 - of a cohort that has versions one is current
        if base.cohort.index.id not in versions:  # somebody else's erasure has just replaced it, or it is damaged
            _ = open_cohort(root).rows
            continue
        base = Base(versions[base.cohort.index.id], base.since_ns)
        known, shards = _noted(root, known, theirs, labels)
        current = _without(root, base, theirs)
        replaced = {name: _remade(root, version, base, current) for name, version in theirs.items()}
        known = replace(known, replaced={**known.replaced, **replaced})
        suppress(root, known)
        staying = [cohort for name, cohort in _versions(root).items() if name not in theirs]
        gone += _delete_shards(root, shards, staying)
        _delete_versions(root, theirs, staying)
    drawn = sorted({*known.labels, *labels.erase(known.series)})
    rest = _forget(root, subject, set(known.series)) | {("labels", digest) for digest in drawn}
    gone += _delete_shards(root, rest, list(_versions(root).values()))
    for name in known.replaced:  # where an erasure was killed between a version's tables and itself
        root.join("versions", f"{name}.json").remove()
    return Erasure(open_cohort(root).index.id, known.replaced, known.series, drawn, gone)


def _noted(root: Location, known: Suppressed, theirs: Mapping[str, Cohort], labels: Drawn) -> tuple[Suppressed, set[Shard]]:
    """Write down by what to look for the rest, before anything is deleted; return that, and the patient's shards."""
    rows = [row for cohort in theirs.values() for row in cohort.rows if row.subject == known.subject]
    series = sorted({*known.series, *(row.series for row in rows)})
    drawn = sorted({*known.labels, *labels.drawn(series)})
    noted = replace(known, series=tuple(series), labels=tuple(drawn))
    suppress(root, noted)
    shards = {("volumes", row.volume) for row in rows} | {("labels", row.label) for row in rows if row.label}
    return noted, shards | {("labels", digest) for digest in drawn}


def _without(root: Location, base: Base, theirs: Mapping[str, Cohort]) -> Cohort:
    """Make a version without the patient current, that knows the ancestors of those of its own that are about to be deleted."""
    before = base.cohort
    assert before is not None  # noqa: S101 - checked by the caller
    contents = Contents(before.rows, before.quarantine, before.index.labels)  # a commit leaves out who was erased
    own = theirs.keys() & with_ancestors(root, {before.index.id})  # what isn't among them is somebody's news, and is joined
    ancestors = own.union(*(parents_of(theirs[name]) for name in own))
    return commit_cohort(root, contents, {**before.index.lineage, "erased": "1"}, base=base, ancestors=ancestors)


def _remade(root: Location, version: Cohort, base: Base, current: Cohort) -> str:
    """Return the id of the version that stands in the place of one that has the patient."""
    was_current = base.cohort is not None and version.index.id == base.cohort.index.id
    return (current if was_current else remake_version(root, version)).index.id


def _versions(root: Location) -> dict[str, Cohort]:
    """Return versions whose tables are there and read."""
    found = {}
    for entry in root.join("versions").entries():
        name = entry.name.removesuffix(".json")
        try:
            found[name] = open_cohort(root, version=name)
            _ = found[name].rows, found[name].quarantine
        except (InputError, NotFoundError):  # damaged, a newer medray's, or deleted meanwhile
            found.pop(name, None)
    return found


def _delete_shards(root: Location, shards: Iterable[Shard], staying: Sequence[Cohort]) -> int:
    """Delete shards that no version which stays needs, and return how many there were."""
    needed = {digest for cohort in staying for row in cohort.rows for digest in (row.volume, row.label)}
    places = [shard_location(root.join(folder), digest) for folder, digest in shards if digest not in needed]
    there = [place for place in places if place.exists()]
    for place in there:
        place.remove()
    return len(there)


def _delete_versions(root: Location, theirs: Mapping[str, Cohort], staying: Sequence[Cohort]) -> None:
    """Delete versions with their tables, where no other needs these; a version goes last, for it names its tables."""
    tables = {table for cohort in staying for table in (cohort.index.manifest, cohort.index.quarantine)}
    for name, cohort in theirs.items():
        for table in {cohort.index.manifest, cohort.index.quarantine} - tables:
            root.join(table).remove()
        root.join("versions", f"{name}.json").remove()


def _forget(root: Location, subject: str, series: set[str]) -> set[Shard]:
    """Delete notes of work that name the patient, and return the shards that a note alone knew of.

    What they were of is looked at again by the next ingest, and left out.
    """
    found: set[Shard] = set()
    with passing_over(NotFoundError):
        for entry in root.join(LEDGER).entries():
            with passing_over(NotFoundError):  # a commit has just folded it in
                found |= _forget_note(root.join(LEDGER, entry.name), subject, series)
    return found


def _forget_note(note: Location, subject: str, series: set[str]) -> set[Shard]:
    data = note.read()
    text = (gzip.decompress(data) if note.path.endswith(".gz") else data).decode("utf-8", "replace")
    if subject not in text and not any(name in text for name in series):
        return set()
    row = _row_of(text)
    note.remove()
    theirs = row.get("subject") == subject
    return {(folder, row[key]) for folder, key in (("volumes", "volume"), ("labels", "label")) if theirs and row.get(key)}


def _row_of(text: str) -> Mapping[str, Any]:
    """Return the row that a note of finished work has; none where it is another note."""
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    row = said.get("row") if isinstance(said, dict) else None
    return row if isinstance(row, dict) else {}
