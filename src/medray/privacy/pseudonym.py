"""Names that stand for patients, studies, series and files.

A pseudonym is a keyed hash (HMAC-SHA-256, RFC 2104) of what it stands for, so that a thousand workers agree without
talking, and nobody without the key can try names until one fits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from medray import config
from medray.errors import ConfigError
from medray.privacy.profile import Profile

__all__ = ["Kind", "Naming", "Plain", "Pseudonyms", "naming"]

Kind = Literal["subject", "study", "series", "instance", "source"]
MAX_SHIFT_DAYS = 3650
LETTERS = 16
"""Letters kept of the base-32 hash: 80 bits, so that ten million series collide with odds below 1e-10."""


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

    def seal(self, text: str) -> str:
        """Return a text that only the key's holder can open: what ordering needs and readers must not see."""
        ...

    def unseal(self, sealed: str) -> str:
        """Undo `seal`."""
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

    def seal(self, text: str) -> str:
        """Encrypt (AES-SIV, RFC 5297): equal texts give equal words, so that a cohort's id stays the same."""
        plain = text.encode("utf-8", "surrogateescape")
        return base64.b32encode(self._cipher().encrypt(plain, None)).decode() if text else ""

    def unseal(self, sealed: str) -> str:
        """Decrypt.

        Raises:
            ConfigError: If another key sealed it.
        """
        try:
            plain = self._cipher().decrypt(base64.b32decode(sealed), None) if sealed else b""
            return plain.decode("utf-8", "surrogateescape")
        except (InvalidTag, ValueError):
            raise ConfigError("the cohort was made with another pseudonym key: use the same one") from None

    def _cipher(self) -> AESSIV:
        return AESSIV(hmac.new(self.key, b"seal", hashlib.sha512).digest())

    def _here(self, identifier: str) -> str:
        return f"{self.site}\0{identifier}" if self.site else identifier

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{text}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def __repr__(self) -> str:
        """Keep the key out of logs."""
        return "Pseudonyms(key=…)"


@dataclass(frozen=True, slots=True)
class Plain:
    """Identifiers as they are, for data that is public or already de-identified: profile ``none``."""

    site: str = ""

    def name(self, kind: Kind, identifier: str) -> str:
        """Return the identifier itself, after its site."""
        return f"{self.site}-{identifier}" if self.site else identifier

    def uid(self, uid: str) -> str:
        """Return the UID itself."""
        return uid

    def shift_days(self, patient: str) -> int:
        """Return 0: dates stay."""
        return 0

    def seal(self, text: str) -> str:
        """Return the text itself."""
        return text

    def unseal(self, sealed: str) -> str:
        """Return the text itself."""
        return sealed


def naming(profile: Profile, *, site: str = "") -> Naming:
    """Return how a profile names things.

    Args:
        profile: ``basic`` needs a key from the environment; ``none`` keeps identifiers.
        site: Where the data come from, for sources that use the same identifiers for different people.

    Raises:
        ConfigError: If the key is missing or unusable.
    """
    return Plain(site) if profile.identified else Pseudonyms(config.read_key(), site)
