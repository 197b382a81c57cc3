"""A scan of a subject: a grid, a contrast, a bias field and noise, and the truth on the same grid."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.samples.subject import Subject, affine_of, brain_box, sample_maps
from medray.types import Affine, Mask, Shape

__all__ = ["BRAIN_LABELS", "Protocol", "Scan", "bias", "grid_points", "rician", "scan_subject"]

BRAIN_LABELS = LabelSchema({"grey-matter": 1, "white-matter": 2, "lesion": 3})
WHITE_MATTER_VALUE = 1000
HEAD = 0.05
"""Of the template's T1: more than that is head."""
Field: TypeAlias = NDArray[np.float32]
EDGE_MM = 0.7
"""Width over which a lesion's intensity fades at its surface: a partial-volume edge."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """An image and its truth on one grid.

    Attributes:
        image: int16, one channel.
        mask: ``(I, J, K)``, values of `BRAIN_LABELS`.
    """

    image: Volume
    mask: Mask


@dataclass(frozen=True, slots=True)
class Protocol:
    """How scans differ from those of the samples.

    Attributes:
        spacing: Times the voxels' sides.
        thickness: Times the slices', besides.
        gain: Times the brightness.
        noise: Times the noise.
        bias: Deviation of the smooth gain's coefficients: 0.06 is what is left after bias correction, 0.15 about what is there
            before.
        contrast: ``"t1"``, or ``"t2"`` for the same tissues the other way round: fluid and lesions bright,
            white matter dark.
    """

    spacing: float = 1.0
    thickness: float = 1.0
    gain: float = 1.0
    noise: float = 1.0
    bias: float = 0.06
    contrast: Literal["t1", "t2"] = "t1"


T1 = Protocol()


def scan_subject(subject: Subject, rng: np.random.Generator, protocol: Protocol = T1) -> Scan:
    """Scan a subject with a random grid (spacing, slice direction, tilt, flips), contrast, bias and noise."""
    affine, shape = _draw_grid(subject, rng, protocol)
    points = grid_points(affine, shape)
    t1, grey, white = sample_maps(subject, points)
    inside = _inside_lesions(subject, points, affine)
    signal = _signal(t1, grey, white, inside, rng)
    if protocol.contrast == "t2":
        signal = _turned(signal, t1)
    signal *= bias(points, subject.centre, rng, protocol.bias)
    noisy = rician(signal, rng.uniform(0.008, 0.03) * protocol.noise, rng)
    gain = rng.uniform(0.6, 1.5) * protocol.gain * WHITE_MATTER_VALUE
    image = Volume(np.clip(noisy * np.float32(gain), 0, 4095).astype(np.int16)[np.newaxis], affine, {"modality": "MR"})
    return Scan(image, _truth(grey, white, inside))


def _turned(signal: Field, t1: Field) -> Field:
    """Return a head's signal the other way round: fluid and lesions, which T1 shows dark, are bright."""
    turned: Field = np.where(t1 > HEAD, np.clip(1.15 - signal, 0.1, 1), signal).astype(np.float32)
    return turned


def _draw_grid(subject: Subject, rng: np.random.Generator, protocol: Protocol) -> tuple[Affine, Shape]:
    axes = list(permutations(range(3)))[rng.integers(6)]
    signed = np.eye(3)[:, axes] * rng.choice([-1.0, 1.0], 3)
    tilt = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    directions = tilt @ signed
    in_plane = rng.uniform(0.95, 1.25)
    spacing = np.array([in_plane, in_plane, rng.uniform(1.0, 1.8) * protocol.thickness]) * protocol.spacing
    along = (brain_box(subject) - subject.centre) @ directions
    low, high = along.min(axis=0), along.max(axis=0)
    i, j, k = (int(n) for n in np.ceil((high - low) / spacing) + 1)
    origin = directions @ low + subject.centre
    return affine_of(directions, spacing, origin), (i, j, k)


def grid_points(affine: Affine, shape: Shape) -> Field:
    """Return every voxel's place in LPS mm, ``(I, J, K, 3)``."""
    steps = [np.arange(n)[:, None] * affine[:3, axis] for axis, n in enumerate(shape)]
    i, j, k = (step.astype(np.float32) for step in steps)
    return (i + affine[:3, 3].astype(np.float32))[:, None, None] + j[None, :, None] + k[None, None]


def _inside_lesions(subject: Subject, points: Field, affine: Affine) -> Field:
    """Return how far inside the nearest lesion each voxel lies, in mm; minus infinity far from all."""
    inside = np.full(points.shape[:3], -np.inf, dtype=np.float32)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for lesion in subject.lesions:
        middle = np.linalg.solve(affine, np.append(lesion.centre, 1.0))[:3]
        reach = (lesion.radii.max() + 4 * EDGE_MM) / spacing
        low = np.maximum(np.floor(middle - reach), 0).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, np.ceil(middle + reach).astype(int) + 1, strict=True))
        inside[box] = np.maximum(inside[box], lesion.inside_mm(points[box]))
    return inside


def _signal(t1: Field, grey: Field, white: Field, inside: Field, rng: np.random.Generator) -> Field:
    """Remap the real intensities: a gamma, a shift for each tissue, and darker lesions (T1 black holes)."""
    signal = np.power(t1, np.float32(rng.uniform(0.75, 1.3)))
    signal += np.float32(rng.normal(0, 0.02)) * grey
    signal += np.float32(rng.normal(0, 0.02)) * white
    darker = rng.uniform(0.55, 0.75)
    near = inside > -np.inf
    share = 1 / (1 + np.exp(np.clip(-inside[near] / (EDGE_MM / 2), -50, 50)))
    signal[near] *= 1 - share * np.float32(1 - darker)
    return signal


def bias(points: Field, centre: NDArray[np.float64], rng: np.random.Generator, deviation: float = 0.06) -> Field:
    """Return a smooth gain, the exponential of a random quadratic: by default within about ±25 %."""
    local = (points - centre.astype(np.float32)) / np.float32(90)
    linear = rng.normal(0, deviation, 3).astype(np.float32)
    square = rng.normal(0, deviation, (3, 3)).astype(np.float32)
    gain: Field = np.exp(((local @ square + linear) * local).sum(axis=-1))
    return gain


def rician(signal: Field, sigma: float, rng: np.random.Generator) -> Field:
    """Add the noise of a magnitude image (Gudbjartsson & Patz, MRM 34 (1995) 910-914)."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    magnitude: Field = np.hypot(signal + real, imaginary)
    return magnitude


def _truth(grey: Field, white: Field, inside: Field) -> Mask:
    mask = np.zeros(grey.shape, dtype=np.uint8)
    tissue = grey + white > 0.5
    mask[tissue & (grey >= white)] = BRAIN_LABELS.names["grey-matter"]
    mask[tissue & (white > grey)] = BRAIN_LABELS.names["white-matter"]
    mask[inside > 0] = BRAIN_LABELS.names["lesion"]
    return mask
