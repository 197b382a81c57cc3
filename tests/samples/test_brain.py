import json

import numpy as np
import pytest

from medray.errors import ConfigError
from medray.formats.image import read_image_path
from medray.formats.nifti import read_nifti
from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.samples.anatomy import load_anatomy
from medray.samples.brain import Illness, write_brain_cohort
from medray.samples.scan import BRAIN_LABELS
from medray.samples.subject import Subject, atrophied, make_subject, sample_maps
from tests.phantoms import take_in_all


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_brain_cohort(tmp_path_factory.mktemp("brains") / "s", subjects=2, followups=1, seed=5)


def test_ventricles_widen_and_the_head_s_outline_stays():
    subject = make_subject(load_anatomy(), np.random.default_rng(3), lesions=0)
    sides = [np.linspace(-half, half, 80, dtype=np.float32) for half in subject.half_mm]
    points = np.stack(np.meshgrid(*sides, indexing="ij"), -1) + subject.centre.astype(np.float32)
    tissue = [sample_maps(one, points)[1:].sum(0) > 0.5 for one in (subject, atrophied(subject, 0.2), atrophied(subject, 0.5))]
    volumes = [one.sum() for one in tissue]
    assert volumes[0] > volumes[1] > volumes[2] > 0.97 * volumes[0]
    assert [np.argwhere(one).min(0).tolist() for one in tissue[1:]] == [np.argwhere(tissue[0]).min(0).tolist()] * 2
    assert [np.argwhere(one).max(0).tolist() for one in tissue[1:]] == [np.argwhere(tissue[0]).max(0).tolist()] * 2


def test_hospital_formats_ingest_without_a_loss(source, tmp_path):
    cohort = take_in_all(source, tmp_path)
    assert cohort.index.counts == {"subjects": 2, "series": 4, "labels": 4, "quarantined": 0}
    assert cohort.index.labels == BRAIN_LABELS
    assert sorted(row.time_point for row in cohort.rows) == [0, 0, 1, 1]


def test_one_subject_as_nifti_and_as_dicom_is_one_image(tmp_path):
    scans = []
    for form in ("nifti", "dicom"):
        root = write_brain_cohort(tmp_path / form, subjects=1, seed=3, formats=(form,))
        place = root / "sub-001" / "ses-01"
        found = place / "anat" / "sub-001_ses-01_T1w.nii.gz" if form == "nifti" else place / "dicom"
        scans.append(read_image_path(found).reoriented())
    assert np.abs(scans[0].affine - scans[1].affine).max() < 1e-3
    assert np.array_equal(scans[0].voxels, scans[1].voxels)


def test_lesions_have_the_volume_that_the_truth_says(source):
    truth = json.loads((source / "truth.json").read_text())
    assert set(truth) == {f"sub-00{n}_ses-0{m}" for n in (1, 2) for m in (1, 2)}
    for name, facts in truth.items():
        assert facts["mask_ml"]["lesion"] == pytest.approx(facts["lesion_total_ml"], rel=0.06), name
        mask = read_nifti(next(source.rglob(f"{name}_dseg.nii.gz")).read_bytes())
        assert facts["mask_ml"]["lesion"] == pytest.approx((mask.voxels == 3).sum() * mask.voxel_ml)


def test_followups_keep_the_head_and_change_the_lesions(source):
    truth = json.loads((source / "truth.json").read_text())
    for subject in ("sub-001", "sub-002"):
        first, second = truth[f"{subject}_ses-01"], truth[f"{subject}_ses-02"]
        assert len(second["lesions_ml"]) == len(first["lesions_ml"]) + 1
        assert second["mask_ml"]["white-matter"] == pytest.approx(first["mask_ml"]["white-matter"], rel=0.02)
        growth = [new / old for old, new in zip(first["lesions_ml"], second["lesions_ml"], strict=False)]
        assert all(0.59 < factor < 2.01 for factor in growth)


def test_people_take_courses_in_turn(tmp_path):
    illness = Illness(courses=("grown", "stable", "shrunk"))
    root = write_brain_cohort(tmp_path / "s", subjects=3, followups=1, illness=illness, seed=5, formats=("nifti",))
    truth = json.loads((root / "truth.json").read_text())
    bounds = {"001": (1.3, 2.2, 1), "002": (0.95, 1.05, 0), "003": (0.4, 0.75, 0)}
    for number, (least, most, new) in bounds.items():
        first, second = (truth[f"sub-{number}_ses-{session}"]["lesions_ml"] for session in ("01", "02"))
        assert len(second) == len(first) + new
        assert all(least - 0.01 < b / a < most + 0.01 for a, b in zip(first, second, strict=False))
    for how, message in (({"courses": ("worse",)}, "take some of"), ({"courses": ()}, "take some of")):
        with pytest.raises(ConfigError, match=message):
            Illness(**how)


def test_the_healthy_have_no_lesions_and_the_others_are_who_they_were(tmp_path):
    mixed = write_brain_cohort(tmp_path / "mixed", subjects=6, illness=Illness(healthy=0.5), seed=5, formats=("nifti",))
    truth = json.loads((mixed / "truth.json").read_text())
    ill = [bool(facts["lesions_ml"]) for facts in truth.values()]
    assert set(ill) == {True, False}
    plain = json.loads(
        (write_brain_cohort(tmp_path / "ill", subjects=6, seed=5, formats=("nifti",)) / "truth.json").read_text()
    )
    for name, facts in truth.items():
        assert facts == plain[name] or (not facts["lesions_ml"] and facts["mask_ml"]["lesion"] == 0)


def test_the_map_from_subject_to_template_has_an_inverse():
    subject = make_subject(load_anatomy(), np.random.default_rng(2), lesions=3)
    for lesion in subject.lesions:
        template = subject.template_points(lesion.centre[None])[0] + subject.centre
        assert np.abs(subject.subject_point(template) - lesion.centre).max() < 0.05


def test_an_undeformed_subject_is_the_template():
    anatomy = load_anatomy()

    subject = Subject(anatomy, np.eye(3), np.zeros((3, 4, 4, 4), np.float32))
    indices = np.argwhere(anatomy.maps[2] > 0.5)[::5000]
    points = to_world(anatomy.affine, indices).astype(np.float32)
    assert np.abs(sample_maps(subject, points) - anatomy.maps[:, *indices.T]).max() < 1e-3
    assert Volume(anatomy.maps[:1], anatomy.affine).spacing_mm == (1.0, 1.0, 1.0)


def test_equal_seeds_are_equal_files_and_full_folders_are_refused(source, tmp_path):
    again = write_brain_cohort(tmp_path / "again", subjects=1, followups=0, seed=5)
    name = "sub-001/ses-01/anat/sub-001_ses-01_T1w.nii.gz"
    assert (again / name).read_bytes() == (source / name).read_bytes()
    with pytest.raises(ConfigError, match="not empty"):
        write_brain_cohort(source)
    with pytest.raises(ConfigError, match="subjects=0"):
        write_brain_cohort(tmp_path / "none", subjects=0)
