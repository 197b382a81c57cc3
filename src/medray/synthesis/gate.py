"""The gate: synthetic images that don't look like the cohort, or look too much like one person in it, are not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as strict_dataclass

from medray.config import STRICT
from medray.errors import InputError
from medray.evaluation.fidelity import discrepancy, nearest

__all__ = ["Gate", "Judgement", "Seen", "check_enough", "judge"]

LEAST_REAL = 4
COPY = 0.5
"""A copy is so many times as far from a training image as the two nearest real people are from each other, or less."""


@strict_dataclass(frozen=True, kw_only=True, config=STRICT)
class Gate:
    """What is asked of synthetic images.

    Attributes:
        mean_off: How far a label's mean intensity may be off, in normalised units, on average.
        texture_off: How far the logarithm of a label's texture may be off: log 2 means twice or half the contrast.
        discrepancy: Highest squared maximum mean discrepancy of all these numbers: see `medray.evaluation.fidelity`.
        copies: Share of images that may be left out as too near to one real image before all of them are refused.
    """

    mean_off: float = 0.25
    texture_off: float = 0.7
    discrepancy: float = 0.5
    copies: float = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the gate knows of one image.

    Attributes:
        series: Its name.
        subject: Whose it is.
        labels: Label to its description.
        thumbnail: See `medray.evaluation.fidelity.thumbnail`.
    """

    series: str
    subject: str
    labels: Mapping[str, NDArray[np.float64]]
    thumbnail: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate found.

    Attributes:
        passed: Whether the images that are no copies may be trained on.
        why: What is wrong, a sentence each.
        mean_off: Label to how far its mean is off.
        texture_off: Label to how far its texture is off, the farthest band.
        discrepancy: Of synthetic from real training images.
        among_real: The same of one half of these from the other: what no generator can be better than.
        copies: Images at most half as far from a training image as those of any two people are from each other.
        nearest: The highest correlation of a synthetic image with a training image.
        nearest_real: The highest of a real image with another person's.
    """

    passed: bool
    why: tuple[str, ...]
    mean_off: Mapping[str, float]
    texture_off: Mapping[str, float]
    discrepancy: float
    among_real: float
    copies: tuple[str, ...] = field(repr=False)
    nearest: float
    nearest_real: float


def judge(gate: Gate, synthetic: Sequence[Seen], real: Sequence[Seen], channels: int) -> Judgement:
    """Hold synthetic images against the real ones that the generator was trained on.

    Args:
        gate: What is asked.
        synthetic: At least two.
        real: The training images, at least `LEAST_REAL`, of two people or more.
        channels: Of an image.

    Raises:
        InputError: If there are too few.
    """
    check_enough([seen.subject for seen in real])
    if len(synthetic) < 2:
        raise InputError(f"{len(synthetic)} synthetic image can't be judged: two at least")
    names = sorted({name for seen in real for name in seen.labels})
    off = {name: _off(name, synthetic, real, channels) for name in names}
    usual_look = {name: np.mean([seen.labels[name] for seen in real if name in seen.labels], axis=0) for name in names}
    first, second = (  # a label that an image doesn't have tells nothing of it
        np.stack([np.concatenate([seen.labels.get(name, usual_look[name]) for name in names]) for seen in side])
        for side in (real, synthetic)
    )
    apart, among = discrepancy(first, second), discrepancy(first[::2], first[1::2])
    thumbs, known = (np.stack([seen.thumbnail for seen in side]) for side in (synthetic, real))
    people = np.array([seen.subject for seen in real])
    near, usual = nearest(thumbs, known), float(nearest(known, known, unless=people[:, None] == people).max())
    copies = tuple(seen.series for seen, value in zip(synthetic, near, strict=True) if 1 - value < COPY * (1 - usual))
    means = {name: float(values[:, 0].mean()) for name, values in off.items()}
    textures = {name: float(values[:, 1:].mean(axis=0).max()) for name, values in off.items()}
    why = [f"{name} is {value:.2f} too bright or too dark" for name, value in means.items() if value > gate.mean_off]
    why += [f"{name}'s texture is off by a factor of {np.exp(v):.1f}" for name, v in textures.items() if v > gate.texture_off]
    if apart > gate.discrepancy:
        why.append(f"the images are of another kind: their discrepancy is {apart:.2f}")
    if len(copies) > gate.copies * len(synthetic):
        why.append(f"{len(copies)} of {len(synthetic)} images are nearer to a training image than any other person's is")
    return Judgement(not why, tuple(why), means, textures, apart, among, copies, float(near.max()), usual)


def check_enough(subjects: Sequence[str]) -> None:
    """Check, before images are made, that there are enough real ones to judge them by.

    Args:
        subjects: Whose the real images are.

    Raises:
        InputError: If there are too few images, or all are of one person.
    """
    if len(subjects) < LEAST_REAL or len(set(subjects)) < 2:
        raise InputError(
            f"{len(subjects)} training images of {len(set(subjects))} people: "
            f"synthetic ones are judged by {LEAST_REAL} at least, of two people or more"
        )


def _off(name: str, synthetic: Sequence[Seen], real: Sequence[Seen], channels: int) -> NDArray[np.float64]:
    """Return how far apart the two sides' mean descriptions of a label are: ``(channels, 1 + bands)``, means first."""
    made = [seen.labels[name] for seen in synthetic if name in seen.labels]
    if not made:
        return np.full((channels, 2), np.inf)
    taken = [seen.labels[name] for seen in real if name in seen.labels]
    apart = np.abs(np.mean(made, axis=0) - np.mean(taken, axis=0)).reshape(channels, -1)
    kept: NDArray[np.float64] = np.delete(apart, 1, axis=1)  # the deviation is what the bands are parts of
    return kept
