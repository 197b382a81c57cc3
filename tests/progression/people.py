"""A simulated person, scanned twice: moved, on another grid, with lesions of known volume."""

import numpy as np
from scipy.spatial.transform import Rotation

from medray.imaging.volume import Volume
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import scan_subject
from medray.samples.subject import followed_up, make_subject

NAMES = {"tissue": 1, "lesion": 2}


def motion(degrees, mm, scale=1.0):
    """How a head lies the second time."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * scale ** (1 / 3)
    matrix[:3, 3] = mm
    return matrix


def person(seed, lesions=3):
    """Return a subject and the same later."""
    rng = np.random.default_rng(seed)
    first = make_subject(load_anatomy(), rng, lesions=lesions)
    return first, followed_up(first, rng)


def scanned(subject, seed, moved=None):
    """Return the image and its label map, of tissue and lesions."""
    scan = scan_subject(subject, np.random.default_rng(seed))
    affine = scan.image.affine if moved is None else moved @ scan.image.affine
    labels = np.array([0, 1, 1, 2], np.uint8)[scan.mask]
    return Volume(scan.image.voxels, affine, {"modality": "MR"}), Volume(labels[np.newaxis], affine)
