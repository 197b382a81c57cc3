import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from medray.errors import ImageError
from medray.formats.dicom_copies import choose_copy
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.imaging.volume import Volume


@pytest.fixture
def file(rng):
    volume = Volume(rng.integers(0, 900, (1, 8, 6, 2)).astype(np.int16), np.diag([2.0, 3.0, 4.0, 1.0]))
    return write_dicom_series(volume, SeriesIdentity(patient="p", study="1", series="2"))[0]


def changed(data, change):
    item = pydicom.dcmread(io.BytesIO(data))
    change(item)
    made = io.BytesIO()
    item.save_as(made)
    return made.getvalue()


def test_the_first_of_equal_ones_is_read(file):
    other_sender = changed(file, lambda item: setattr(item.file_meta, "SourceApplicationEntityTitle", "GATEWAY"))
    assert other_sender != file
    assert choose_copy({"a": file, "b": other_sender}) == ("a", {})


@pytest.mark.parametrize(
    "change",
    [lambda item: setattr(item, "PatientName", "Mended"), lambda item: item.compress(RLELossless, generate_instance_uid=False)],
)
def test_headers_and_lossless_compression_may_differ(file, change):
    assert choose_copy({"a": file, "b": changed(file, change)}) == ("a", {})


def _other_voxels(item):
    item.PixelData = bytes(len(item.PixelData))


def _other_place(item):
    item.ImagePositionPatient = [0, 0, 99]


@pytest.mark.parametrize("change", [_other_voxels, _other_place, lambda item: setattr(item, "RescaleIntercept", "7")])
def test_what_they_show_may_not(file, change):
    with pytest.raises(ImageError, match="2 objects with one SOPInstanceUID show different things") as caught:
        choose_copy({"a": file, "b": changed(file, change)})
    assert caught.value.reason == "conflicting-objects"


def test_one_that_is_cut_off_gives_way_to_a_whole_one(file):
    chosen, damaged = choose_copy({"a": file[:-20], "b": file})
    assert chosen == "b"
    assert list(damaged) == ["a"]
    with pytest.raises(ImageError):
        choose_copy({"a": file[:-20], "b": file[:-30]})
