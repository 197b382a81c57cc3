"""One simulated person: a smooth deformation of the real anatomy, lesions of known volume, and scans of it.

A subject's space is LPS mm. ``Subject.template_points`` maps its points to the template's, so that every scan of the
subject, whatever its grid, samples the same head. Lesions are ellipsoids in the subject's space: their volume is
4/3·π·a·b·c, whatever voxels they are later drawn on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, zoom
from scipy.spatial.transform import Rotation

from medray.samples.anatomy import Anatomy
from medray.types import Affine

__all__ = [
    "COURSES",
    "Lesion",
    "Subject",
    "affine_of",
    "atrophied",
    "brain_box",
    "deformation",
    "followed_up",
    "make_subject",
    "sample_maps",
]

Points = TypeVar("Points", NDArray[np.float32], NDArray[np.float64])
CONTROL_POINTS = (6, 7, 6)
DISPLACEMENT_MM = 3.0
FIELD_STEP = 4
LESION_DEPTH_MM = 3.0
VENTRICLES_LPS_MM = np.array([0.0, 12.0, 16.0])
"""About the middle of the lateral ventricles in the MNI152 space."""
ATROPHY_MM = 55.0
COURSES: dict[str, tuple[float, float, int]] = {
    "mixed": (0.6, 2.0, 1),
    "grown": (1.3, 2.2, 1),
    "stable": (0.95, 1.05, 0),
    "shrunk": (0.4, 0.75, 0),
}
"""The least and the largest factor by which a lesion's volume changes until the next scan, and how many are new then."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """An ellipsoid in a subject's space.

    Attributes:
        centre: LPS mm.
        radii: Semi-axes in mm.
        axes: ``(3, 3)`` rotation; its columns are the directions of the semi-axes.
    """

    centre: NDArray[np.float64]
    radii: NDArray[np.float64]
    axes: NDArray[np.float64]

    @property
    def volume_ml(self) -> float:
        """The ellipsoid's volume in millilitres."""
        return float(4 / 3 * np.pi * self.radii.prod()) / 1000.0

    def inside_mm(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return for LPS mm ``(..., 3)`` roughly how far inside the surface each lies, in mm; negative outside."""
        scaled = (points - self.centre) @ self.axes / self.radii
        inside: NDArray[np.float32] = ((1.0 - np.linalg.norm(scaled, axis=-1)) * self.radii.mean()).astype(np.float32)
        return inside


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A head: the anatomy seen through a deformation, with lesions.

    Attributes:
        anatomy: The template.
        linear: ``(3, 3)``, the affine part of the map from subject to template, about the template's centre.
        field: ``(3, I, J, K)`` smooth displacement in mm on the template's box.
        lesions: What the truth contains.
    """

    anatomy: Anatomy
    linear: NDArray[np.float64]
    field: NDArray[np.float32]
    lesions: tuple[Lesion, ...] = ()

    @property
    def centre(self) -> NDArray[np.float64]:
        """The template box's centre in LPS mm, which every subject shares."""
        middle = (np.array(self.anatomy.maps.shape[1:]) - 1) / 2
        return self.anatomy.affine[:3, :3] @ middle + self.anatomy.affine[:3, 3]

    def template_points(self, points: Points) -> Points:
        """Map LPS mm ``(..., 3)`` of the subject to mm from `centre` in the template's box."""
        local = (points - self.centre.astype(points.dtype)) @ self.linear.T.astype(points.dtype)
        moved = _trilinear(self.field, local / self.half_mm)
        local += np.moveaxis(moved, 0, -1)
        return local

    @property
    def half_mm(self) -> NDArray[np.float32]:
        """Half the template box's size in mm along L, P, S."""
        sides = np.array(self.anatomy.maps.shape[1:]) * np.diag(self.anatomy.affine)[:3]
        return (sides / 2).astype(np.float32)

    def subject_point(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Invert `template_points` for one point by fixed-point iteration, to about 0.01 mm."""
        guess = point.copy()
        for _ in range(25):
            off = point - self.centre - self.template_points(guess[None, :])[0]
            guess = guess + np.linalg.solve(self.linear, off)
        return guess


def make_subject(anatomy: Anatomy, rng: np.random.Generator, *, lesions: int) -> Subject:
    """Draw a subject with ``lesions`` ellipsoids deep in its white matter."""
    scale = np.diag(rng.uniform(0.93, 1.07, 3))
    shear = np.eye(3) + rng.normal(0, 0.015, (3, 3))
    tilt = Rotation.from_euler("xyz", rng.normal(0, 3, 3), degrees=True).as_matrix()
    field = deformation(anatomy.maps.shape[1:], CONTROL_POINTS, DISPLACEMENT_MM, rng)
    healthy = Subject(anatomy, tilt @ scale @ shear, field)
    return Subject(anatomy, healthy.linear, healthy.field, _draw_lesions(healthy, rng, lesions))


def deformation(
    shape: Sequence[int], control: tuple[int, int, int], deviation_mm: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a smooth displacement ``(3, I, J, K)`` in mm for a box of so many voxels, on every fourth of them."""
    points = rng.normal(0, deviation_mm, (3, *control))
    size = np.array([max(2, n // FIELD_STEP) for n in shape])
    return np.stack([zoom(part, size / control, order=3, mode="nearest") for part in points]).astype(np.float32)


def followed_up(subject: Subject, rng: np.random.Generator, course: str = "mixed") -> Subject:
    """Return the same head later.

    Args:
        subject: At the time before.
        rng: Source of randomness.
        course: A key of `COURSES`. ``"mixed"``: each lesion grows or shrinks by itself, and one is new; ``"grown"``: all grow,
            and one is new; ``"stable"``: none changes by more than a twentieth; ``"shrunk"``: all shrink.
    """
    least, most, new = COURSES[course]
    factors = rng.uniform(least, most, len(subject.lesions)) ** (1 / 3)
    later = [Lesion(old.centre, old.radii * factor, old.axes) for old, factor in zip(subject.lesions, factors, strict=True)]
    return Subject(subject.anatomy, subject.linear, subject.field, (*later, *_draw_lesions(subject, rng, new)))


def atrophied(subject: Subject, share: float) -> Subject:
    """Return the same head with wider ventricles: they grow by about ``share`` of their width, and the tissue around gives way.

    The head's outline stays, as the skull makes it stay; what is lost is lost within `ATROPHY_MM` of the ventricles' middle.
    """
    shape = subject.field.shape[1:]
    unit = np.stack(np.meshgrid(*((np.arange(n) + 0.5) * 2 / n - 1 for n in shape), indexing="ij"))
    away = unit * subject.half_mm[:, None, None, None] - (VENTRICLES_LPS_MM - subject.centre)[:, None, None, None]
    near = np.clip(1 - ((away**2).sum(axis=0) / ATROPHY_MM**2) ** 2, 0, 1) ** 2
    field = (subject.field - share * near * away).astype(np.float32)
    return Subject(subject.anatomy, subject.linear, field, subject.lesions)


def sample_maps(subject: Subject, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sample T1, grey and white matter ``(3, ...)`` at LPS mm ``(..., 3)`` of the subject."""
    return _trilinear(subject.anatomy.maps, subject.template_points(points) / subject.half_mm)


def _draw_lesions(subject: Subject, rng: np.random.Generator, count: int) -> tuple[Lesion, ...]:
    places = _deep_white_matter(subject.anatomy)
    drawn = []
    for place in places[rng.integers(len(places), size=count)]:
        template = subject.anatomy.affine[:3, :3] @ place + subject.anatomy.affine[:3, 3]
        radii = rng.uniform(3.0, 6.5) * rng.uniform(0.75, 1.25, 3)
        axes = Rotation.from_rotvec(rng.normal(0, 1, 3)).as_matrix()
        drawn.append(Lesion(subject.subject_point(template), radii, axes))
    return tuple(drawn)


@cache
def _deep_white_matter(anatomy: Anatomy) -> NDArray[np.intp]:
    """Return the template voxels ``(N, 3)`` with room for a lesion around them."""
    depth = distance_transform_edt(anatomy.maps[2] > 0.9)
    return np.argwhere(depth >= LESION_DEPTH_MM)


def _trilinear(maps: NDArray[np.float32], unit: Points) -> NDArray[np.float32]:
    """Sample ``maps (C, I, J, K)`` at ``unit (..., 3)``, where -1 and 1 are the box's outer faces; 0 outside."""
    where = torch.from_numpy(np.ascontiguousarray(unit[..., ::-1], dtype=np.float32)).reshape(1, 1, 1, -1, 3)
    found = torch.nn.functional.grid_sample(torch.from_numpy(maps)[None], where, align_corners=False)
    sampled: NDArray[np.float32] = found.reshape(maps.shape[0], *unit.shape[:-1]).numpy()
    return sampled


def brain_box(subject: Subject) -> NDArray[np.float64]:
    """Return the corners ``(8, 3)`` of a box in LPS mm that holds the subject's head."""
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    return signs * subject.half_mm @ np.linalg.inv(subject.linear).T + subject.centre


def affine_of(rotation: NDArray[np.float64], spacing: NDArray[np.float64], origin: NDArray[np.float64]) -> Affine:
    """Compose an affine from directions (columns), spacing in mm and the first voxel's place."""
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = origin
    return affine
