from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.filebase import DicomBytesIO

from medray.errors import ImageError
from medray.formats.dicom import is_dicom, read_dicom_series
from medray.formats.dicom_header import read_dicom_file_header, read_dicom_header
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import read_nifti, write_nifti
from medray.imaging.geometry import same_grid
from medray.imaging.volume import Volume
from tests.phantoms import grid, orientations


def read(files):
    return read_dicom_series([partial(bytes, data) for data in files]).volume


WHO = SeriesIdentity(patient="P1", study="a", series="b")
ALL = list(orientations())


def volume(orientation=ALL[0], rotation=(0, 0, 0), spacing=(0.9, 1.1, 2.5), shape=(5, 4, 6), low=0):
    voxels = np.random.default_rng(0).integers(low, 3000, (1, *shape)).astype(np.int16)
    return Volume(voxels, grid(orientation, spacing, rotation))


def edited(data, **changes):
    """Write a file as a careless device would: values are not validated."""
    with disable_value_validation():
        item = dcmread(DicomBytesIO(data))
        for key, value in changes.items():
            setattr(item, key, value)
        out = DicomBytesIO()
        item.save_as(out)
    return out.getvalue()


@settings(deadline=None)
@given(st.sampled_from(ALL), st.tuples(*[st.floats(-35, 35)] * 3), st.randoms(use_true_random=False))
def test_dicom_and_nifti_of_one_scan_are_one_image(orientation, rotation, random):
    scan = volume(orientation, rotation)
    files = write_dicom_series(scan, WHO)
    random.shuffle(files)
    dicom, nifti = read(files).reoriented(), read_nifti(write_nifti(scan)).reoriented()
    assert np.abs(dicom.affine - nifti.affine).max() < 1e-3
    assert same_grid(dicom.affine, nifti.affine, dicom.shape, 1e-3)
    assert np.array_equal(dicom.voxels, nifti.voxels)


def test_ct_comes_back_in_hu():
    scan = volume(low=-1024)
    back = read(write_dicom_series(scan, SeriesIdentity(patient="P", study="a", series="b", modality="CT")))
    assert back.voxels.dtype == np.int16
    assert np.array_equal(back.reoriented().voxels, scan.reoriented().voxels)


def test_fractional_rescale_gives_float32():
    files = [edited(data, RescaleSlope="0.5", RescaleIntercept="-3") for data in write_dicom_series(volume(), WHO)]
    back = read(files)
    assert back.voxels.dtype == np.float32
    assert np.allclose(back.reoriented().voxels, volume().reoriented().voxels * 0.5 - 3)


def test_header_has_what_grouping_needs():
    data = write_dicom_series(volume(), WHO)[0]
    header = read_dicom_header(data)
    assert is_dicom(data[:132])
    assert header == read_dicom_file_header(data)
    assert (header.patient, header.modality, header.acquired, header.kind) == ("P1", "MR", "20200101120000", "image")
    assert (header.size, header.frames, header.localizer) == ((4, 5), 1, False)
    assert header.position == (-40.0, 25.0, 10.0)
    assert read_dicom_header(data[:400]) is None, "the data ends too early to tell"


def test_files_are_valid_against_the_standard_s_required_attributes():
    item = dcmread(DicomBytesIO(write_dicom_series(volume(), WHO)[0]))
    for keyword in (
        "SOPClassUID",
        "FrameOfReferenceUID",
        "PixelSpacing",
        "ImageOrientationPatient",
        "RescaleIntercept",
        "ImageType",
    ):
        assert keyword in item, keyword
    assert item.file_meta.TransferSyntaxUID.is_little_endian
    assert (item.BitsStored, item.HighBit) == (12, 11)


def bad_series():
    files = write_dicom_series(volume(), WHO)
    return {
        "missing": ([*files[:2], *files[3:]], "missing-slices"),
        "duplicate": ([*files, edited(files[0], SOPInstanceUID="1.2.3")], "duplicate-slices"),
        "uneven": ([*files[:-1], edited(files[-1], ImagePositionPatient=[-40.0, 25.0, 10 + 12.5 + 0.4])], "uneven-slices"),
        "mixed sizes": ([*files[:-1], write_dicom_series(volume(shape=(4, 4, 6)), WHO)[-1]], "mixed-sizes"),
        "mixed orientations": ([*files[:-1], write_dicom_series(volume(ALL[9]), WHO)[-1]], "mixed-orientations"),
        "no geometry": ([edited(data, ImagePositionPatient=None) for data in files], "no-geometry"),
        "zero orientation": ([edited(data, ImageOrientationPatient=[0.0] * 6) for data in files], "bad-affine"),
        "zero spacing": ([edited(data, PixelSpacing=[0.0, 0.0]) for data in files], "bad-affine"),
        "too many frames": ([edited(data, NumberOfFrames=3) for data in files], "no-geometry"),
        "text": ([b"hello" * 100], "not-dicom"),
        "odd rescale": ([edited(data, RescaleIntercept="nan") for data in files], "bad-rescale"),
        "truncated": ([files[0][:-10], *files[1:]], "truncated"),
        "crooked": (
            [edited(data, ImagePositionPatient=[-40.0 + 1.5 * (k > 2), 25.0, 10 + 2.5 * k]) for k, data in enumerate(files)],
            "crooked-stack",
        ),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", bad_series())
def test_bad_series_are_refused_with_a_reason(name):
    files, reason = bad_series()[name]
    with pytest.raises(ImageError) as caught:
        read(files)
    assert caught.value.reason == reason


def test_free_text_where_a_code_belongs_is_dropped():
    odd = {"Modality": "Doe^John", "BodyPartExamined": "HEAD"}
    files = [edited(data, **odd) for data in write_dicom_series(volume(), WHO)]
    assert read(files).meta == {"modality": "", "body_part": "HEAD"}


def test_missing_slices_are_counted():
    files = write_dicom_series(volume(), WHO)
    with pytest.raises(ImageError, match="about 2 of 6 slices are missing"):
        read([files[0], files[1], files[4], files[5]])


def test_a_volume_that_dicom_can_t_say_is_refused():
    skewed = volume()
    affine = skewed.affine.copy()
    affine[0, 1] += 0.3
    with pytest.raises(ImageError, match="perpendicular"):
        write_dicom_series(Volume(skewed.voxels, affine), WHO)
    with pytest.raises(ImageError, match="16 unsigned bits"):
        write_dicom_series(volume(low=-900), WHO)
