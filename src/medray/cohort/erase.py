"""Take a patient out of a cohort, for good: out of every version, and out of what is taken in from now on.

``ROOT/erased/`` keeps the pseudonyms of who was erased, so that a rerun over the same sources, or a commit that was under way,
doesn't bring them back; and which versions were replaced by which, for the lineage of models that name an old one.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medray.cohort.ancestry import parents_of
from medray.cohort.cohort import Cohort, open_cohort
from medray.cohort.commit import Base, Contents, base_of, commit_cohort, remake_version
from medray.cohort.manifest import SeriesRow
from medray.cohort.shards import shard_location
from medray.cohort.suppression import Suppressed, read_suppressed, suppress
from medray.errors import InputError, NotFoundError
from medray.storage.location import Location

__all__ = ["Erasure", "erase_from_cohort"]

LEDGER = "ledger"


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was taken out of a cohort.

    Attributes:
        cohort: The version that is current now.
        replaced: Ids of versions that are no more, to those that stand in their place: the same without the patient.
        series: Of the patient, in any version.
        shards: Files that are gone.
    """

    cohort: str
    replaced: Mapping[str, str]
    series: Sequence[str]
    shards: int


def erase_from_cohort(root: Location, subject: str, labels: Callable[[Sequence[str]], Sequence[str]]) -> Erasure:
    """Take a patient out.

    A version that had them is written anew without them and deleted, as is every shard that no remaining version needs;
    versions that never had them stay as they are.

    Args:
        root: The cohort.
        subject: The patient's pseudonym.
        labels: Erases what annotators drew on the patient's images, when nothing stands in the way any more, and returns the
            content hashes of those label maps.

    Raises:
        NotFoundError: If there is no cohort, or no version has that patient.
        InputError: If the cohort has nobody else.
    """
    _require_one_of_several(root, subject)
    known = read_suppressed(root).get(subject) or Suppressed(subject=subject)
    suppress(root, known)  # first: from here on nobody brings them back
    replaced: dict[str, str] = {}
    series: set[str] = set()
    gone = 0
    while True:
        base = base_of(root)  # before the versions: whoever commits meanwhile is joined
        theirs = {name: cohort for name, cohort in _versions(root).items() if subject in cohort.subjects}
        if base.cohort is None or not theirs:
            break
        rows = {row.series: row for cohort in theirs.values() for row in cohort.rows if row.subject == subject}
        current = _without(root, base, theirs)
        replaced |= {name: _remade(root, version, base.cohort, current) for name, version in theirs.items()}
        suppress(root, Suppressed(subject=subject, replaced={**known.replaced, **replaced}))
        gone += _delete(root, theirs, list(rows.values()), labels(sorted(rows)))
        series |= rows.keys()
    _forget(root, subject, series)
    return Erasure(open_cohort(root).index.id, replaced, sorted(series), gone)


def _require_one_of_several(root: Location, subject: str) -> None:
    """Refuse a patient whom no version has ever had, and one who is all that a cohort has."""
    current = base_of(root).cohort
    if current is None:
        raise NotFoundError(f"no complete cohort at {root.path}: there is nobody to erase")
    if set(current.subjects) == {subject}:
        raise InputError("the patient is the only one of this cohort: delete its folder")
    if subject in current.subjects or subject in read_suppressed(root):
        return
    if not any(subject in cohort.subjects for cohort in _versions(root).values()):
        raise NotFoundError(f"no version of the cohort has a subject {subject}: medray cohort split lists them")


def _without(root: Location, base: Base, theirs: Mapping[str, Cohort]) -> Cohort:
    """Make a version without the patient current, that knows the ancestors of those that are about to be deleted."""
    assert base.cohort is not None  # noqa: S101 - of a cohort that has versions one is current
    before = base.cohort
    contents = Contents(before.rows, before.quarantine, before.index.labels)  # a commit leaves out who was erased
    ancestors = {*theirs}.union(*(parents_of(cohort) for cohort in theirs.values()))
    return commit_cohort(root, contents, {**before.index.lineage, "erased": "1"}, base=base, ancestors=ancestors)


def _remade(root: Location, version: Cohort, before: Cohort, current: Cohort) -> str:
    """Return the id of the version that stands in the place of one that has the patient."""
    return (current if version.index.id == before.index.id else remake_version(root, version)).index.id


def _versions(root: Location) -> dict[str, Cohort]:
    found = {}
    for entry in root.join("versions").entries():
        name = entry.name.removesuffix(".json")
        try:
            found[name] = open_cohort(root, version=name)
            _ = found[name].rows
        except (InputError, NotFoundError):  # damaged, or a newer medray's
            found.pop(name, None)
    return found


def _delete(root: Location, theirs: Mapping[str, Cohort], rows: Sequence[SeriesRow], labels: Sequence[str]) -> int:
    """Delete the patient's shards, and versions with their tables, where nothing that stays needs them.

    Versions go last: whoever calls again after a kill finds by them what is left.
    """
    staying = [cohort for name, cohort in _versions(root).items() if name not in theirs]
    needed = {digest for cohort in staying for row in cohort.rows for digest in (row.volume, row.label)}
    shards = [("volumes", row.volume) for row in rows] + [("labels", row.label) for row in rows if row.label]
    shards += [("labels", digest) for digest in labels]
    gone = {(folder, digest) for folder, digest in shards if digest not in needed}
    for folder, digest in gone:
        shard_location(root.join(folder), digest).remove()
    tables = {table for cohort in staying for table in (cohort.index.manifest, cohort.index.quarantine)}
    for name, cohort in theirs.items():
        root.join("versions", f"{name}.json").remove()
        for table in {cohort.index.manifest, cohort.index.quarantine} - tables:
            root.join(table).remove()
    return len(gone)


def _forget(root: Location, subject: str, series: set[str]) -> None:
    """Delete notes of work that name the patient; what they were of is looked at again, and left out."""
    try:
        entries = root.join(LEDGER).entries()
    except NotFoundError:
        return
    for entry in entries:
        data = root.join(LEDGER, entry.name).read()
        text = (gzip.decompress(data) if entry.name.endswith(".gz") else data).decode("utf-8", "replace")
        if subject in text or any(name in text for name in series):
            root.join(LEDGER, entry.name).remove()
