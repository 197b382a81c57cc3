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
    if kept.get("place") == place:
        return kept["key"]
    key = kept.get("key", "")
    if not key or _kept(Location(root.filesystem, kept.get("place", ""))).get("key") == key:
        key = hashlib.sha256(f"{place}\n{open_cohort(root).index.id}".encode()).hexdigest()[:32]
    with suppress(StorageError):  # of a cohort that may only be read there are no labels yet
        root.join(KEY_FILE).write(json.dumps({"key": key, "place": place}).encode())
    return key


def _kept(root: Location) -> dict[str, str]:
    """Return what a folder says of the cohort in it; nothing where it doesn't."""
    try:
        said = json.loads(root.join(KEY_FILE).read())
    except (NotFoundError, ValueError):
        return {}
    return {name: str(said[name]) for name in ("key", "place") if name in said}
