import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medray.errors import ImageError
from medray.formats.dicom_series import write_dicom_series
from medray.formats.dicom_stack import rectified
from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from tests.formats.test_dicom import WHO, edited, read
from tests.phantoms import grid, orientations

AFFINE = grid(next(iter(orientations())), (1.0, 1.2, 2.0), (5, 10, -8))


def smooth(points):
    """A function of the world that linear interpolation follows well."""
    return 1000 + 30 * points[..., 0] - 20 * points[..., 1] + 10 * points[..., 2]


def tilted_files(slide, count=8):
    """A series whose slices slide along J by ``slide`` mm each, as a tilted gantry writes it."""
    shape = (20, 24, count)
    affine = AFFINE.copy()
    affine[:3, 2] += affine[:3, 1] / 1.2 * slide
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    voxels = np.rint(smooth(to_world(affine, indices)) + 2000).astype(np.int16)
    files = write_dicom_series(Volume(voxels[None], AFFINE), WHO)
    moved = []
    for k, data in enumerate(files):
        position = affine[:3, 3] + k * affine[:3, 2]
        moved.append(edited(data, ImagePositionPatient=[f"{value:.8f}" for value in position]))
    return moved


@settings(deadline=None, max_examples=20)
@given(st.floats(-1.5, 1.5).filter(lambda slide: abs(slide) > 0.05))
def test_a_tilted_stack_becomes_rectangular_and_stays_where_it_was(slide):
    image = read(tilted_files(slide))
    assert image.meta["rectified"] == "gantry tilt"
    axes = image.affine[:3, :3] / np.array(image.spacing_mm)
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-6
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), axis=-1)
    expected = smooth(to_world(image.affine, indices)) + 2000
    covered = image.voxels[0] > image.voxels.min()
    inner = covered & np.roll(covered, 1, 1) & np.roll(covered, -1, 1) & np.roll(covered, 1, 0) & np.roll(covered, -1, 0)
    assert inner.mean() > 0.3
    assert np.abs(image.voxels[0] - expected)[inner].max() < 2.0


def test_rectifying_equals_a_general_interpolator():
    rng = np.random.default_rng(0)
    voxels = rng.normal(size=(1, 9, 10, 5)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:2, 2] = 0.3, -0.7
    result, straight = rectified(voxels, affine)
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in result.shape[1:]], indexing="ij"), axis=0).reshape(3, -1)
    world = to_world(straight, indices.T)
    places = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    expected = map_coordinates(voxels[0], places.T, order=1, mode="constant", cval=np.nan).reshape(result.shape[1:])
    inside = np.isfinite(expected)
    assert inside.mean() > 0.4
    assert np.abs(result[0] - expected)[inside].max() < 1e-5


def test_a_small_shift_is_no_tilt():
    assert "rectified" not in read(tilted_files(0.001)).meta


def test_duplicates_that_are_not_everywhere_are_refused():
    files = write_dicom_series(Volume(np.zeros((1, 4, 4, 5), np.int16), AFFINE), WHO)
    with pytest.raises(ImageError, match="1 slices lie where another one lies"):
        read([*files, edited(files[2], SOPInstanceUID="1.2.3")])
    again = [edited(data, SOPInstanceUID=f"1.2.{k}") for k, data in enumerate(files)]
    with pytest.raises(ImageError, match="nothing tells them apart"):
        read([*files, *again])
    later = [edited(data, TemporalPositionIdentifier=2) for data in again]
    assert read([*files, *later]).voxels.shape[0] == 2


def test_slices_beside_each_other_are_no_channels():
    files = write_dicom_series(Volume(np.zeros((1, 4, 4, 5), np.int16), np.eye(4)), WHO)
    beside = [edited(data, ImagePositionPatient=[100, 0, k], InstanceNumber=50 + k) for k, data in enumerate(files)]
    with pytest.raises(ImageError, match="beside each other"):
        read([*files, *beside])


def test_channels_are_of_one_kind_at_every_slice():
    files = write_dicom_series(Volume(np.zeros((1, 4, 4, 3), np.int16), np.eye(4)), WHO)
    second = [edited(data, EchoTime=str(9 if k else 20), InstanceNumber=50 + k) for k, data in enumerate(files)]
    with pytest.raises(ImageError, match="echo times"):
        read([*files, *second])


def test_an_absurd_tilt_costs_no_memory():
    files = write_dicom_series(Volume(np.zeros((1, 16, 16, 2), np.int16), np.eye(4)), WHO)
    with pytest.raises(ImageError, match="45 degrees"):
        read([files[0], edited(files[1], ImagePositionPatient=[9000, 0, 1])])


def spaced(step, between, thickness, count=6):
    """A stack along its normal, and what its header says of it."""
    affine = np.diag([1.0, 1.0, step, 1.0])
    files = write_dicom_series(Volume(np.zeros((1, 4, 4, count), np.int16), affine), WHO)
    return [edited(data, SpacingBetweenSlices=str(between), SliceThickness=str(thickness)) for data in files]


@pytest.mark.parametrize(("step", "between", "thickness"), [(2.0, 1.0, 1.5), (6.0, 2.0, 2.0), (2.004, 1.0, 0.5)])
def test_a_stack_that_was_thinned_out_evenly_is_refused(step, between, thickness):
    with pytest.raises(ImageError, match=r"mm apart and the header says .* are missing") as caught:
        read(spaced(step, between, thickness))
    assert caught.value.reason == "missing-slices"


@pytest.mark.parametrize(
    ("step", "between", "thickness"),
    [(2.0, 2.0, 2.0), (10.0, 5.0, 5.0), (2.0, 1.2, 1.0), (1.0, 2.0, 1.0), (3.0, 0.0, 1.0), (5.0, 0.625, 5.0)],
)
def test_other_spacings_in_the_header_are_let_be(step, between, thickness):
    """A gap instead of a distance, overlapping slices, a number that fits nothing, none, and a reformatted stack's source's."""
    assert read(spaced(step, between, thickness)).spacing_mm[2] == pytest.approx(step)


def gated(delays, backwards=False):
    """Three images of values 1 to 3 at each of four slices, told apart by numbers and by delays after a heart beat."""
    made = []
    for turn in range(3):
        voxels = np.full((1, 4, 4, 4), turn + 1, np.int16)
        for k, data in enumerate(write_dicom_series(Volume(voxels, np.eye(4)), WHO)):
            number = 10 * k + (2 - turn if backwards else turn)
            made.append(edited(data, SOPInstanceUID=f"1.{turn}.{k}", InstanceNumber=number, TriggerTime=str(delays[k][turn])))
    return made


def test_delays_that_jitter_mix_no_images():
    jitter = [(700, 710, 705), (702, 699, 706), (705, 701, 700), (699, 706, 703)]
    image = read(gated(jitter))
    assert [np.unique(channel).tolist() for channel in image.voxels] == [[1], [2], [3]]


def test_delays_that_were_varied_order_images():
    image = read(gated([(0, 100, 200)] * 4, backwards=True))
    assert [np.unique(channel).tolist() for channel in image.voxels] == [[1], [2], [3]]
