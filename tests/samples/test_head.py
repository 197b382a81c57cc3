import numpy as np
import pytest
from scipy import ndimage

from medray.errors import ConfigError
from medray.samples.head import load_head, scan_head, write_head_cohort
from tests.phantoms import take_in_all


@pytest.fixture(scope="module")
def heads():
    return [scan_head(np.random.default_rng([3, number])) for number in range(5)]


def test_a_head_is_a_brain_of_a_plausible_size_in_one_piece(heads):
    for image, brain in heads:
        assert brain.shape == image.shape
        assert 450 < brain.sum() * image.voxel_ml < 2600
        pieces, count = ndimage.label(brain)
        assert count == 1 or np.bincount(pieces.ravel())[1:].max() > 0.999 * brain.sum()


def test_no_head_is_like_another(heads):
    orders = {tuple(np.argmax(np.abs(image.affine[:3, :3]), axis=0)) for image, _ in heads}
    thickness = [max(image.spacing_mm) for image, _ in heads]
    assert len(orders) > 1
    assert max(thickness) > 1.5 * min(thickness)
    brightness = []
    for image, brain in heads:
        values = image.voxels[0].astype(float)
        ring = ndimage.binary_dilation(brain, iterations=3) & (brain == 0)
        brightness.append(values[brain > 0].mean() / values[ring].mean())
    assert min(brightness) < 1.2
    assert max(brightness) > 1.5, "the brain may be brighter than what surrounds it, or not"


def test_the_field_of_view_holds_the_whole_brain_and_some_of_the_rest(heads):
    for image, brain in heads:
        faces = [brain.take(side, axis).sum() for axis in range(3) for side in (0, -1)]
        assert sum(faces) < 0.01 * brain.sum()
        assert image.voxels.max() > 0


def test_the_atlas_is_taken_apart_without_a_rest():
    head = load_head()
    assert set(np.unique(head.kinds)) == set(range(len(head.means)))
    assert np.array_equal((head.kinds >= 1) & (head.kinds <= 4), head.brain > 0)
    assert np.all(np.diff(head.means[1:5]) > 0)


def test_a_cohort_of_heads_ingests_and_equal_seeds_give_equal_files(tmp_path):
    root = write_head_cohort(tmp_path / "heads", subjects=2, seed=5)
    again = write_head_cohort(tmp_path / "again", subjects=2, seed=5)
    files = sorted(file.relative_to(root) for file in root.rglob("*.nii.gz"))
    assert len(files) == 4
    assert all((root / file).read_bytes() == (again / file).read_bytes() for file in files)
    cohort = take_in_all(root, tmp_path)
    assert cohort.index.counts == {"subjects": 2, "series": 2, "labels": 2, "quarantined": 0}
    assert list(cohort.index.labels.names) == ["brain"]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").write_text("here")
    with pytest.raises(ConfigError, match="never overwrite"):
        write_head_cohort(tmp_path)
