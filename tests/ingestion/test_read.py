"""Each bad input that a hospital may send becomes a quarantine row, and what was good stays."""

import os

import nibabel
import numpy as np
import pytest

from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from tests.phantoms import LABELS, grid, orientations, phantom, take_in_all, write_dicom, write_phantoms

AFFINE = grid(next(iter(orientations())), (2.0, 2.0, 2.5))


@pytest.fixture
def source(tmp_path):
    return write_phantoms(tmp_path / "source", subjects=2)


def scan():
    return phantom(np.random.default_rng(9), AFFINE)


def nan_nifti(folder):
    volume, _ = scan()
    voxels = volume.voxels.astype(np.float32)
    voxels[0, 0, 0, 0] = np.nan
    (folder / "bad_T1w.nii.gz").write_bytes(write_nifti(volume.with_voxels(voxels)))


def zero_affine(folder):
    data = bytearray(nibabel.Nifti1Image(scan()[0].voxels[0], np.eye(4)).to_bytes())
    data[280:328] = bytes(48)
    (folder / "bad_T1w.nii").write_bytes(data)


def missing_slices(folder):
    write_dicom(folder / "series", scan()[0], "bad")
    sorted((folder / "series").iterdir())[9].unlink()


def truncated(folder):
    (folder / "bad_T1w.nii.gz").write_bytes(write_nifti(scan()[0])[:4000])


def text_dcm(folder):
    (folder / "Jane_Doe.dcm").write_text("Jane Doe, born 1970-01-01")


def unknown_label(folder):
    volume, mask = scan()
    (folder / "bad_T1w.nii.gz").write_bytes(write_nifti(volume))
    (folder / "bad_dseg.nii.gz").write_bytes(
        write_nifti(volume.with_voxels(np.where(mask == 4, 9, mask)[None].astype(np.uint8)))
    )


def label_on_another_grid(folder):
    volume, mask = scan()
    (folder / "bad_T1w.nii.gz").write_bytes(write_nifti(volume))
    moved = AFFINE.copy()
    moved[0, 3] += 1
    (folder / "bad_dseg.nii.gz").write_bytes(write_nifti(Volume(mask[None], moved)))


BAD = {
    nan_nifti: "non-finite-voxels",
    zero_affine: "bad-affine",
    missing_slices: "missing-slices",
    truncated: "truncated",
    text_dcm: "not-an-image",
    unknown_label: "unknown-label",
    label_on_another_grid: "label-grid",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_input_is_one_quarantine_row_and_costs_nothing_good(source, tmp_path, make):
    folder = source / "sub-99"
    folder.mkdir()
    make(folder)
    cohort = take_in_all(source, tmp_path / "cohort")
    assert [row.reason for row in cohort.quarantine] == [BAD[make]]
    image_is_good = make in (unknown_label, label_on_another_grid)
    assert cohort.index.counts["series"] == 2 + image_is_good
    assert cohort.index.counts["labels"] == 2


def test_no_name_of_the_source_is_anywhere_in_the_cohort(source, tmp_path):
    text_dcm(source)
    take_in_all(source, tmp_path / "cohort")
    import pyarrow.parquet as pq

    for file in (tmp_path / "cohort").rglob("*"):
        if file.is_file():
            held = str(pq.read_table(file).to_pylist()).encode() if file.suffix == ".parquet" else file.read_bytes()
            for name in (b"sub-0", b"Jane", b"1970-01", b"T1w"):
                assert name not in held
                assert name.decode() not in file.name


def test_labels_stored_another_way_land_on_the_image_s_grid(tmp_path):
    volume, mask = scan()
    turn = list(orientations())[37]
    label = Volume(turn.apply(mask[None]), turn.apply_affine(AFFINE, volume.shape))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a_T1w.nii.gz").write_bytes(write_nifti(volume))
    (tmp_path / "s" / "a_dseg.nii.gz").write_bytes(write_nifti(label))
    (tmp_path / "s" / "dseg.tsv").write_text("index\tname\n1\tball\n4\tcore\n")
    cohort = take_in_all(tmp_path / "s", tmp_path / "cohort")
    assert cohort.index.labels == LABELS
    assert np.array_equal(cohort.mask(cohort.rows[0]), mask)


def test_labels_without_names_are_quarantined(source, tmp_path):
    (source / "dseg.tsv").unlink()
    cohort = take_in_all(source, tmp_path / "cohort")
    assert {row.reason for row in cohort.quarantine} == {"no-label-names"}
    assert cohort.index.counts["series"] == 2


def test_a_name_that_is_no_utf_8_is_a_name(source, tmp_path):
    folder = os.fsencode(source / "sub-99")
    os.mkdir(folder)
    with open(os.path.join(folder, b"M\xfcller_T1w.nii.gz"), "wb") as file:
        file.write(write_nifti(scan()[0]))
    with open(os.path.join(folder, b"M\xfcller.dcm"), "wb") as file:
        file.write(b"no")
    cohort = take_in_all(source, tmp_path / "cohort")
    assert cohort.index.counts["series"] == 3
    assert [row.reason for row in cohort.quarantine] == ["not-an-image"]
