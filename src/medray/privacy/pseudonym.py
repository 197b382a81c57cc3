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

__all__ = ["Kind", "Naming", "Plain", "Pseudonyms", "naming", "read_key"]

Kind = Literal["subject", "study", "series", "source"]
KEY_BYTES = 32
LETTERS = 16
"""Letters kept of the base-32 hash: 80 bits, so that ten million series collide with odds below 1e-10."""
HOW_TO_MAKE = "make one: (umask 077; openssl rand -hex 32 > medray.key) and export MEDRAY_KEY_FILE=medray.key"


class Naming(Protocol):
    """Turns identifiers of the source into identifiers of the cohort."""

    def name(self, kind: Kind, identifier: str) -> str:
        """Return the cohort's name for an identifier."""
        ...


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Keyed pseudonyms: profile ``basic``."""

    key: bytes

    def name(self, kind: Kind, identifier: str) -> str:
        """Return 16 letters and digits; kinds are kept apart, so that no name links a patient to a file."""
        digest = hmac.new(self.key, f"{kind}\0{identifier}".encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode()[:LETTERS].lower()

    def __repr__(self) -> str:
        """Keep the key out of logs."""
        return "Pseudonyms(key=…)"


@dataclass(frozen=True, slots=True)
class Plain:
    """Identifiers as they are, for data that is public or already de-identified: profile ``none``."""

    def name(self, kind: Kind, identifier: str) -> str:
        """Return the identifier itself."""
        return identifier


def naming(profile: str) -> Naming:
    """Return how a profile names things.

    Args:
        profile: ``"basic"`` needs a key from the environment; ``"none"`` keeps identifiers.

    Raises:
        ConfigError: If the profile is unknown or the key missing or unusable.
    """
    if profile == "basic":
        return Pseudonyms(read_key())
    if profile == "none":
        return Plain()
    raise ConfigError(f"profile {profile!r} is unknown: use basic (pseudonyms) or none (identifiers kept)")


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
