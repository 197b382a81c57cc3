import gzip
from io import BytesIO
from itertools import pairwise

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.errors import ImageError
from medray.formats.nifti import is_nifti, read_nifti, write_nifti
from medray.imaging.volume import Volume
from tests.phantoms import grid, orientations

RAS = np.diag([2.0, 3.0, 4.0, 1.0])


def nifti(array, affine=RAS, kind=nibabel.Nifti1Image, **header):
    image = kind(array, affine)
    for key, value in header.items():
        image.header[key] = value
    return image.to_bytes()


@given(
    st.sampled_from(list(orientations())),
    st.tuples(*[st.floats(-30, 30)] * 3),
    st.sampled_from([np.uint8, np.int16, np.float32]),
)
def test_round_trip_keeps_voxels_and_world(orientation, rotation, dtype):
    affine = grid(orientation, (0.7, 1.1, 2.3), rotation)
    volume = Volume(np.arange(24, dtype=dtype).reshape(1, 2, 3, 4), affine)
    back = read_nifti(write_nifti(volume))
    assert back.voxels.dtype == dtype
    assert np.array_equal(back.voxels, volume.voxels)
    assert np.abs(back.affine - affine).max() < 1e-4


def test_ras_becomes_lps():
    volume = read_nifti(nifti(np.zeros((3, 3, 3), np.int16)))
    assert np.allclose(volume.affine, np.diag([-2.0, -3.0, 4.0, 1.0]))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9000), max_size=6), st.integers(0, 40))
def test_a_gzip_may_have_many_members(cuts, rubbish):
    """As bgzip, pigz and `cat a.gz b.gz` write it; what follows the last one is left alone."""
    plain = nifti(np.arange(11 * 12 * 13, dtype=np.int16).reshape(11, 12, 13))
    edges = [0, *sorted({cut for cut in cuts if cut < len(plain)}), len(plain)]
    members = [gzip.compress(plain[start:end]) for start, end in pairwise(edges)]
    packed = b"".join(members) + b"\0" * rubbish
    assert np.array_equal(read_nifti(packed).voxels, read_nifti(plain).voxels)


def test_members_without_a_byte_come_to_an_end():
    plain = nifti(np.zeros((64, 64, 64), np.int16))
    empty = gzip.compress(b"")
    with pytest.raises(ImageError, match="promises"):
        read_nifti(gzip.compress(plain[:500]) + empty * 200_000)


def test_gzip_is_told_by_magic():
    plain = nifti(np.ones((3, 3, 3), np.int16))
    assert is_nifti(plain)
    assert is_nifti(gzip.compress(plain)[:200])
    assert not is_nifti(b"\x1f\x8b damaged")
    assert read_nifti(gzip.compress(plain)).voxels.sum() == 27


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_big_endian_and_nifti_2(kind):
    array = np.arange(27, dtype=">i2").reshape(3, 3, 3)
    header = kind.header_class(endianness=">")
    header.set_data_dtype(">i2")
    data = kind(array, RAS, header=header).to_bytes()
    volume = read_nifti(data)
    assert np.array_equal(volume.voxels[0], array)
    assert volume.voxels.dtype.isnative


def test_scaling_gives_float32():
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), RAS)
    image.header.set_slope_inter(0.5, -1)
    stream = BytesIO()
    image.header.write_to(stream)
    data = stream.getvalue().ljust(352, b"\0") + np.arange(8, dtype=np.int16).tobytes()
    volume = read_nifti(data)
    assert volume.voxels.dtype == np.float32
    assert volume.voxels.ravel(order="F").tolist() == [k * 0.5 - 1 for k in range(8)]


def bad_files():
    whole = nifti(np.zeros((8, 8, 8), np.int16))
    nan = np.zeros((3, 3, 3), np.float32)
    nan[0, 0, 0] = np.nan
    zero = bytearray(nifti(np.zeros((3, 3, 3), np.int16)))
    zero[280:328] = bytes(48)
    noise = nifti(np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16))
    return {
        "truncated": (whole[:500], "truncated"),
        "header only": (whole[:100], "truncated"),
        "truncated gzip": (gzip.compress(noise)[:900], "truncated"),
        "nan": (nifti(nan), "non-finite-voxels"),
        "zero affine": (bytes(zero), "bad-affine"),
        "5-D": (nifti(np.zeros((3, 3, 3, 5, 2), np.int16)), "not-3d"),
        "2-D": (nifti(np.zeros((3, 3), np.int16)), "not-3d"),
        "text": (b"hello" * 200, "not-nifti"),
        "complex": (nifti(np.zeros((3, 3, 3), np.complex64)), "unsupported-voxels"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_bad_files_are_refused_with_a_reason(name):
    data, reason = bad_files()[name]
    with pytest.raises(ImageError) as caught:
        read_nifti(data)
    assert caught.value.reason == reason


def damaged_headers():
    plain = nifti(np.ones((3, 3, 3), np.int16))

    def patched(start, values, qform=False):
        data = bytearray(plain)
        if qform:
            data[252:256] = np.array([1, 0], "<i2").tobytes()
        data[start : start + len(values)] = values
        return bytes(data)

    return {
        "nan offset": patched(108, np.float32("nan").tobytes()),
        "negative offset": patched(108, np.float32(-9).tobytes()),
        "nan intercept": patched(112, np.array([2, np.nan], "<f4").tobytes()),
        "quaternion": patched(252, np.array([1, 0], "<i2").tobytes() + np.full(3, 9, "<f4").tobytes()),
        "negative spacing": patched(80, np.full(3, -1, "<f4").tobytes(), qform=True),
        "unknown type": patched(70, np.array([9999], "<i2").tobytes()),
        "half a NIfTI-2 header": nibabel.Nifti2Image(np.ones((3, 3, 3), np.int16), RAS).to_bytes()[:400],
    }


@pytest.mark.parametrize("name", damaged_headers())
def test_damaged_headers_are_refused_too(name):
    with pytest.raises(ImageError):
        read_nifti(damaged_headers()[name])


def test_a_bomb_inflates_no_further_than_its_header_promises():
    bomb = gzip.compress(nifti(np.ones((3, 3, 3), np.int16)) + bytes(200 << 20), compresslevel=1)
    assert read_nifti(bomb).voxels.sum() == 27


def test_a_header_that_promises_too_much_allocates_nothing():
    data = bytearray(nifti(np.zeros((2, 2, 2), np.int16)))
    data[42:48] = np.array([32000] * 3, "<i2").tobytes()
    with pytest.raises(ImageError, match="promises"):
        read_nifti(bytes(data))


def test_writing_refuses_what_viewers_do():
    with pytest.raises(ImageError, match="not-writable"):
        write_nifti(Volume(np.zeros((1, 2, 2, 2), np.int64), np.eye(4)))
