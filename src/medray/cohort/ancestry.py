"""Which versions of a cohort were made from which: each names its parents."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from medray.cohort.cohort import Cohort, open_cohort
from medray.errors import InputError, NotFoundError
from medray.storage.location import Location

__all__ = ["PARENT", "REMADE", "opened", "parents_of", "with_ancestors", "written_since"]

MARGIN_NS = 600 * 10**9
"""Before a version became current, another one may have been written by somebody who was about to make that one current."""
PARENT, REMADE = "parent", "remade"
"""In a version's lineage: what it was made from, and of what it is the past without who was erased."""


def with_ancestors(root: Location, versions: AbstractSet[str], *, among: AbstractSet[str] | None = None) -> set[str]:
    """Return versions and all that they were made from; with ``among``, no others are opened to ask for theirs."""
    known, left = set[str](), set(versions)
    while left:
        version = left.pop()
        known.add(version)
        made = opened(root, version) if among is None or version in among else None
        left |= parents_of(made) - known if made else set()
    return known


def parents_of(cohort: Cohort) -> set[str]:
    """Return the ids of the versions that one was made from."""
    return set(cohort.index.lineage.get(PARENT, "").split())


def written_since(root: Location, cohort: Cohort, since_ns: int) -> list[Cohort]:
    """Return versions written since that are neither the cohort nor one that it was made from."""
    entries = root.join("versions").entries()
    recent = {entry.name.removesuffix(".json") for entry in entries if entry.modified_ns >= since_ns - MARGIN_NS}
    known = {cohort.index.id} | with_ancestors(root, parents_of(cohort), among=recent)
    found = [opened(root, version) for version in sorted(recent - known)]
    return [other for other in found if other is not None and REMADE not in other.index.lineage]


def opened(root: Location, version: str) -> Cohort | None:
    """Return a version; None where nobody can build on it."""
    try:
        return open_cohort(root, version=version)
    except (InputError, NotFoundError):  # damaged, a newer medray's, or deleted meanwhile: nobody can build on it
        return None
