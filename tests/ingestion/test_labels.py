"""Label maps that others made, as people have them: BIDS derivatives, MSD, DICOM segmentations, MONAI Label's datastore."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medray.annotation.projects import Project, Projects
from medray.annotation.store import LabelStore
from medray.annotation.submission import review
from medray.cohort.cohort import open_cohort
from medray.errors import InputError, NotFoundError
from medray.formats.dicom_results import Source, write_segmentation
from medray.formats.nifti import read_nifti, write_nifti
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.ingestion.labels import import_labels
from medray.storage.location import locate
from tests.phantoms import take_in_all


@pytest.fixture
def root(phantom_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    return Path(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort"))


def label_of(source, number):
    return read_nifti((source / f"sub-{number:02d}" / f"sub-{number:02d}_dseg.nii.gz").read_bytes())


def kept(root, **wanted):
    """Return the label maps in the store by subject."""
    store, cohort = LabelStore(locate(root)), open_cohort(root)
    subjects = {row.series: row.subject for row in cohort.rows}
    return {subjects[one.label.series]: store.mask(one).voxels for one in store.heads(**wanted)}


def test_bids_derivatives(root, phantom_source, tmp_path):
    place = tmp_path / "bids"
    for number in range(0, 9, 2):
        folder = place / "derivatives" / "lesions" / f"sub-{number:02d}"
        folder.mkdir(parents=True)
        (folder / f"sub-{number:02d}_space-T1w_dseg.nii.gz").write_bytes(write_nifti(label_of(phantom_source, number)))
    stranger = place / "derivatives" / "lesions" / "sub-77"
    stranger.mkdir()
    (stranger / "sub-77_dseg.nii.gz").write_bytes(write_nifti(label_of(phantom_source, 0)))
    shutil.copy(phantom_source / "dseg.tsv", place / "dseg.tsv")
    done = import_labels(root, place, "dr-bids")
    assert (done.taken, done.refused) == (5, {"label-without-image": 1})
    assert "sub-77" not in done.problems[0]
    found = kept(root, annotator="dr-bids")
    assert len(found) == 5
    assert all(np.isin(voxels, (0, 1, 4)).all() and voxels.any() for voxels in found.values())
    before = len(LabelStore(locate(root)).history())
    assert import_labels(root, place, "dr-bids").taken == 5
    assert len(LabelStore(locate(root)).history()) == before, "nothing is there twice"


def test_decathlon(phantom_source, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    place = tmp_path / "msd"
    for folder in ("imagesTr", "labelsTr"):
        (place / folder).mkdir(parents=True)
    for number in (0, 2):
        image = phantom_source / f"sub-{number:02d}" / f"sub-{number:02d}_T1w.nii.gz"
        shutil.copy(image, place / "imagesTr" / f"case_{number}.nii.gz")
    cohort = take_in_all(place, tmp_path / "cohort")
    shutil.rmtree(place / "imagesTr")
    for number in (0, 2):
        (place / "labelsTr" / f"case_{number}.nii.gz").write_bytes(write_nifti(label_of(phantom_source, number)))
    training = [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in (0, 2)]
    described = {"modality": {"0": "MR"}, "labels": {"0": "background", "1": "ball", "4": "core"}, "training": training}
    (place / "dataset.json").write_text(json.dumps(described))
    assert import_labels(cohort.root.path, place, "msd").taken == 2
    [one, _] = LabelStore(cohort.root).heads(annotator="msd")
    assert one.names == {"ball": 1, "core": 4}


def test_dicom_segmentations_go_into_a_project_under_its_own_values(root, phantom_source, tmp_path):
    project = Project(name="cores", names={"core": (), "ball": ()})
    Projects(locate(root)).create(project, "olga")
    place = tmp_path / "segs"
    place.mkdir()
    for number in (1, 3):
        files = [file.read_bytes() for file in (phantom_source / f"sub-{number:02d}" / "series").iterdir()]
        mask = label_of(phantom_source, number)
        (place / f"{number}.dcm").write_bytes(write_segmentation(mask, Source.of(files), {"ball": 1, "core": 4}, "reader"))
    assert import_labels(root, place, "dr-seg", project="cores").refused == {"not-assigned": 2}
    Projects(locate(root)).assign("cores", ["dr-seg"], "olga")
    done = import_labels(root, place, "dr-seg", project="cores")
    assert (done.taken, done.problems) == (2, ())
    store = LabelStore(locate(root))
    [first, _] = store.heads(project="cores")
    review(store, first.label, "rita", "rejected", seen=first.number)
    assert import_labels(root, place, "dr-seg", project="cores").taken == 2
    assert store.head(first.label).status == "rejected", "what a reviewer gave back stays so"
    found = kept(root, project="cores", annotator="dr-seg")
    for voxels in found.values():
        values, counts = np.unique(voxels, return_counts=True)
        assert values.tolist() == [0, 1, 2]
        assert counts[1] < counts[2], "the core is the smaller one, and has the project's first value"
    with pytest.raises(NotFoundError, match="no project"):
        import_labels(root, place, "dr-seg", project="none")


def test_monai_labels_datastore(root, phantom_source, tmp_path):
    place = tmp_path / "monai"
    (place / "labels" / "final").mkdir(parents=True)
    (place / "labels" / "original").mkdir()
    mask = label_of(phantom_source, 2)
    (place / "labels" / "final" / "sub-02.nrrd").write_bytes(write_nrrd(Volume(mask.voxels, mask.affine)))
    (place / "labels" / "original" / "sub-02.nrrd").write_bytes(write_nrrd(Volume(0 * mask.voxels, mask.affine)))
    said = {"label_info": [{"name": "background", "idx": 0}, {"name": "ball", "idx": 1}, {"name": "inner", "idx": 4}]}
    labels = {tag: {"ext": ".nrrd", "info": {"params": said}} for tag in ("final", "original")}
    described = {"name": "set", "objects": {"sub-02": {"image": {"ext": ".nii.gz", "info": {}}, "labels": labels}}}
    (place / "datastore_v2.json").write_text(json.dumps(described))
    assert import_labels(root, place, "dr-monai").taken == 1
    [one] = LabelStore(locate(root)).heads(annotator="dr-monai")
    assert one.names == {"ball": 1, "inner": 4}
    assert np.count_nonzero(kept(root, annotator="dr-monai").popitem()[1]) == np.count_nonzero(mask.voxels)
    far = json.dumps(described).replace('"idx": 4', '"idx": 1e999')
    (place / "datastore_v2.json").write_text(far)
    with pytest.raises(InputError, match="datastore_v2"):
        import_labels(root, place, "dr-monai")
    (place / "datastore_v2.json").write_text('{"objects": 3}')
    with pytest.raises(InputError, match="datastore_v2"):
        import_labels(root, place, "dr-monai")


def test_bad_label_maps_cost_nothing_that_is_good(root, phantom_source, tmp_path):
    place = tmp_path / "mixed"
    good = label_of(phantom_source, 0)
    for number, data in (
        (0, write_nifti(good)),
        (2, write_nifti(good)),
        (4, b"nonsense"),
        (6, write_nifti(Volume(np.uint8(9) * (label_of(phantom_source, 6).voxels > 0), label_of(phantom_source, 6).affine))),
    ):
        folder = place / f"sub-{number:02d}"
        folder.mkdir(parents=True)
        (folder / f"sub-{number:02d}_dseg.nii.gz").write_bytes(data)
    done = import_labels(root, place, "dr-mixed")
    assert done.taken == 1
    assert done.refused["label-grid"] >= 1
    assert sum(done.refused.values()) == 3
    with pytest.raises(InputError, match="no label maps"):
        import_labels(root, tmp_path / "mixed", "x", labels="*.mask")


@pytest.mark.parametrize("other", ["T2w", "FLAIR"])
def test_of_several_images_the_one_on_whose_grid_it_lies(phantom_source, tmp_path, monkeypatch, other):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    place, labels = tmp_path / "source" / "sub-00", tmp_path / "labels"
    place.mkdir(parents=True)
    shutil.copy(phantom_source / "sub-00" / "sub-00_T1w.nii.gz", place)
    shutil.copy(phantom_source / "sub-02" / "sub-02_T1w.nii.gz", place / f"sub-00_{other}.nii.gz")
    cohort = take_in_all(tmp_path / "source", tmp_path / "cohort")
    (labels / "sub-00").mkdir(parents=True)
    shutil.copy(phantom_source / "sub-00" / "sub-00_dseg.nii.gz", labels / "sub-00")
    shutil.copy(phantom_source / "dseg.tsv", labels)
    assert import_labels(cohort.root.path, labels, "dr").taken == 1
    [one] = LabelStore(cohort.root).heads(annotator="dr")
    assert LabelStore(cohort.root).mask(one).shape == label_of(phantom_source, 0).shape
