"""What voxels were and became between two time points: a label map of a pair.

With labels 1 to n, and 0 for background, a voxel that was ``b`` and became ``a`` has the value ``b + (n + 1)·a``: whatever
stayed background has 0, as in any label map, and who exchanges the time points transposes the table of values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medray.errors import ConfigError
from medray.imaging.labels import LabelSchema
from medray.types import Mask

__all__ = ["Transitions"]

BACKGROUND = "background"
TO = " to "
MOST = 15
"""Labels: with background these are 256 values."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """Between labels.

    Attributes:
        labels: Their names; the first is 1 in the masks of one time point.

    Raises:
        ConfigError: If there is none, there are more than 15, or a name would be read as two.
    """

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.labels) <= MOST:
            raise ConfigError(f"change is followed of 1 to {MOST} labels, not of {len(self.labels)}: say which (labels)")
        unfit = [name for name in self.labels if TO in name or name == BACKGROUND]
        if unfit or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels {', '.join(self.labels)}: each must differ, none be {BACKGROUND!r} or hold {TO!r}")

    @classmethod
    def of(cls, schema: LabelSchema) -> Transitions:
        """Read which labels a schema of transitions is about.

        Raises:
            ConfigError: If it is of something else.
        """
        firsts = dict.fromkeys(name.partition(TO)[0] for name in schema.names)
        found = tuple(name for name in firsts if name != BACKGROUND)
        if len(found) <= MOST and found and BACKGROUND in firsts and (made := cls(found)).schema == schema:
            return made
        raise ConfigError(f"labels {', '.join(schema.names)} are of one time point: make pairs first (medray cohort pairs)")

    @property
    def states(self) -> int:
        """Background and labels."""
        return len(self.labels) + 1

    @property
    def schema(self) -> LabelSchema:
        """What the values of a label map of a pair mean."""
        names = (BACKGROUND, *self.labels)
        pairs = [(was, became) for became in range(self.states) for was in range(self.states)]
        return LabelSchema({f"{names[was]}{TO}{names[became]}": was + self.states * became for was, became in pairs[1:]})

    def joined(self, before: Mask, after: Mask) -> Mask:
        """Return the label map of a pair from those of its time points, on one grid."""
        return (before + np.uint8(self.states) * after).astype(np.uint8)

    def parted(self, pair: Mask) -> tuple[Mask, Mask]:
        """Undo `joined`."""
        return pair % np.uint8(self.states), pair // np.uint8(self.states)

    def before(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum numbers of transitions ``(states², ...)`` by what they came from: ``(states, ...)``."""
        return np.asarray(self._table(values).sum(axis=0))

    def after(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum them by what they led to."""
        return np.asarray(self._table(values).sum(axis=1))

    def numbers(self, label: str) -> tuple[int, int, int]:
        """Return the values of what a label lost to background, gained from it, and kept."""
        own = 1 + self.labels.index(label)
        return own, own * self.states, own * (1 + self.states)

    def _table(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """View numbers of transitions as ``(after, before, ...)``."""
        return values.reshape(self.states, self.states, *values.shape[1:])
