"""What scanners and archives write: codecs, odd bits, functional groups, colour, cines."""

import shutil
import subprocess
import zlib
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medray.errors import ImageError
from medray.formats.dicom import is_dicom, read_dicom_series
from medray.formats.dicom_file import parse
from medray.formats.dicom_header import read_dicom_file_header
from medray.formats.dicom_pixels import stored_pixels
from medray.formats.dicom_series import write_dicom_series
from tests.formats.test_dicom import WHO, edited, read, volume


def saved(item, **options):
    out = BytesIO()
    item.save_as(out, **options)
    return out.getvalue()


def pixels_of(name):
    return stored_pixels(parse(shipped(name)))


def shipped(name):
    """A file that pydicom's package carries."""
    return Path(get_testdata_file(name, download=False)).read_bytes()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_lossless_codecs_give_the_same_voxels(syntax):
    plain = write_dicom_series(volume(shape=(40, 36, 3)), WHO)
    files = []
    for data in plain:
        item = dcmread(BytesIO(data))
        item.compress(syntax, generate_instance_uid=False)
        files.append(saved(item))
    assert np.array_equal(read(files).voxels, read(plain).voxels)


@pytest.mark.parametrize(
    "name", ["MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_expb.dcm", "MR_small_padded.dcm"]
)
def test_other_byte_orders_and_implicit_vrs_too(name):
    assert np.array_equal(pixels_of(name), pixels_of("MR_small.dcm"))
    assert np.array_equal(read([shipped(name)]).voxels, read([shipped("MR_small.dcm")]).voxels)


@pytest.mark.parametrize("name", ["ExplVR_LitEndNoMeta.dcm"])
def test_data_sets_without_a_preamble_are_known(name):
    assert is_dicom(shipped(name)[:132])
    assert read_dicom_file_header(shipped(name)).series


def deflated(data, body=None):
    item = dcmread(BytesIO(data))
    item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    plain = saved(item)
    start = 144 + dcmread(BytesIO(plain), stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    packer = zlib.compressobj(9, wbits=-15)
    raw = zlib.decompressobj(wbits=-15).decompress(plain[start:])
    return plain[:start] + packer.compress(raw if body is None else body(raw)) + packer.flush()


def test_deflated_files_are_read():
    plain = write_dicom_series(volume(), WHO)
    assert np.array_equal(read([deflated(data) for data in plain]).voxels, read(plain).voxels)


def test_a_deflated_bomb_stays_small(monkeypatch):
    monkeypatch.setattr("medray.formats.dicom_file.MAX_BYTES", 1 << 20)
    bomb = deflated(write_dicom_series(volume(), WHO)[0], lambda raw: raw + bytes(64 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match="inflates to more"):
        read([bomb])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("JPEG2000.dcm", (1, 1024, 256, 1)),
        ("JPGExtended.dcm", (1, 1024, 256, 1)),
        ("JPEG-lossy.dcm", (1, 1024, 256, 1)),
        ("SC_rgb_jpeg_gdcm.dcm", (1, 100, 100, 3)),
        ("JPEGLSNearLossless_16.dcm", (1, 50, 10, 1)),
        ("examples_jpeg2k.dcm", (1, 480, 640, 3)),
        ("image_dfl.dcm", (1, 512, 512, 1)),
        ("MR_small_jpeg_ls_lossless.dcm", (1, 64, 64, 1)),
        ("MR_small_RLE.dcm", (1, 64, 64, 1)),
        ("SC_rgb_jpeg_dcmtk.dcm", (1, 100, 100, 3)),
        ("SC_rgb_rle_2frame.dcm", (2, 100, 100, 3)),
        ("examples_palette.dcm", (1, 350, 800, 3)),
    ],
)
def test_syntaxes_of_the_field_decode(name, shape):
    assert pixels_of(name).shape == shape


@pytest.mark.parametrize("syntax", ["57", "70"])
def test_lossless_jpeg_gives_the_same_voxels(syntax, tmp_path):
    """Coded by dcmtk, so that two implementations have to agree."""
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmtk is not installed")
    plain = write_dicom_series(volume(shape=(40, 36, 3)), WHO)
    files = []
    for number, data in enumerate(plain):
        (tmp_path / "in.dcm").write_bytes(data)
        process = "+e1" if syntax == "70" else "+el"
        subprocess.run(["dcmcjpeg", process, tmp_path / "in.dcm", tmp_path / f"{number}.dcm"], check=True)
        files.append((tmp_path / f"{number}.dcm").read_bytes())
    assert dcmread(BytesIO(files[0])).file_meta.TransferSyntaxUID == f"1.2.840.10008.1.2.4.{syntax}"
    assert np.array_equal(read(files).voxels, read(plain).voxels)


def test_colour_comes_as_rgb():
    plain, coded = pixels_of("SC_rgb_rle.dcm"), pixels_of("SC_ybr_full_422_uncompressed.dcm")
    assert np.abs(plain.astype(int) - coded).max() <= 8
    image = read([shipped("SC_rgb_rle_2frame.dcm")])
    assert image.voxels.shape == (6, 100, 100, 1)
    assert image.meta["samples"] == "3"


