"""What a label says of an image: a mask, findings, boxes or points, and how each is checked against a project's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from medray.errors import InputError
from medray.types import Shape

__all__ = ["KINDS", "Kind", "Names", "checked"]

Kind = Literal["segmentation", "findings", "boxes", "points"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Names = Mapping[str, tuple[str, ...]]
"""What may be said: name to the choices that a finding has, in their order; none for what is drawn."""
MOST = 500
"""Boxes or points of one image."""


def checked(kind: Kind, said: Any, names: Names, shape: Shape) -> Any:
    """Return what was said in its one form, JSON-ready.

    Args:
        kind: Of the label; a segmentation's voxels are checked where they are read.
        said: Findings as ``{name: choice}``; boxes as ``[{"label": name, "voxels": [low, high]}]`` and points as
            ``[{"label": name, "voxel": [i, j, k]}]``, both in voxel coordinates, where voxel n reaches from n - 0.5 to n + 0.5.
        names: What may be said.
        shape: Of the image.

    Raises:
        InputError: If it has another form, or says what may not be said.
    """
    return _CHECKS[kind](said, names, shape)


def _findings(said: Any, names: Names, shape: Shape) -> dict[str, str]:
    if not isinstance(said, Mapping):
        raise InputError('findings are an object such as {"oedema": "present"}')
    for name, choice in said.items():
        if choice not in _choices(name, names):
            raise InputError(f"{name} can't be {choice!r}: choose from {', '.join(names[name])}")
    missing = [name for name in names if name not in said]
    if missing:
        raise InputError(f"nothing is said of {', '.join(missing)}: every finding needs a choice")
    return {name: said[name] for name in names}


def _boxes(said: Any, names: Names, shape: Shape) -> list[dict[str, Any]]:
    found = []
    for item in _listed(said, "boxes", "voxels"):
        _choices(item["label"], names)
        low, high = (_place(end, shape) for end in _pair(item["voxels"]))
        if any(high[axis] <= low[axis] for axis in range(3)):
            raise InputError(f"a box reaches from {low} to {high}: its second corner must lie above its first on every axis")
        found.append({"label": item["label"], "voxels": [low, high]})
    return found


def _points(said: Any, names: Names, shape: Shape) -> list[dict[str, Any]]:
    found = []
    for item in _listed(said, "points", "voxel"):
        _choices(item["label"], names)
        found.append({"label": item["label"], "voxel": _place(item["voxel"], shape)})
    return found


def _listed(said: Any, kind: str, key: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(said, list) or len(said) > MOST or any(not _has(item, key) for item in said):
        raise InputError(f'{kind} are a list of at most {MOST:,} objects, each with "label" and "{key}"')
    return said


def _has(item: Any, key: str) -> bool:
    return isinstance(item, Mapping) and {"label", key} <= set(item)


def _pair(said: Any) -> Sequence[Any]:
    if not isinstance(said, list) or len(said) != 2:
        raise InputError("a box has two corners, each of three voxel coordinates")
    return said


def _place(said: Any, shape: Shape) -> list[float]:
    """Read voxel coordinates within an image, whose outermost voxels reach half a voxel beyond their centres."""
    numbers = said if isinstance(said, list) and len(said) == 3 else []
    plain = [float(value) for value in numbers if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(plain) != 3 or not all(map(math.isfinite, plain)):
        raise InputError("a place is three voxel coordinates, such as [10, 20.5, 3]")
    if any(not -0.5 <= value <= size - 0.5 for value, size in zip(plain, shape, strict=True)):
        raise InputError(f"place {plain} lies outside the image, which has {'×'.join(map(str, shape))} voxels")
    return plain


def _choices(name: Any, names: Names) -> tuple[str, ...]:
    if not isinstance(name, str) or name not in names:
        raise InputError(f"{str(name)[:40]!r} isn't one of this project's names: {', '.join(names)}")
    return names[name]


_CHECKS: Mapping[Kind, Callable[[Any, Names, Shape], Any]] = {"findings": _findings, "boxes": _boxes, "points": _points}
