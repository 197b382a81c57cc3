"""What may be built of a MONAI Bundle that nobody has vouched for: MONAI's own classes, literals and arithmetic.

A configuration is a program, and MONAI's parser runs more of it than what is asked for: every import statement, any callable
that a path leads to, names in expressions. So nothing is handed to it but what was read here: the parts that are needed, with
keys that mean one thing only, no macros, and each ``_target_`` replaced by the full name of a class that is known to do nothing
but compute.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Unsafe", "harmless"]

OWN = ("monai.networks.", "monai.inferers.", "monai.transforms.")
"""Packages of classes that do nothing but compute."""
FORBIDDEN = ("lambda", "save", "load", "write", "cucim", "torchio", "torchvision", "huggingface", "pretrained", "simulatedelay")
"""In names of such classes that run, read, write, fetch or wait for something else."""
SETTINGS = frozenset({"_target_", "_requires_", "_disabled_", "_desc_"})
"""Of MONAI's own keys of a component; ``_mode_`` and ``_debug_`` aren't among them."""
HARMLESS = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.BinOp, ast.IfExp,
    ast.Compare, ast.BoolOp, ast.USub, ast.UAdd, ast.Not, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.And,
    ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip
KEY = re.compile(r"[A-Za-z0-9_\- .]+")
REFERENCE = re.compile(r"@([\w\-. ]*(?:(?:::|#)[\w\-. ]+)*)")
PLACE = "reference__"
GIVEN = ("bundle_root", "device")
"""Parts that medray itself puts in."""


class Unsafe(Exception):  # noqa: N818 - says what, for who turns it into a message
    """A part would run, read or fetch something."""


def harmless(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the parts of a configuration that building some of them takes, and nothing else.

    Args:
        config: As it is written.
        names: Of the parts at its top.

    Raises:
        Unsafe: If a part does more than put MONAI's own classes together.
    """
    kept: dict[str, Any] = {}
    left = list(names)
    while left:
        name = left.pop()
        if name in kept or name in GIVEN:
            continue
        if name not in config:
            raise Unsafe(f"the reference @{name} to what isn't there")
        kept[name] = _checked(_key(name), config[name], left)
    return kept


def _checked(key: str, value: Any, left: list[str]) -> Any:
    """Return a part as it may be built; adds what it refers to."""
    if isinstance(value, dict):
        made = {_key(name): _checked(name, item, left) for name, item in value.items()}
        return _component(made) if "_target_" in made else made
    if isinstance(value, list):
        return [_checked(key, item, left) for item in value]
    if isinstance(value, str):
        return _text(value, left)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise Unsafe(f"a {type(value).__name__} in {key!r}")


def _key(name: Any) -> str:
    if not isinstance(name, str) or not KEY.fullmatch(name):
        raise Unsafe(f"the key {str(name)[:60]!r}")
    if name.startswith("_") and name.endswith("_") and name not in SETTINGS:
        raise Unsafe(f"the setting {name}")
    return name


def _text(value: str, left: list[str]) -> str:
    if value.startswith("%"):
        raise Unsafe(f"the macro {value[:60]!r}")
    if value.startswith("$") and not _arithmetic(value[1:]):
        raise Unsafe(f"the expression {value[:60]!r}")
    if value.startswith(("$", "@")):
        for found in REFERENCE.findall(value):
            first = re.split(r"::|#", found)[0].strip()
            if not first:
                raise Unsafe(f"the relative reference {value[:60]!r}")
            left.append(first)
    return value


def _arithmetic(expression: str) -> bool:
    """Tell whether an expression does nothing but arithmetic on literals and references."""
    try:
        tree = ast.parse(REFERENCE.sub(PLACE, expression), mode="eval")
    except SyntaxError:
        return False
    nodes = list(ast.walk(tree))
    named = all(node.id == PLACE for node in nodes if isinstance(node, ast.Name))
    return named and all(isinstance(node, HARMLESS) for node in nodes)


def _component(item: dict[str, Any]) -> dict[str, Any]:
    """Return a component with its class's full name."""
    target = item["_target_"]
    found = _class_of(target) if isinstance(target, str) else None
    if found is None or item.get("pretrained"):
        raise Unsafe(f"the component {str(target)[:60]!r}")
    return {**item, "_target_": f"{found.__module__}.{found.__qualname__}"}


def _class_of(target: str) -> type | None:
    """Return the class that a name means, if it is one of MONAI's that do nothing but compute."""
    import monai.inferers  # noqa: PLC0415 - two seconds
    import monai.networks.blocks  # noqa: PLC0415
    import monai.networks.layers  # noqa: PLC0415
    import monai.networks.nets  # noqa: PLC0415
    import monai.transforms  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    name = target.rpartition(".")[2]
    if "." in target and not target.startswith(OWN):
        return None
    places = (monai.networks.nets, monai.networks.blocks, monai.networks.layers, monai.inferers, monai.transforms)
    found = next((getattr(place, name) for place in places if hasattr(place, name)), None)
    kinds = (nn.Module, monai.inferers.Inferer, monai.transforms.Transform)
    if not inspect.isclass(found) or not issubclass(found, kinds) or "." in found.__qualname__:
        return None
    own = found.__module__.startswith(OWN) or f"{found.__module__}." in OWN
    return found if own and not any(word in found.__name__.lower() for word in FORBIDDEN) else None