@given(st.lists(st.integers(0, 4095), min_size=4, max_size=60).filter(lambda values: len(values) % 2 == 0))
def test_twelve_packed_bits(values):
    item = Dataset()
    item.file_meta = pydicom.dataset.FileMetaDataset()
    item.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    item.Rows, item.Columns, item.SamplesPerPixel, item.PhotometricInterpretation = 2, len(values) // 2, 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 12, 12, 11, 0
    bits = "".join(f"{value:012b}"[::-1] for value in values)
    item.PixelData = bytes(int(bits[at : at + 8][::-1].ljust(1, "0"), 2) for at in range(0, len(bits), 8))
    assert stored_pixels(item).ravel().tolist() == values


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_the_stored_ones_are_no_pixels(signed):
    """Old scanners keep overlays there, and signed values end at the stored bits."""
    values = np.array([[-5, 3, 2047, -2048], [0, 1, -1, 7]] if signed else [[5, 3, 4095, 0], [9, 1, 2, 7]])
    files = []
    for k in range(3):
        item = dcmread(BytesIO(write_dicom_series(volume(shape=(4, 2, 3)), WHO)[k]))
        item.PixelRepresentation = signed
        item.PixelData = ((values & 0x0FFF) | 0xA000).astype("<u2").tobytes()
        files.append(saved(item))
    expected = np.repeat(values.T[..., None], 3, axis=2)
    fast = read(files).voxels[0]
    assert np.array_equal(fast, expected)
    slow = read([edited(data, ModalityLUTSequence=None) for data in files]).voxels[0]
    assert np.array_equal(slow, expected)


def test_the_quick_way_and_pydicom_give_the_same(monkeypatch):
    files = [edited(data, RescaleIntercept="-1024", BitsStored=16, HighBit=15) for data in write_dicom_series(volume(), WHO)]
    quick = read(files)
    monkeypatch.setattr("medray.formats.dicom._plain", lambda data: None)
    slow = read(files)
    assert quick.voxels.dtype == slow.voxels.dtype == np.int16
    assert np.array_equal(quick.voxels, slow.voxels)
    assert np.array_equal(quick.affine, slow.affine)


def test_values_that_do_not_fit_16_bits_get_32():
    files = [edited(data, RescaleIntercept="30000") for data in write_dicom_series(volume(), WHO)]
    back = read(files)
    assert back.voxels.dtype == np.int32
    assert np.array_equal(back.reoriented().voxels, volume().reoriented().voxels.astype(int) + 30000)


def test_monochrome1_is_turned_round():
    plain = write_dicom_series(volume(), WHO)
    turned = read([edited(data, PhotometricInterpretation="MONOCHROME1", Modality="CR") for data in plain])
    assert np.array_equal(turned.voxels, 4095 - read(plain).voxels.astype(int))


@pytest.mark.parametrize("kind", ["US", "UNSPECIFIED", "normalized"])
def test_words_that_are_no_unit_change_nothing(kind):
    plain = write_dicom_series(volume(), WHO)
    turned = read([edited(data, PhotometricInterpretation="MONOCHROME1", Modality="MG", RescaleType=kind) for data in plain])
    assert np.array_equal(turned.voxels, 4095 - read(plain).voxels.astype(int))


@pytest.mark.parametrize(
    "facts", [{"Modality": "CT"}, {"Modality": "CR", "RescaleType": "HU"}, {"Modality": "PT", "Units": "BQML"}]
)
def test_a_measured_quantity_is_not(facts):
    plain = [edited(data, RescaleIntercept="-1000", **facts) for data in write_dicom_series(volume(), WHO)]
    shown = [edited(data, PhotometricInterpretation="MONOCHROME1") for data in plain]
    assert np.array_equal(read(shown).voxels, read(plain).voxels)


def spect(between, **facts):
    """A reconstruction whose place is its detector's."""
    scan = volume()
    item = dcmread(BytesIO(write_dicom_series(scan, WHO)[0]))
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.20"
    item.Modality, item.ImageType = "NM", ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    detector = Dataset()
    detector.ImageOrientationPatient = item.ImageOrientationPatient
    first = 0 if between > 0 else scan.shape[2] - 1
    detector.ImagePositionPatient = [f"{value:.8f}" for value in scan.affine[:3, 3] + first * scan.affine[:3, 2]]
    del item.ImagePositionPatient, item.ImageOrientationPatient
    item.DetectorInformationSequence, item.NumberOfFrames = [detector], scan.shape[2]
    item.SpacingBetweenSlices = f"{between * scan.spacing_mm[2]:.8f}"
    frames = scan.voxels[0].transpose(2, 1, 0)[:: 1 if between > 0 else -1]
    item.PixelData = np.ascontiguousarray(frames, "<u2").tobytes()
    for key, value in facts.items():
        setattr(item, key, value)
    made = BytesIO()
    item.save_as(made)
    return made.getvalue(), scan


