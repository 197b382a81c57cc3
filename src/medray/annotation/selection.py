"""Which image to label next: those of which a model is least sure, those that are least like what is labelled, or both.

Scores and features in, an order out; see `medray.inference.uncertainty` for where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medray.errors import ConfigError

__all__ = ["By", "next_cases"]

By = Literal["uncertainty", "diversity", "both"]


def next_cases(
    scores: Mapping[str, float],
    features: Mapping[str, Sequence[float]],
    count: int,
    *,
    by: By = "both",
    labelled: Sequence[str] = (),
) -> list[str]:
    """Choose images to label, the most useful first.

    Diversity is the greedy core-set (Sener & Savarese, ICLR 2018, arXiv:1708.00489): always the image that is farthest from
    all that are labelled or chosen. Both: always the image with the largest product of that distance and its score's rank.

    Args:
        scores: Image to how unsure a model is of it.
        features: Image to what it is like: of those that are scored, and of those that are labelled.
        count: How many to choose; fewer where there are no more.
        by: What counts.
        labelled: Images that are labelled already: not chosen, and what others must differ from.

    Returns:
        Images that are scored and not labelled, each once.

    Raises:
        ConfigError: If ``by`` is unknown.
    """
    if by not in get_args(By):
        raise ConfigError(f"by={by!r}: choose one of {', '.join(get_args(By))}")
    pool = sorted(set(scores) - set(labelled), key=lambda name: (-scores[name], name))
    if by == "uncertainty" or not pool:
        return pool[:count]
    known = [name for name in labelled if name in features]
    scaled = _scaled([features[name] for name in (*pool, *known)])
    rank = np.linspace(1.0, 0.0, len(pool), endpoint=False) if by == "both" else np.ones(len(pool))
    return [pool[place] for place in _farthest(scaled[: len(pool)], scaled[len(pool) :], rank, count)]


def _scaled(features: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Give each feature a mean of 0 and a deviation of 1 over all images."""
    table = np.asarray(features, np.float32)
    spread = table.std(axis=0)
    scaled: NDArray[np.float32] = (table - table.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    return scaled


def _farthest(pool: NDArray[np.float32], known: NDArray[np.float32], rank: NDArray[np.float64], count: int) -> list[int]:
    """Return places in the pool: always the one with the largest product of rank and distance to the nearest known one."""
    near = np.full(len(pool), np.inf)
    for one in known:
        near = np.minimum(near, ((pool - one) ** 2).sum(axis=1))
    if not len(known):  # the first one: nearest to the middle, for it stands for the most
        near = 1 / (1e-6 + (pool**2).sum(axis=1))
    chosen: list[int] = []
    free = np.ones(len(pool), bool)
    while free.any() and len(chosen) < count:
        place = int(np.argmax(np.where(free, rank * np.sqrt(near), -1)))
        if not chosen and not len(known):
            near = np.full(len(pool), np.inf)
        chosen.append(place)
        free[place] = False
        near = np.minimum(near, ((pool - pool[place]) ** 2).sum(axis=1))
    return chosen
