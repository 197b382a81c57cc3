from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_files

from medray.errors import ImageError
from medray.formats.dicom_elements import walk
from medray.formats.dicom_header import read_dicom_file_header, read_dicom_header
from medray.formats.dicom_series import write_dicom_series
from tests.formats.test_dicom import WHO, volume

FILES = sorted(Path(pydicom.__file__).parent.joinpath("data", "test_files").rglob("*.dcm"))
SLICE = write_dicom_series(volume(), WHO)[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_elements_lie_where_pydicom_finds_them(file):
    data = file.read_bytes()
    found = walk(data)
    if found is None:
        return
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(BytesIO(data), defer_size=None, stop_before_pixels=True)
        assert found.syntax == dataset.file_meta.TransferSyntaxUID
        raw = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        for tag in list(raw.keys()):
            element = raw.get_item(tag)
            plain = isinstance(element, pydicom.dataelem.RawDataElement) and element.VR != "SQ"
            if plain and element.length != 0xFFFFFFFF and element.value and int(tag) in found.places:
                offset, length = found.places[int(tag)]
                assert data[offset : offset + length] == element.value
    assert found.pixels is None or data[found.pixels[0] - 12 : found.pixels[0]].find(b"\xe0\x7f\x10\x00") >= 0


def test_most_of_the_fields_files_are_understood():
    assert get_testdata_files is not None
    understood = [file for file in FILES if walk(file.read_bytes()) is not None]
    assert len(understood) > 0.75 * len(FILES)


@given(st.integers(0, len(SLICE)))
def test_a_cut_never_raises_and_never_invents(at):
    whole, cut = walk(SLICE), walk(SLICE[:at])
    if cut is not None and whole is not None:
        for tag, (offset, length) in cut.places.items():
            assert whole.places[tag] == (offset, length)


@given(st.lists(st.tuples(st.integers(132, len(SLICE) - 1), st.integers(0, 255)), max_size=8))
def test_damage_never_raises(changes):
    data = bytearray(SLICE)
    for at, value in changes:
        data[at] = value
    found = walk(bytes(data))
    if found is not None:
        for tag in found.places:
            found.text(tag), found.numbers(tag), found.integer(tag)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_headers_are_the_same_either_way(file, monkeypatch):
    data = file.read_bytes()
    try:
        quick = read_dicom_header(data)
    except ImageError:
        return
    if quick is None:
        return
    monkeypatch.setattr("medray.formats.dicom_header.walk", lambda data: None)
    slow = read_dicom_file_header(data)
    for name in ("patient", "study", "series", "instance", "modality", "kind", "size", "position", "orientation", "frames"):
        assert getattr(quick, name) == getattr(slow, name), name
