"""A space midway between time points: transforms between pairs of them, averaged so that none is preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from scipy.linalg import expm, logm

from medray.errors import ImageError
from medray.types import Affine

__all__ = ["inverse", "midway", "pairs_of", "symmetric"]

ROUNDS = 50
CLOSE = 1e-7


def inverse(matrix: Affine) -> Affine:
    """Return a transform's inverse."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def symmetric(there: Affine, back: Affine) -> Affine:
    """Average a transform with the inverse of the one that was found the other way round.

    Half of their difference is taken in the tangent space (Arsigny et al., A log-Euclidean polyaffine framework, MICCAI 2006),
    so that exchanging the two images gives exactly the inverse.

    Args:
        there: ``(4, 4)``, from the first image's LPS mm to the second's.
        back: From the second's to the first's.
    """
    return np.asarray(there @ expm(_log(inverse(back @ there)) / 2))


def midway(between: Mapping[tuple[int, int], Affine], count: int) -> list[Affine]:
    """Find the space midway between images.

    Args:
        between: For pairs ``(i, j)``, ``(4, 4)`` from image ``i``'s LPS mm to image ``j``'s; enough of them to join all.
        count: How many images there are.

    Returns:
        For each image, ``(4, 4)`` from the midway space's LPS mm to the image's. Their logarithms have mean zero, and
        ``between[i, j]`` is about ``result[j] @ inverse(result[i])``.

    Raises:
        ImageError: If some image isn't joined to the others.
    """
    both = {**between, **{(j, i): inverse(matrix) for (i, j), matrix in between.items()}}
    found = _from_first(both, count)
    for _ in range(ROUNDS):
        steps = [
            np.mean([_log(inverse(found[i]) @ both[j, i] @ found[j]) for j in range(count) if (j, i) in both], axis=0)
            for i in range(count)
        ]
        found = _centred([matrix @ expm(step / 2) for matrix, step in zip(found, steps, strict=True)])
        if max(float(np.abs(step).max()) for step in steps) < CLOSE:
            break
    return found


def _from_first(both: Mapping[tuple[int, int], Affine], count: int) -> list[Affine]:
    """Follow pairs from the first image to every other."""
    found: dict[int, Affine] = {0: np.eye(4)}
    while len(found) < count:
        step = next(((i, j) for i, j in both if i in found and j not in found), None)
        if step is None:
            lost = sorted(set(range(count)) - set(found))
            raise ImageError("not-joined", f"time point {lost[0] + 1} is aligned with none of those before it")
        found[step[1]] = both[step] @ found[step[0]]
    return _centred([found[number] for number in range(count)])


def _centred(found: Sequence[Affine]) -> list[Affine]:
    """Move the common space to where the transforms out of it have logarithms of mean zero."""
    moved = list(found)
    for _ in range(ROUNDS):
        mean = np.mean([_log(matrix) for matrix in moved], axis=0)
        if float(np.abs(mean).max()) < CLOSE:
            break
        back = expm(-mean)
        moved = [matrix @ back for matrix in moved]
    return moved


def _log(matrix: Affine) -> Affine:
    """Return the principal logarithm of a transform that turns by less than half a circle."""
    found = logm(matrix)
    return np.asarray(found.real if np.iscomplexobj(found) else found)


def pairs_of(count: int) -> list[tuple[int, int]]:
    """Return which images are registered with one another: all of few; of many, each with the two before it and the first."""
    return [(i, j) for i, j in permutations(range(count), 2) if i < j and (count <= 4 or j - i <= 2 or i == 0)]
