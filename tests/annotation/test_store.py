"""Labels by many people: nothing is overwritten, the newest is found, and a cohort can be made of them."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medray.annotation.export import export_labels
from medray.annotation.store import LabelStore
from medray.cohort.cohort import open_cohort
from medray.errors import NotFoundError
from medray.imaging.volume import Volume
from medray.storage.location import locate


@pytest.fixture
def root(phantom_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    return locate(Path(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort")))


def drawn(root, row, value, size=5):
    volume = open_cohort(root).volume(row)
    mask = np.zeros((1, *volume.shape), np.uint8)
    mask[0, 2 : 2 + size, 3:8, 4:9] = value
    return Volume(mask, volume.affine)


def test_the_newest_is_found_and_the_others_stay(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    labels = [drawn(root, row, 1, size) for size in (3, 4, 5)]
    kept = [store.submit(row.series, "final", name, label, {"ball": 1}, {}) for name, label in zip("abc", labels, strict=True)]
    assert [one.number for one in kept] == sorted({one.number for one in kept})
    assert store.latest(row.series, "final") == kept[-1]
    history = store.history(row.series)
    assert [one.annotator for one in history] == ["a", "b", "c"]
    assert all(np.array_equal(store.label(one).voxels, label.voxels) for one, label in zip(history, labels, strict=True))


def test_what_is_said_of_a_label_is_a_further_row(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    store.submit(row.series, "final", "a", drawn(root, row, 1), {"ball": 1}, {"tool": "brush"})
    store.amend(row.series, "final", "b", {"status": "approved"})
    assert store.latest(row.series, "final").facts == {"tool": "brush", "status": "approved"}
    assert [one.facts for one in store.history(row.series)] == [{"tool": "brush"}, {"tool": "brush", "status": "approved"}]
    store.withdraw(row.series, "final", "b")
    with pytest.raises(NotFoundError, match="no label final"):
        store.latest(row.series, "final")
    assert store.current() == {}
    assert store.label(store.history(row.series)[0]).voxels.any()


def test_another_cohort_has_other_labels(root, tmp_path):
    row = open_cohort(root).rows[0]
    LabelStore(root).submit(row.series, "final", "a", drawn(root, row, 1), {"ball": 1}, {})
    elsewhere = locate(Path(shutil.copytree(root.path, tmp_path / "elsewhere")))
    assert LabelStore(elsewhere).current() == {}


def test_many_people_at_once_lose_nothing(root):
    rows = open_cohort(root).rows
    labels = {row.series: drawn(root, row, 1) for row in rows}

    def submit(number):
        row = rows[number % len(rows)]
        return LabelStore(root).submit(row.series, "final", f"person {number}", labels[row.series], {"ball": 1}, {})

    with ThreadPoolExecutor(8) as people:
        kept = list(people.map(submit, range(60)))
    assert len({one.number for one in kept}) == 60
    assert sum(len(LabelStore(root).history(row.series)) for row in rows) == 60


def test_a_cohort_gets_what_was_submitted_under_its_own_values(root):
    before = open_cohort(root)
    assert before.index.labels is not None
    row, other = before.rows[:2]
    store = LabelStore(root)
    store.submit(row.series, "final", "a", drawn(root, row, 7), {"core": 7}, {})
    store.submit(row.series, "original", "model/1", drawn(root, row, 1), {"ball": 1}, {})
    store.submit(other.series, "final", "a", drawn(root, other, 2), {"vessel": 2}, {})
    after = export_labels(root)
    assert after.index.id != before.index.id
    assert after.index.labels is not None
    assert dict(after.index.labels.names) == {**before.index.labels.names, "vessel": 2}
    found = {one.series: one for one in after.rows}
    assert np.unique(after.mask(found[row.series])).tolist() == [0, before.index.labels.names["core"]]
    assert found[row.series].statistics.label_voxels["core"] == 125
    assert np.unique(after.mask(found[other.series])).tolist() == [0, 2]
    assert [replace(one, label="", label_checksum="", statistics=one.statistics) for one in after.rows[2:]] == [
        replace(one, label="", label_checksum="") for one in before.rows[2:]
    ]
    assert export_labels(root).index.id == after.index.id
    assert open_cohort(root, version=before.index.id).mask(row).any()


def test_there_must_be_a_cohort(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match="medray ingest"):
        export_labels(locate(tmp_path / "nothing"))
