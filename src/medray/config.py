"""Settings that people write: strict, frozen, and refused with one clear line.

A configuration is a frozen dataclass beside its owner; this module only reads one from TOML, JSON or
``key=value`` words, and says what is wrong with it. Nothing here knows any particular setting except
the home folder and the pseudonym key, which come from the environment.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medray.errors import ConfigError, NotFoundError

__all__ = [
    "STRICT",
    "derived_key",
    "dump",
    "home",
    "load",
    "load_file",
    "merged",
    "overrides",
    "read_file",
    "read_key",
    "without_nan",
]

KEY_BYTES = 32
HOW_TO_MAKE = "make one: (umask 077; openssl rand -hex 32 > medray.key) and export MEDRAY_KEY_FILE=medray.key"

STRICT = ConfigDict(extra="forbid", strict=False, arbitrary_types_allowed=False)
"""For ``pydantic.dataclasses.dataclass``: an unknown key is an error."""

T = TypeVar("T")
UNKNOWN_KEY = {"unexpected_keyword_argument", "extra_forbidden"}
"""Pydantic's names for it; told first, for a misspelt key also leaves the right one missing."""


def load(kind: type[T], settings: Mapping[str, Any], *, what: str) -> T:
    """Make a configuration from plain data.

    Args:
        kind: A pydantic dataclass with ``config=STRICT``.
        settings: Field names to values; nested mappings for nested dataclasses.
        what: What the person wrote, for the message: ``"fit.toml"`` or ``"the plan"``.

    Raises:
        ConfigError: On an unknown key, a missing key or a value of the wrong type.
    """
    adapter: TypeAdapter[T] = _adapter(kind)  # type: ignore[arg-type]
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{what} is {settings!r}: give a table of {', '.join(field.name for field in fields(kind))}")
    try:
        return adapter.validate_python(dict(settings))
    except ValidationError as error:
        raise ConfigError(_first_problem(error, kind, what)) from None


def dump(config: Any) -> dict[str, Any]:
    """Turn a configuration into JSON-ready plain data, the inverse of `load`."""
    plain: dict[str, Any] = _adapter(type(config)).dump_python(config, mode="json")  # type: ignore[arg-type]
    return plain


def without_nan(value: Any) -> Any:
    """Return JSON-ready data in which NaN and infinity are None, for JSON has neither."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file of settings.

    Raises:
        NotFoundError: If there is no such file.
        ConfigError: If it isn't TOML (``.toml``) or JSON, or not a table at the top.
    """
    if not path.is_file():
        raise NotFoundError(f"no file {path}: give the path of a .toml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read as {path.suffix or 'JSON'}: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; a table of key = value is needed")
    return settings


def load_file(kind: type[T], file: Path | None, *, option: str) -> T:
    """Read a file of settings into a configuration; defaults where there is none.

    Args:
        kind: A strict dataclass.
        file: TOML or JSON.
        option: By which a person names the file, for messages.
    """
    return load(kind, read_file(file) if file else {}, what=str(file or option))


def overrides(words: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` words; dots nest, values are JSON where they parse as JSON, else text.

    >>> overrides(["epochs=3", "network.name=unet", "spacing_mm=[1, 1, 2]"])
    {'epochs': 3, 'network': {'name': 'unet'}, 'spacing_mm': [1, 1, 2]}

    Raises:
        ConfigError: If a word has no ``=``.
    """
    settings: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise ConfigError(f"{word!r} is not key=value: write for example --set epochs=3")
        *parents, last = key.split(".")
        table = settings
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{word!r} sets a field of {parent}, which another word sets to a value")
        table[last] = _value(text)
    return settings


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes over them, tables merged field by field."""
    result = dict(settings)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def home() -> Path:
    """Return the folder for the registry, its artifacts and runs: ``MEDRAY_HOME`` or ``./medray-home``."""
    return Path(os.environ.get("MEDRAY_HOME") or "medray-home").absolute()


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


def derived_key(purpose: str) -> bytes:
    """Return a key for one purpose that follows from the pseudonym key (HMAC-SHA-256); empty where there is none."""
    if not os.environ.get("MEDRAY_KEY") and not os.environ.get("MEDRAY_KEY_FILE"):
        return b""
    return hmac.new(read_key(), purpose.encode(), hashlib.sha256).digest()


def _read_key_file(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"there is no key file {path}; {HOW_TO_MAKE}")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others may read the key file {path}: chmod 600 {path}")
    return path.read_text(encoding="ascii", errors="replace")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first_problem(error: ValidationError, kind: type[Any], what: str) -> str:
    problems = sorted(error.errors(), key=lambda problem: problem["type"] not in UNKNOWN_KEY)
    first, more = problems[0], len(problems) - 1
    key = ".".join(str(part) for part in first["loc"])
    rest = f" (and {more} more)" if more else ""
    if first["type"] in UNKNOWN_KEY:
        known = ", ".join(sorted(field.name for field in fields(kind)))
        return f"{what}: unknown key {key!r}; known keys are {known}{rest}"
    if first["type"] in {"missing", "missing_argument"}:
        return f"{what}: key {key!r} is missing{rest}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{what}: {key} = {first['input']!r}: {message}{rest}" if key else f"{what}: {message}{rest}"
