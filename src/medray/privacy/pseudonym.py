"""Names that stand for patients, studies, series and files.

A pseudonym is a keyed hash (HMAC-SHA-256, RFC 2104) of what it stands for, so that a thousand workers agree without
talking, and nobody without the key can try names until one fits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from medray.errors import ConfigError
from medray.privacy.profile import Profile

__all__ = ["Kind", "Naming", "Plain", "Pseudonyms", "naming", "read_key"]

Kind = Literal["subject", "study", "series", "source"]
KEY_BYTES = 32
MAX_SHIFT_DAYS = 3650
LETTERS = 16
"""Letters kept of the base-32 hash: 80 bits, so that ten million series collide with odds below 1e-10."""
HOW_TO_MAKE = "make one: (umask 077; openssl rand -hex 32 > medray.key) and export MEDRAY_KEY_FILE=medray.key"


class Naming(Protocol):
    """Turns identifiers of the source into identifiers of the cohort."""

    def name(self, kind: Kind, identifier: str) -> str:
        """Return the cohort's name for an identifier."""
        ...

    def uid(self, uid: str) -> str:
        """Return the DICOM UID that stands for another one."""
        ...

    def shift_days(self, patient: str) -> int:
        """Return by how many days a patient's dates move."""
        ...


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Keyed pseudonyms: profile ``basic``.

    Attributes:
        key: 32 bytes or more.
        site: Tells apart sources that use the same identifiers for different people.
    """

    key: bytes
    site: str = ""

    def name(self, kind: Kind, identifier: str) -> str:
        """Return 16 letters and digits; kinds are kept apart, so that no name links a patient to a file."""
        return base64.b32encode(self._digest(kind, self._here(identifier))).decode()[:LETTERS].lower()

    def uid(self, uid: str) -> str:
        """Return a UID under 2.25 (PS3.5 B.2) from 128 bits of the keyed hash."""
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:16], 'big')}"

    def shift_days(self, patient: str) -> int:
        """Return 1 to 3,650 days back, the same for all dates of a patient."""
        return -1 - int.from_bytes(self._digest("shift", self._here(patient))[:8], "big") % MAX_SHIFT_DAYS

    def _here(self, identifier: str) -> str:
        return f"{self.site}\0{identifier}" if self.site else identifier

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{text}".encode(), hashlib.sha256).digest()

    def __repr__(self) -> str:
        """Keep the key out of logs."""
        return "Pseudonyms(key=…)"


@dataclass(frozen=True, slots=True)
class Plain:
    """Identifiers as they are, for data that is public or already de-identified: profile ``none``."""

    site: str = ""

    def name(self, kind: Kind, identifier: str) -> str:  # noqa: ARG002 - the protocol's
        """Return the identifier itself, after its site."""
        return f"{self.site}-{identifier}" if self.site else identifier

    def uid(self, uid: str) -> str:
        """Return the UID itself."""
        return uid

    def shift_days(self, patient: str) -> int:  # noqa: ARG002 - the protocol's
        """Return 0: dates stay."""
        return 0


def naming(profile: Profile, *, site: str = "") -> Naming:
    """Return how a profile names things.

    Args:
        profile: ``basic`` needs a key from the environment; ``none`` keeps identifiers.
        site: Where the data come from, for sources that use the same identifiers for different people.

    Raises:
        ConfigError: If the key is missing or unusable.
    """
    return Plain(site) if profile.identified else Pseudonyms(read_key(), site)


def read_key() -> bytes:
    """Read the key from ``MEDRAY_KEY`` (hex) or from the file that ``MEDRAY_KEY_FILE`` names.

    Raises:
        ConfigError: If there is none, it isn't 32 bytes of hex, or others may read the file.
    """
    text, path = os.environ.get("MEDRAY_KEY", ""), os.environ.get("MEDRAY_KEY_FILE", "")
    if not text and not path:
        raise ConfigError(f"pseudonyms need a key and neither MEDRAY_KEY nor MEDRAY_KEY_FILE is set; {HOW_TO_MAKE}")
    where = "MEDRAY_KEY" if text else path
    if not text:
        text = _read_key_file(Path(path))
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise ConfigError(f"the key in {where} isn't {KEY_BYTES} bytes of hex; {HOW_TO_MAKE}")
    return key


def _read_key_file(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"there is no key file {path}; {HOW_TO_MAKE}")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others may read the key file {path}: chmod 600 {path}")
    return path.read_text(encoding="ascii", errors="replace")
