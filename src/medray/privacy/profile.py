"""What is done to each attribute: DICOM PS3.15 Annex E's Basic Application Level Confidentiality Profile and its options.

The table ``ps315.tsv`` holds the standard's own actions. Where the standard leaves a choice (``X/Z``, ``X/Z/D``, ``X/Z/U*``),
the one that keeps an object valid wherever the attribute is required is taken: the last letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal, get_args

from medray.errors import ConfigError

__all__ = ["Action", "Option", "Profile", "parse_profile"]

Action = Literal["D", "Z", "X", "K", "C", "U"]
"""PS3.15 E.3: dummy value, empty, removed, kept, cleaned, UID replaced."""

Option = Literal["dates", "uids", "device", "institution", "patient", "descriptors", "faces"]
"""Retain Longitudinal with modified dates, Retain UIDs, Retain Device Identity, Retain Institution Identity, Retain Patient
Characteristics, Clean Descriptors, Clean Recognizable Visual Features."""

METHOD_CODES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "basic": ("113100", "Basic Application Confidentiality Profile"),
        "pixels": ("113101", "Clean Pixel Data Option"),
        "faces": ("113102", "Clean Recognizable Visual Features Option"),
        "descriptors": ("113105", "Clean Descriptors Option"),
        "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        "patient": ("113108", "Retain Patient Characteristics Option"),
        "device": ("113109", "Retain Device Identity Option"),
        "uids": ("113110", "Retain UIDs Option"),
        "institution": ("113112", "Retain Institution Identity Option"),
    }
)
"""PS3.16 CID 7050, for the De-identification Method Code Sequence (0012,0064)."""

OVERLAY_OR_CURVE_GROUPS = (0x50, 0x60)
"""First bytes of their groups. Of overlays the table names data and comments; the rest says nothing without, and goes too."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A choice of options.

    Attributes:
        identified: True for the profile ``none``: nothing is changed.
        options: Of the Basic Profile.
    """

    identified: bool
    options: frozenset[Option] = frozenset()

    def __str__(self) -> str:
        return "none" if self.identified else "+".join(["basic", *sorted(self.options)])

    def action(self, tag: int) -> Action | None:
        """Return what is done to an attribute; None for one that the table doesn't name."""
        return _actions(self.options).get(_row_key(tag))


def parse_profile(text: str) -> Profile:
    """Read ``basic``, ``basic+dates+patient`` or ``none``.

    Raises:
        ConfigError: If a word is unknown.
    """
    if text == "none":
        return Profile(identified=True)
    first, *words = text.split("+")
    known = get_args(Option)
    unknown = [word for word in words if word not in known]
    if first != "basic" or unknown:
        raise ConfigError(
            f"profile {text!r} is unknown: use none, basic, or basic with options such as basic+dates; "
            f"options are {', '.join(known)}"
        )
    return Profile(identified=False, options=frozenset(words))  # type: ignore[arg-type]


def table() -> list[dict[str, str]]:
    """Return the standard's rows: ``tag``, ``name``, ``basic`` and a column for each option."""
    lines = files("medray.privacy").joinpath("ps315.tsv").read_text(encoding="utf-8").splitlines()
    head, *rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [dict(zip(head, row, strict=True)) for row in rows]


def _row_key(tag: int) -> str:
    """Return how the table writes a tag: private ones, curves and overlays by pattern."""
    group = tag >> 16
    if group & 1:
        return "XXXXXXXX"
    if group >> 8 == 0x50:
        return "50XXXXXX"
    if group >> 8 == 0x60 and tag & 0xFFFF in {0x3000, 0x4000}:
        return f"60XX{tag & 0xFFFF:04X}"
    return f"{tag:08X}"


@cache
def _actions(options: frozenset[Option]) -> Mapping[str, Action]:
    actions: dict[str, Action] = {}
    for row in table():
        wanted = {row[option] for option in options if row.get(option)}
        # K of one option wins over C of another: what may be kept whole needs no cleaning.
        chosen = "K" if "K" in wanted else "C" if "C" in wanted else row["basic"].rstrip("*").rpartition("/")[2]
        actions[row["tag"]] = chosen  # type: ignore[assignment]
    return MappingProxyType(actions)
