import io
import zipfile

import numpy as np
import pytest

from medray.errors import ImageError, NotFoundError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.image import read_image, read_image_path, sniff
from medray.formats.nifti import write_nifti
from tests.formats.test_dicom import WHO, volume


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_one_scan_four_ways(tmp_path):
    scan = volume()
    files = write_dicom_series(scan, WHO)
    archive = zipped({f"../../etc/{n}": data for n, data in enumerate(files)} | {"notes.txt": b"hello"})
    (tmp_path / "series").mkdir()
    for number, data in enumerate(files):
        (tmp_path / "series" / str(number)).write_bytes(data)
    (tmp_path / "a.zip").write_bytes(archive)
    images = [
        read_image(write_nifti(scan)),
        read_image(archive),
        read_image_path(tmp_path / "series"),
        read_image_path(tmp_path / "a.zip"),
    ]
    for image in images:
        assert np.array_equal(image.reoriented().voxels, scan.reoriented().voxels)
    assert images[1].meta["modality"] == "MR"


def test_sniff_goes_by_content():
    assert sniff(write_nifti(volume())) == "nifti"
    assert sniff(write_dicom_series(volume(), WHO)[0]) == "dicom"
    assert sniff(zipped({"a": b""})) == "zip"
    assert sniff(b"hello") is None


def test_what_can_t_be_one_image(tmp_path):
    files = write_dicom_series(volume(), WHO)
    other = write_dicom_series(volume(), SeriesIdentity(patient="P1", study="a", series="c"))
    cases = {
        "unknown-format": b"hello",
        "several-series": zipped({"a": files[0], "b": other[0]}),
        "not-dicom": zipped({"a": b"hello"}),
        "truncated": zipped({"a": files[0]})[:-30],
    }
    for reason, data in cases.items():
        with pytest.raises(ImageError) as caught:
            read_image(data)
        assert caught.value.reason == reason
    with pytest.raises(NotFoundError):
        read_image_path(tmp_path / "none")


def test_a_zip_bomb_is_refused_before_it_inflates():
    data = bytearray(zipped({"a": b"0", "b": b"0", "c": b"0"}))
    at = data.index(b"PK\x01\x02")
    while at >= 0:
        data[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
        at = data.find(b"PK\x01\x02", at + 4)
    with pytest.raises(ImageError, match="inflates to more than"):
        read_image(bytes(data))
