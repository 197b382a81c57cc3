"""Segmentations as highdicom writes them, structure sets as treatment planning does, back on their image's grid."""

from functools import partial
from io import BytesIO

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.sr.codedict import codes

from medray.errors import LabelError
from medray.formats.dicom import read_dicom_series
from medray.formats.dicom_header import read_dicom_file_header
from medray.formats.dicom_labels import read_dicom_labels
from medray.formats.dicom_series import write_dicom_series
from tests.formats.test_dicom import WHO, volume
from tests.phantoms import orientations

NAMES = {"ball": 1, "Core": 4}
SHAPE = (24, 20, 12)


def scene(turn=0):
    scan = volume(list(orientations())[turn], shape=SHAPE)
    files = write_dicom_series(scan, WHO)
    image = read_dicom_series([partial(bytes, data) for data in files]).volume
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), axis=-1)
    distance = np.linalg.norm((indices - np.array(image.shape) / 2) / np.array(image.shape), axis=-1)
    mask = np.where(distance < 0.15, 4, np.where(distance < 0.35, 1, 0)).astype(np.uint8)
    slices = [dcmread(BytesIO(data)) for data in files]
    for item in slices:
        item.PatientName = "P^1"
    return slices, image, mask


def segmentation(slices, mask, labels=("ball", "core"), kind="BINARY"):
    by_height = sorted(slices, key=lambda item: int(item.InstanceNumber))
    pixels = np.stack([np.stack([(mask[:, :, k] == value).T for value in (1, 4)], axis=-1) for k in range(mask.shape[2])])
    described = [
        highdicom.seg.SegmentDescription(
            number, label, codes.SCT.Organ, codes.SCT.Brain, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, label in enumerate(labels, start=1)
    ]
    stored = pixels.astype(np.uint8 if kind == "BINARY" else np.float32)
    maker = ("maker", "model", "1", "2")
    made = highdicom.seg.Segmentation(by_height, stored, kind, described, highdicom.UID(), 9, highdicom.UID(), 1, *maker)
    out = BytesIO()
    made.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("turn", [0, 17, 42])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_a_segmentation_lands_where_it_was_drawn(turn, kind):
    slices, image, mask = scene(turn)
    order = np.argsort(
        [np.dot(np.cross(s.ImageOrientationPatient[:3], s.ImageOrientationPatient[3:]), s.ImagePositionPatient) for s in slices]
    )
    slices = [slices[index] for index in order]
    for number, item in enumerate(slices):
        item.InstanceNumber = number
    data = segmentation(slices, mask, kind=kind)
    assert np.array_equal(read_dicom_labels(data, image, NAMES), mask)
    header = read_dicom_file_header(data)
    assert header.kind == "segmentation"
    assert header.references == (slices[0].SeriesInstanceUID,)


def test_segments_of_other_names_are_passed_over_and_none_is_an_error():
    slices, image, mask = scene()
    only = read_dicom_labels(segmentation(slices, mask), image, {"core": 2})
    assert np.array_equal(only, np.where(mask == 4, 2, 0))
    with pytest.raises(LabelError, match="none of its labels"):
        read_dicom_labels(segmentation(slices, mask), image, {"liver": 1})


def test_a_segmentation_on_another_grid_is_refused():
    slices, image, mask = scene()
    moved = type(image)(image.voxels, image.affine + np.array([[0, 0, 0, 0.4]] + [[0] * 4] * 3))
    with pytest.raises(LabelError, match="different grids"):
        read_dicom_labels(segmentation(slices, mask), moved, NAMES)
    smaller = type(image)(image.voxels[:, :10], image.affine)
    with pytest.raises(LabelError, match="outside its image"):
        read_dicom_labels(segmentation(slices, mask), smaller, NAMES)


def structure_set(image, outlines, kind="CLOSED_PLANAR"):
    """An RT structure set with polygons given in voxels: name to a list of (k, points)."""
    item = Dataset()
    item.SOPClassUID, item.Modality, item.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "1.2.9"
    item.SOPInstanceUID = "1.2.9.1"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = "1.2.3"
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.RTReferencedStudySequence = Sequence([study])
    item.ReferencedFrameOfReferenceSequence = Sequence([frame])
    rois, contours = [], []
    for number, (name, polygons) in enumerate(outlines.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for k, points in polygons:
            contour = Dataset()
            contour.ContourGeometricType = kind
            world = np.c_[points, np.full(len(points), k)] @ image.affine[:3, :3].T + image.affine[:3, 3]
            contour.ContourData = [f"{value:.6f}" for value in world.ravel()]
            drawn.ContourSequence.append(contour)
        rois.append(roi)
        contours.append(drawn)
    item.StructureSetROISequence, item.ROIContourSequence = Sequence(rois), Sequence(contours)
    item.file_meta = pydicom.dataset.FileMetaDataset()
    item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    item.file_meta.MediaStorageSOPClassUID, item.file_meta.MediaStorageSOPInstanceUID = item.SOPClassUID, "1.2.9.1"
    out = BytesIO()
    item.save_as(out, enforce_file_format=True)
    return out.getvalue()


def circle(centre, radius, count=200):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.c_[centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)]


@settings(deadline=None, max_examples=25)
@given(st.tuples(st.floats(8, 14), st.floats(7, 12)), st.floats(2.2, 6.5), st.sampled_from([0, 9, 33]))
def test_contours_fill_the_voxels_whose_centres_they_enclose(centre, radius, turn):
    _, image, _ = scene(turn)
    data = structure_set(image, {"GTV-1": [(5, circle(centre, radius)), (5, circle(centre, 1.1)), (6, circle(centre, radius))]})
    mask = read_dicom_labels(data, image, {"gtv1": 3})
    i, j = np.meshgrid(*[np.arange(n) for n in image.shape[:2]], indexing="ij")
    distance = np.hypot(i - centre[0], j - centre[1])
    clear = (np.abs(distance - radius) > 0.05) & (np.abs(distance - 1.1) > 0.05)
    ring, disc = (distance < radius) & (distance > 1.1), distance < radius
    assert np.array_equal((mask[:, :, 5] == 3)[clear], ring[clear])
    assert np.array_equal((mask[:, :, 6] == 3)[clear], disc[clear])
    assert not mask[:, :, 4].any()


def test_contours_that_say_they_are_xor_are_filled_and_points_are_no_structure():
    _, image, _ = scene(0)
    outlines = {"GTV-1": [(5, circle((10, 9), 4)), (5, circle((10, 9), 2))]}
    plain, told = (structure_set(image, outlines, kind) for kind in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"))
    mask = read_dicom_labels(told, image, {"gtv1": 3})
    assert np.array_equal(mask, read_dicom_labels(plain, image, {"gtv1": 3}))
    assert mask.any()
    with pytest.raises(LabelError, match="no closed contour"):
        read_dicom_labels(structure_set(image, outlines, "OPEN_PLANAR"), image, {"gtv1": 3})


def test_contours_between_slices_or_overlapping_are_refused():
    _, image, _ = scene()
    with pytest.raises(LabelError, match="between the image's slices"):
        read_dicom_labels(structure_set(image, {"a": [(5.5, circle((9, 9), 3))]}), image, {"a": 1})
    both = structure_set(image, {"a": [(5, circle((9, 9), 3))], "b": [(5, circle((10, 9), 3))]})
    with pytest.raises(LabelError, match="claim the same voxels"):
        read_dicom_labels(both, image, {"a": 1, "b": 2})
    header = read_dicom_file_header(both)
    assert (header.kind, header.references) == ("structures", ("1.2.3",))
