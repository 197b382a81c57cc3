"""What tells a cohort from others in the database."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from medray.cohort.cohort import open_cohort
from medray.errors import NotFoundError, StorageError
from medray.storage.location import Location

__all__ = ["cohort_key"]

KEY_FILE = "annotation.json"


def cohort_key(root: Location) -> str:
    """Return what tells a cohort from others in the database. It is kept in its folder, so that a moved one keeps its labels.

    A copy beside the one that it was made of is another cohort: only one of them has the label maps that come from then on.

    Raises:
        NotFoundError: If there is no cohort.
        StorageError: If it can't be read.
    """
    place = str(Path(root.path).resolve()) if root.is_local else root.path
    kept = _kept(root)
    there = Location(root.filesystem, kept.get("place", ""))
    if kept.get("place") == place or (kept and _same_file(root, there)):
        return kept["key"]
    key = kept.get("key", "")
    if not key or _kept(there).get("key") == key:
        key = hashlib.sha256(f"{place}\n{open_cohort(root).index.id}".encode()).hexdigest()[:32]
    with suppress(StorageError):  # of a cohort that may only be read there are no labels yet
        root.join(KEY_FILE).write(json.dumps({"key": key, "place": place}).encode())
    return key


def _kept(root: Location) -> dict[str, str]:
    """Return what a folder says of the cohort in it; nothing where it doesn't, or can't be asked."""
    try:
        said = json.loads(root.join(KEY_FILE).read())
        return {"key": str(said["key"]), "place": str(said["place"])}
    except (NotFoundError, StorageError, ValueError, KeyError, TypeError):
        return {}


def _same_file(root: Location, other: Location) -> bool:
    """Tell whether two paths of a disk lead to one folder: by another mount, which may call its device otherwise."""
    if not root.is_local:
        return False
    try:
        one, two = (Path(place.join(KEY_FILE).path).stat() for place in (root, other))
    except OSError:
        return False
    return (one.st_ino, one.st_mtime_ns) == (two.st_ino, two.st_mtime_ns)
