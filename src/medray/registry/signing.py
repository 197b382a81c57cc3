"""Who wrote a file: Ed25519 signatures (RFC 8032) by a key that follows from ``MEDRAY_KEY``.

Whoever holds that can sign, and anybody who was given the public key can check.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medray import config
from medray.errors import ConfigError, InputError

__all__ = ["public_key", "require_signature", "signature"]

PURPOSE = "model archives"


def public_key() -> str:
    """Return the public key, hex, by which others check what is signed here.

    Raises:
        ConfigError: If there is no ``MEDRAY_KEY``.
    """
    return _signing_key().public_key().public_bytes_raw().hex()


def signature(data: bytes) -> bytes:
    """Return one's signature of some bytes.

    Raises:
        ConfigError: If there is no ``MEDRAY_KEY``.
    """
    return _signing_key().sign(data)


def require_signature(data: bytes, signed: bytes, signer: str) -> None:
    """Check that a signer has signed these bytes.

    Raises:
        ConfigError: If ``signer`` is no public key.
        InputError: If they didn't.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
    except ValueError:
        raise ConfigError(f"signer {signer[:80]!r} is no public key: 64 hex digits, as medray models key prints") from None
    try:
        key.verify(signed, data)
    except InvalidSignature:
        raise InputError(f"this isn't signed by {signer[:16]}…, or was changed since: ask its sender for their key") from None


def _signing_key() -> Ed25519PrivateKey:
    seed = config.derived_key(PURPOSE)
    if not seed:
        raise ConfigError("what is signed needs a key, which follows from MEDRAY_KEY: set that, or name the signer")
    return Ed25519PrivateKey.from_private_bytes(seed)
