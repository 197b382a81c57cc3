"""What every step of an ingestion knows: where from, where to, under which names and rules."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from medray.errors import StorageError
from medray.imaging.labels import LabelSchema
from medray.privacy.pixels import can_look
from medray.privacy.profile import Profile
from medray.privacy.pseudonym import Naming
from medray.storage.location import Entry, Location

__all__ = ["Intake", "abilities", "fingerprint_of"]

READER_VERSION = 2
"""Goes up when files are read differently: what was refused or read before is then read again."""
KEY_CHECK = "medray key check"


@dataclass(frozen=True, slots=True)
class Intake:
    """Where series come from and go to.

    Attributes:
        source: The folder that was scanned.
        root: The cohort.
        naming: Pseudonyms.
        profile: What is done to headers and pixels.
        labels: What label values mean, or None when label maps aren't taken in.
    """

    source: Location
    root: Location
    naming: Naming
    profile: Profile
    labels: LabelSchema | None = None

    @property
    def key_check(self) -> str:
        """A word that tells one key from another and nothing else."""
        return self.naming.name("source", KEY_CHECK)

    @property
    def settings(self) -> str:
        """All that a result depends on besides the files."""
        names = sorted(self.labels.names.items()) if self.labels else []
        return fingerprint_of(abilities(), str(self.profile), self.key_check, str(names))

    def stamp(self, entry: Entry) -> str:
        """Return what changes when a file does: its source's and its name's pseudonym, size and time of writing."""
        place = self.naming.name("source", f"{self.source.path}\0{entry.name}")
        return fingerprint_of(place, str(entry.size), str(entry.modified_ns))

    def require_source(self, error: StorageError) -> None:
        """Tell one forbidden file from a source that can't be reached at all.

        Raises:
            StorageError: The error itself, unless the store refused this file alone.
        """
        if not error.refused:
            raise error
        self.source.exists()


def abilities() -> str:
    """Return what changes when files are read differently or other things can be read: then what was refused is tried again."""
    return fingerprint_of(str(READER_VERSION), str(can_look()))


def fingerprint_of(*parts: str) -> str:
    """Return a short hash of some texts."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
