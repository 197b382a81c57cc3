"""A search space: which fields of plan and fit may vary, and how far. Pure data; no Ray.

::

    [fit]
    learning_rate = { low = 1e-4, high = 1e-2, log = true }
    average = { choose = [0.0, 0.99] }
    [plan]
    foreground_share = { low = 0.3, high = 0.9 }
    "network.features" = { choose = [[16, 32, 64], [32, 64, 128]] }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.errors import ConfigError
from medray.preprocessing.plan import Plan
from medray.training.config import FitConfig

__all__ = ["Range", "Space", "applied", "read_space"]

FREE = ("batch", "patch", "foreground_share", "target_weights", "overlap", "mirror", "network")
"""Fields of a plan on which prepared cases don't depend."""


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Range:
    """Where one field may lie: between two numbers, or among choices.

    Attributes:
        low: The least.
        high: The most; whole numbers when both are.
        log: Whether factors, not differences, are equally likely.
        choose: The choices.
    """

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choose: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        between = self.low is not None and self.high is not None
        if between == bool(self.choose) or (self.low is None) != (self.high is None):
            raise ConfigError("a range has low and high, or choose")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"low {self.low} must be below high {self.high}")
        if self.log and not (self.low or 0) > 0:
            raise ConfigError(f"low {self.low} must be positive where log is true")


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Space:
    """A search space.

    Attributes:
        fit: Field of `FitConfig` to its range.
        plan: Field of `Plan` to its range; dots nest.
    """

    fit: Mapping[str, Range] = Field(default_factory=dict)
    plan: Mapping[str, Range] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.fit and not self.plan:
            raise ConfigError("nothing varies: give a table fit or plan")
        known = {field.name for field in fields(FitConfig)} - {"epochs", "steps", "seed", "picture", "keep", "max_failures"}
        for name in self.fit:
            if name not in known:
                raise ConfigError(f"fit.{name} can't be searched; what can is {', '.join(sorted(known))}")
        for name in self.plan:
            if name.split(".")[0] not in FREE:
                raise ConfigError(f"plan.{name} would change the prepared cases; what can be searched is {', '.join(FREE)}")

    @property
    def ranges(self) -> dict[str, Range]:
        """``fit.NAME`` and ``plan.NAME`` to range."""
        return {f"fit.{name}": range_ for name, range_ in self.fit.items()} | {
            f"plan.{name}": range_ for name, range_ in self.plan.items()
        }


def read_space(settings: Mapping[str, Any], *, what: str = "the space") -> Space:
    """Make a space from plain data.

    Raises:
        ConfigError: If a field is unknown or can't be searched, or a range is impossible.
    """
    return config.load(Space, settings, what=what)


def applied(plan: Plan, fit_config: FitConfig, chosen: Mapping[str, Any]) -> tuple[Plan, FitConfig]:
    """Return plan and config with one point of the space in them.

    Args:
        plan: To start from.
        fit_config: To start from.
        chosen: ``fit.NAME`` and ``plan.NAME`` to value.

    Raises:
        ConfigError: If the point is impossible, such as features that a patch can't be halved for.
    """
    tables: dict[str, dict[str, Any]] = {"fit": {}, "plan": {}}
    for name, value in chosen.items():
        table, _, key = name.partition(".")
        _nest(tables[table], key.split("."), value)
    reasons = dict.fromkeys(tables["plan"], "found by search")
    settings = config.merged(config.dump(plan), tables["plan"] | ({"reasons": reasons} if reasons else {}))
    made = config.load(Plan, settings, what="the trial's plan")
    return made, config.load(FitConfig, config.merged(config.dump(fit_config), tables["fit"]), what="the trial's config")


def _nest(table: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
