"""Encryption of what is received, for C-STORE and STOW-RS alike (PS3.15 B.9: TLS 1.2 at least)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Tls"]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM.

    Attributes:
        certificate: Own certificate, with those that vouch for it.
        key: Its private key.
        authority: Vouches for callers' certificates, which they must then show; None to ask for none.
    """

    certificate: Path
    key: Path
    authority: Path | None = None