@pytest.mark.parametrize("between", [1, -1])
def test_a_reconstructed_spect_lies_where_its_detector_says(between):
    data, scan = spect(between)
    image = read([data])
    assert image.shape == scan.shape
    assert np.array_equal(image.reoriented().voxels, scan.reoriented().voxels)
    assert np.abs(image.reoriented().affine - scan.reoriented().affine).max() < 1e-3


def test_gated_reconstructions_are_refused():
    data, _ = spect(1, ImageType=["ORIGINAL", "PRIMARY", "RECON GATED TOMO", "EMISSION"])
    with pytest.raises(ImageError, match="gated"):
        read([data])


def test_every_slice_has_its_own_rescale():
    files = [edited(data, RescaleSlope=str(1 + k)) for k, data in enumerate(write_dicom_series(volume(), WHO))]
    factors = np.arange(1, 7, dtype=np.float32)
    assert np.allclose(read(files).voxels, read(write_dicom_series(volume(), WHO)).voxels * factors)


def enhanced(scan, *, times=1):
    """One enhanced multi-frame object, its frames in a random order."""
    item = dcmread(BytesIO(write_dicom_series(scan, WHO)[0]))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
                    "RescaleIntercept", "SpacingBetweenSlices"):  # fmt: skip
        delattr(item, keyword)
    slices = [dcmread(BytesIO(data)) for data in write_dicom_series(scan, WHO)]
    order = np.random.default_rng(1).permutation(len(slices) * times)
    groups, pixels = [], []
    for number in order:
        source, time = slices[number % len(slices)], number // len(slices)
        group, position, content, value = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = source.ImagePositionPatient
        content.TemporalPositionIndex = int(time) + 1
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = "1", str(10 * time), "US"
        group.PlanePositionSequence, group.FrameContentSequence = Sequence([position]), Sequence([content])
        group.PixelValueTransformationSequence = Sequence([value])
        groups.append(group)
        pixels.append(source.PixelData)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = slices[0].ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = slices[0].PixelSpacing, slices[0].SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    item.SharedFunctionalGroupsSequence, item.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(groups)
    item.NumberOfFrames, item.PixelData = len(groups), b"".join(pixels)
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    return saved(item)


def test_enhanced_objects_are_sorted_by_their_frames_positions():
    scan = volume(rotation=(10, -5, 20))
    back = read([enhanced(scan)])
    single = read(write_dicom_series(scan, WHO))
    assert np.array_equal(back.voxels, single.voxels)
    assert np.allclose(back.affine, single.affine)


def test_several_frames_at_one_position_are_channels():
    scan = volume()
    back = read([enhanced(scan, times=3)])
    single = read(write_dicom_series(scan, WHO)).voxels
    assert back.voxels.shape == (3, *scan.shape)
    for time in range(3):
        assert np.array_equal(back.voxels[time], single[0] + 10 * time)


def test_a_dynamic_series_of_single_frames_is_4d():
    scan, files = volume(), []
    for time in range(2):
        for k, data in enumerate(write_dicom_series(scan, WHO)):
            files.append(
                edited(data, TemporalPositionIdentifier=time + 1, SOPInstanceUID=f"1.2.{time}.{k}", RescaleIntercept=str(time))
            )
    series = read_dicom_series([partial(bytes, data) for data in files[::-1]])
    assert series.volume.voxels.shape == (2, *scan.shape)
    assert np.array_equal(series.volume.voxels[1], series.volume.voxels[0] + 1)
    assert series.instances[:2] == ("1.2.0.0", "1.2.1.0")


def test_cines_without_a_place_are_channels():
    image = read([shipped("examples_ybr_color.dcm")])
    assert image.voxels.shape[0] == 30 * 3
    assert image.shape[2] == 1


def headers_that_lie():
    plain = write_dicom_series(volume(), WHO)[0]
    item = dcmread(BytesIO(plain))
    item.compress(RLELossless, generate_instance_uid=False)
    packed = saved(item)
    return {
        "more pixels than bytes": (edited(plain, Rows=60000, Columns=60000), "too-large|truncated"),
        "a few more": (edited(plain, Rows=400), "truncated"),
        "many frames": (
            edited(plain, NumberOfFrames=2_000_000, ImagePositionPatient=None, ImageOrientationPatient=None),
            "no-geo|trunc",
        ),
        "compressed": (edited(packed, Rows=30000, Columns=30000), "too-large"),
        "no pixels": (edited(plain, PixelData=b""), "no-pixels"),
        "no rows": (edited(plain, Rows=0), "no-pixels"),
        "unknown syntax": (plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0", 2), "unreadable|unknown"),
    }


@pytest.mark.parametrize("name", headers_that_lie())
def test_headers_that_lie_cost_no_memory(name):
    data, reason = headers_that_lie()[name]
    with pytest.raises(ImageError, match=reason):
        read([data])
