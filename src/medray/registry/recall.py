"""What references meant, kept beside a registry in SQLite for as long as its file stays as it was.

Importing MLflow and opening its store take more than two seconds, which a prediction with a known model needn't wait for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medray.errors import NotFoundError, StorageError
from medray.registry.version import ModelVersion
from medray.storage.location import locate

__all__ = ["Recall"]

HEADER = 100
WAL = 2
"""File format version of a database whose changes first lie in another file."""


@dataclass(frozen=True, slots=True)
class Recall:
    """References and what they meant when the file was as it is now.

    Attributes:
        file: Where they are kept, or None for a registry of which nothing can be kept.
        state: What the registry's file is known by: see `_state_of`.
        found: Reference to version.
    """

    file: Path | None = None
    state: tuple[int, ...] = ()
    found: Mapping[str, ModelVersion] = field(default_factory=dict)

    @classmethod
    def of(cls, uri: str) -> Recall:
        """Read what is kept of a registry; nothing of one that isn't a SQLite file, or has changed since."""
        registry = Path(uri.removeprefix("sqlite:///"))
        state = _state_of(registry) if uri.startswith("sqlite:///") else ()
        if not state:
            return cls()
        file = registry.with_name(f"{registry.name}.recall.json")
        try:
            kept: Any = json.loads(file.read_text(encoding="utf-8"))
            if tuple(kept["state"]) == state:
                return cls(file, state, {name: _version(facts) for name, facts in kept["found"].items()})
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or not ours: it is written anew
            pass
        return cls(file, state)

    def keep(self, reference: str, version: ModelVersion) -> None:
        """Keep what was found after this was read; a place that can't be written to costs time, and nothing else."""
        if self.file is None:
            return
        found = {name: asdict(known) for name, known in {**self.found, reference: version}.items()}
        with contextlib.suppress(StorageError, NotFoundError):
            locate(self.file).write(json.dumps({"state": self.state, "found": found}).encode())


def _version(facts: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(**{**facts, "aliases": tuple(facts["aliases"])})


def _state_of(registry: Path) -> tuple[int, ...]:
    """Return SQLite's own count of a database's changes, and what a file that was put in its place would differ in.

    Format and count: https://www.sqlite.org/fileformat2.html, sections 1.3.3 and 1.3.7. Empty for what isn't there, isn't a
    database, or doesn't count.
    """
    try:
        with registry.open("rb") as file:
            header, facts = file.read(HEADER), os.fstat(file.fileno())
    except OSError:
        return ()
    if not header.startswith(b"SQLite format 3\0") or header[19] == WAL:
        return ()
    return int.from_bytes(header[24:28]), facts.st_size, facts.st_mtime_ns, facts.st_ino
