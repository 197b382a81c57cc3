import gzip

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.errors import ImageError
from medray.formats.image import read_file, sniff
from medray.formats.nrrd import read_nrrd, write_nrrd
from medray.imaging.volume import Volume
from tests.formats.test_dicom import volume
from tests.phantoms import orientations

ALL = list(orientations())
HEAD = (
    "NRRD0004\ntype: uchar\ndimension: 3\nspace: {space}\nsizes: 2 2 2\nspace directions: {directions}\n"
    "encoding: {encoding}\nspace origin: {origin}\n\n"
)


def as_itk(scan):
    """The same image in another program's hands."""
    image = SimpleITK.GetImageFromArray(scan.voxels[0].transpose(2, 1, 0))
    image.SetSpacing(scan.spacing_mm)
    image.SetOrigin(scan.affine[:3, 3].tolist())
    image.SetDirection((scan.affine[:3, :3] / np.array(scan.spacing_mm)).ravel().tolist())
    return image


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(ALL), st.tuples(*[st.floats(-35, 35)] * 3), st.sampled_from([".nrrd", ".mha"]), st.booleans())
def test_what_itk_writes_is_read_as_it_was(tmp_path_factory, orientation, rotation, suffix, compress):
    scan = volume(orientation, rotation)
    path = tmp_path_factory.mktemp("itk") / f"x{suffix}"
    SimpleITK.WriteImage(as_itk(scan), str(path), useCompression=compress)
    back = read_file(path.read_bytes())
    assert sniff(path.read_bytes()) == {".nrrd": "nrrd", ".mha": "metaimage"}[suffix]
    assert np.array_equal(back.voxels, scan.voxels)
    assert np.allclose(back.affine, scan.affine, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32"])
def test_what_is_written_itk_reads(tmp_path, dtype):
    scan = volume(ALL[11], (3, 4, 5))
    scan = scan.with_voxels(scan.voxels.astype(dtype))
    (tmp_path / "x.nrrd").write_bytes(write_nrrd(scan))
    image = SimpleITK.ReadImage(str(tmp_path / "x.nrrd"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), scan.voxels[0])
    assert np.allclose(image.GetOrigin(), scan.affine[:3, 3])
    back = read_nrrd(write_nrrd(scan))
    assert back.voxels.dtype == scan.voxels.dtype
    assert np.array_equal(back.affine, scan.affine)


def test_channels_come_and_go():
    voxels = np.random.default_rng(0).integers(0, 99, (3, 4, 5, 6)).astype(np.int16)
    back = read_nrrd(write_nrrd(Volume(voxels, volume().affine)))
    assert np.array_equal(back.voxels, voxels)


def test_ras_spaces_become_lps():
    text = HEAD.format(space="RAS", directions="(1,0,0) (0,2,0) (0,0,3)", encoding="raw", origin="(5,6,7)").encode()
    image = read_nrrd(text + bytes(range(8)))
    assert np.array_equal(image.affine, [[-1, 0, 0, -5], [0, -2, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])
    assert image.voxels[0, 1, 0, 0] == 1


def bad_files():
    head = (
        "NRRD0004\ntype: {type}\ndimension: 3\nspace: {space}\nsizes: {sizes}\nspace directions: {directions}\n"
        "encoding: {encoding}\nendian: little\nspace origin: {origin}\n{more}\n"
    )
    fine = {"type": "short", "space": "LPS", "sizes": "2 2 2", "directions": "(1,0,0) (0,1,0) (0,0,1)", "encoding": "raw",
            "origin": "(0,0,0)", "more": ""}  # fmt: skip
    changes = {
        "bad-header": {"type": "block"},
        "bad-shape": {"sizes": "2 2 0"},
        "too-large": {"sizes": "60000 60000 60000"},
        "truncated": {"sizes": "2 2 9"},
        "unsupported-encoding": {"encoding": "ascii"},
        "detached": {"more": "data file: x.raw\n"},
        "no-geometry": {"space": "scanner-xyz"},
        "no-geometry ": {"directions": "none none (0,0,1)"},
        "no-geometry  ": {"origin": "(a,b,c)"},
        "bad-affine": {"directions": "(1,0,0) (1,0,0) (0,0,1)"},
    }
    made = {reason: head.format(**fine | change).encode() + bytes(16) for reason, change in changes.items()}
    return made | {"not-nrrd": b"NRRD0004\ntype: short"}


@pytest.mark.parametrize("reason", bad_files())
def test_bad_files_are_refused_with_a_reason(reason):
    with pytest.raises(ImageError) as caught:
        read_nrrd(bad_files()[reason])
    assert caught.value.reason == reason.strip()


def test_a_bomb_inflates_no_further_than_its_header_promises():
    head = HEAD.format(space="LPS", directions="(1,0,0) (0,1,0) (0,0,1)", encoding="gzip", origin="(0,0,0)").encode()
    assert read_nrrd(head + gzip.compress(bytes(100 << 20))).voxels.size == 8


def bad_metaimages():
    fine = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    return {
        "bad-header": fine.replace("MET_SHORT", "MET_STRING"),
        "bad-header ": fine.replace("NDims = 3", "NDims = 3\nElementSpacing = 1 x 1"),
        "detached": fine.replace("LOCAL", "x.raw"),
        "truncated": fine.replace("2 2 2", "2 2 9"),
        "not-3d": fine.replace("2 2 2", "2 2"),
        "not-metaimage": fine.partition("ElementDataFile")[0],
    }


@pytest.mark.parametrize("reason", bad_metaimages())
def test_bad_metaimages_are_refused_with_a_reason(reason):
    from medray.formats.metaimage import read_metaimage

    with pytest.raises(ImageError) as caught:
        read_metaimage(bad_metaimages()[reason].encode() + bytes(16))
    assert caught.value.reason == reason.strip()
