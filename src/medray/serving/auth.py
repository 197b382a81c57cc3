"""Who asks: bearer tokens (JWT, RFC 7519), signed here or by an OpenID Connect issuer, and the roles that they carry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Protocol

import jwt
import requests

from medray import config
from medray.errors import ConfigError

__all__ = [
    "ANYBODY",
    "LocalTokens",
    "OidcTokens",
    "Principal",
    "Refusal",
    "Role",
    "Tokens",
    "keys_url_of",
    "make_token",
    "signing_key",
]

ISSUER = AUDIENCE = "medray"
LOCAL = "HS256"
PUBLIC = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
"""Signatures that an issuer's public key checks. Never those of shared secrets: a public key is no secret."""
LEEWAY_S = 30
KEYS_LAST_S, KEYS_REST_S = 300, 5
"""How long an issuer's keys are taken to hold, and how long after they came an unknown one has them fetched again."""


class Role(IntEnum):
    """What somebody may do; each may do what those before it may."""

    VIEWER = 1
    """See models, jobs and results."""
    ANNOTATOR = 2
    """Ask for predictions; draw and submit labels."""
    REVIEWER = 3
    """Approve and reject labels."""
    OPERATOR = 4
    """Send studies, and end the work of others."""
    ADMIN = 5
    """All."""


class Refusal(Exception):  # noqa: N818 - a request is refused, and nothing went wrong
    """A request that isn't answered, with its HTTP status and one line that says why."""

    def __init__(self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, title, detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        name: The token's subject.
        role: The highest that the token carries.
    """

    name: str
    role: Role


ANYBODY = Principal("anybody", Role.ADMIN)
"""Who asks where nobody is asked who they are: on loopback, after ``--insecure``."""


class Tokens(Protocol):
    """Checks tokens."""

    async def check(self, token: str) -> Principal:
        """Return whose token it is.

        Raises:
            Refusal: 401, if it isn't valid; 403, if it carries no role.
        """
        ...


class LocalTokens:
    """Checks tokens that `make_token` made.

    Args:
        key: From `signing_key`.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def check(self, token: str) -> Principal:
        """See `Tokens`."""
        return _principal(_decoded(token, self._key, [LOCAL], AUDIENCE, ISSUER), "roles")


class OidcTokens:
    """Checks tokens of an OpenID Connect issuer by its public keys, which are fetched when an unknown one is named.

    Args:
        issuer: The tokens' ``iss``.
        audience: The tokens' ``aud``.
        keys_url: Of the issuer's JSON Web Key Set (RFC 7517).
        roles: The claim that lists roles; dots nest, as in ``realm_access.roles``.
    """

    def __init__(self, issuer: str, audience: str, keys_url: str, roles: str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._roles = roles
        # Without its cache of single keys, which would outlive a key's withdrawal.
        self._keys = jwt.PyJWKClient(keys_url, lifespan=KEYS_LAST_S, timeout=10, cooldown_duration=KEYS_REST_S)

    async def check(self, token: str) -> Principal:
        """See `Tokens`."""
        try:
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, token)
        except jwt.PyJWKClientConnectionError:
            why = "the issuer's keys can't be fetched: try again"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy", why, {"Retry-After": "5"}) from None
        except jwt.PyJWTError:
            raise _invalid("it isn't one, or its key is none of the issuer's") from None
        return _principal(_decoded(token, key, PUBLIC, self._audience, self._issuer), self._roles)


def keys_url_of(issuer: str) -> str:
    """Ask an issuer where its keys are (OpenID Connect Discovery 1.0, section 4).

    Raises:
        ConfigError: If it doesn't say.
    """
    try:
        said = requests.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=10)
        return str(said.json()["jwks_uri"])
    except (requests.RequestException, ValueError, KeyError, TypeError):
        raise ConfigError(f"the issuer {issuer} doesn't say where its keys are: set keys_url") from None


def signing_key() -> bytes:
    """Return the key for local tokens, which follows from medray's own.

    Raises:
        ConfigError: If there is none.
    """
    key = config.derived_key("tokens")
    if not key:
        raise ConfigError(f"tokens are signed with a key that follows from MEDRAY_KEY, which isn't set; {config.HOW_TO_MAKE}")
    return key


def make_token(name: str, role: str, *, hours: float = 12) -> str:
    """Make a token.

    Args:
        name: Whose it is; stands in the audit trail.
        role: One of `Role`, in small letters.
        hours: After which it is void.

    Raises:
        ConfigError: If the role is unknown, or there is no key.
    """
    if role.upper() not in Role.__members__:
        raise ConfigError(f"role {role!r} is unknown: use one of {', '.join(known.name.lower() for known in Role)}")
    now = int(time.time())
    claims = {"sub": name, "roles": [role], "iat": now, "exp": now + int(hours * 3600), "iss": ISSUER, "aud": AUDIENCE}
    return jwt.encode(claims, signing_key(), LOCAL)


def _decoded(token: str, key: Any, algorithms: Sequence[str], audience: str, issuer: str) -> Mapping[str, Any]:
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token, key, list(algorithms), options={"require": ["exp", "sub"]}, audience=audience, issuer=issuer, leeway=LEEWAY_S
        )
    except jwt.ExpiredSignatureError:
        raise _invalid("it has expired") from None
    except jwt.PyJWTError:
        raise _invalid("it is damaged, or made by or for somebody else") from None
    return claims


def _principal(claims: Mapping[str, Any], where: str) -> Principal:
    found: Any = claims
    for step in where.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    named = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    roles = [Role[name.upper()] for name in named if isinstance(name, str) and name.upper() in Role.__members__]
    if not roles:
        raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "the token carries no role: ask whoever gave it to you")
    return Principal(str(claims["sub"])[:200], max(roles))


def _invalid(why: str) -> Refusal:
    detail = f"the bearer token isn't valid: {why}"
    return Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
