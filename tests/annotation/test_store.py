"""Labels by many people: nothing is overwritten, nobody's is lost, the newest is found, and a cohort can be made of them."""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medray.annotation.export import export_labels
from medray.annotation.store import Label, LabelStore, Version
from medray.audit import open_trail
from medray.cohort.cohort import open_cohort
from medray.errors import ConflictError, InputError, NotFoundError
from medray.imaging.volume import Volume
from medray.storage.location import locate
from tests.services import postgres_server

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def drawn(root, row, value, size=5):
    volume = open_cohort(root).volume(row)
    mask = np.zeros((1, *volume.shape), np.uint8)
    mask[0, 2 : 2 + size, 3:8, 4:9] = value
    return Volume(mask, volume.affine)


def version(row, who, *, tag="final", names=None, status="submitted", facts=None, project=""):
    return Version(
        Label(row.series, who, tag, project), status, who, names={"ball": 1} if names is None else names, facts=facts or {}
    )


def test_the_newest_is_found_and_the_others_stay(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    labels = [drawn(root, row, 1, size) for size in (3, 4, 5)]
    kept = [store.draw(version(row, name), label) for name, label in zip("abc", labels, strict=True)]
    assert [one.number for one in kept] == sorted({one.number for one in kept})
    assert store.latest(row.series, "final") == kept[-1]
    history = store.history(series=row.series)
    assert history == kept
    assert all(np.array_equal(store.mask(one).voxels, label.voxels) for one, label in zip(history, labels, strict=True))
    again = store.draw(version(row, "a"), labels[2])
    assert (again.parent, again.step) == (kept[0].number, 2)
    assert store.head(again.label) == again == store.version(again.number)
    assert [one.label.annotator for one in store.heads(series=row.series)] == ["b", "c", "a"]


def test_what_is_said_of_a_label_is_a_further_version(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    first = store.draw(version(row, "a", facts={"tool": "brush"}), drawn(root, row, 1))
    done = store.amend(first.label, "b", {"comment": "good"}, status="approved")
    assert (done.status, done.actor, done.label.annotator) == ("approved", "b", "a")
    assert store.latest(row.series, "final").facts == {"tool": "brush", "comment": "good"}
    assert [one.facts for one in store.history(series=row.series)] == [{"tool": "brush"}, {"tool": "brush", "comment": "good"}]
    store.withdraw(row.series, "final", "b")
    with pytest.raises(NotFoundError, match="no label final"):
        store.latest(row.series, "final")
    with pytest.raises(NotFoundError, match="no label final"):
        store.withdraw(row.series, "final", "b")
    assert store.current() == {}
    assert store.mask(store.history(series=row.series)[0]).voxels.any()


def test_who_saw_an_older_version_is_told_so_and_nothing_is_lost(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    first = store.draw(version(row, "a"), drawn(root, row, 1, 3), seen=0)
    with pytest.raises(ConflictError, match="newer"):
        store.draw(version(row, "a"), drawn(root, row, 1, 4), seen=0)
    second = store.draw(version(row, "a"), drawn(root, row, 1, 4), seen=first.number)
    with pytest.raises(ConflictError, match="newer"):
        store.draw(version(row, "a"), drawn(root, row, 1, 5), seen=first.number)
    with pytest.raises(ConflictError, match="no version 99"):
        store.draw(version(row, "b"), drawn(root, row, 1, 5), seen=99)
    assert store.draw(version(row, "a"), drawn(root, row, 1, 4), seen=first.number) == second, (
        "what is sent twice is there once"
    )
    assert len(store.history(series=row.series)) == 2


def test_an_act_and_its_event_are_one(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    first = store.draw(version(row, "a", project="lesions"), drawn(root, row, 1), seen=0)
    store.amend(first.label, "rita", {}, status="approved", seen=first.number)
    with pytest.raises(ConflictError):
        store.amend(first.label, "rita", {}, status="rejected", seen=first.number)
    found = [(event.action, event.actor, event.detail) for event in open_trail().events()]
    assert found == [("label.submitted", "a", "version 1"), ("label.approved", "rita", "version 2 of a")]
    assert open_trail().verify().problems == ()


def test_another_cohort_has_other_labels(root, tmp_path):
    row = open_cohort(root).rows[0]
    LabelStore(root).draw(version(row, "a"), drawn(root, row, 1))
    elsewhere = LabelStore(locate(Path(shutil.copytree(root.path, tmp_path / "elsewhere"))))
    assert elsewhere.current() == {}
    with pytest.raises(NotFoundError, match="version 1"):
        elsewhere.version(1)


def test_a_moved_cohort_keeps_its_labels(root, tmp_path):
    row = open_cohort(root).rows[0]
    LabelStore(root).draw(version(row, "a"), drawn(root, row, 1))
    moved = locate(Path(shutil.move(root.path, tmp_path / "moved")))
    for _ in range(2):
        assert [key[0] for key in LabelStore(moved).current()] == [row.series]
    back = locate(Path(shutil.move(moved.path, root.path)))
    assert LabelStore(back).current()
    (tmp_path / "alias").symlink_to(back.path)
    assert LabelStore(locate(tmp_path / "alias")).current(), "by another path it is the same cohort"
    with pytest.raises(NotFoundError):
        LabelStore(locate(tmp_path / "nothing"))


def test_what_has_no_label_map_says_so(root):
    store, row = LabelStore(root), open_cohort(root).rows[0]
    kept = store.add(replace(version(row, "a", names={}), kind="findings").saying({"ball": "present"}))
    assert store.head(kept.label).said == {"ball": "present"}
    with pytest.raises(InputError, match="no label map"):
        store.mask(kept)


def hurried(root):
    """Sixty people submit to nine images, then eight change one label, of which each saw the same version."""
    rows = open_cohort(root).rows
    labels = {row.series: drawn(root, row, 1) for row in rows}

    def submit(number):
        row = rows[number % len(rows)]
        return LabelStore(root).draw(version(row, f"person {number}"), labels[row.series], seen=0)

    def change(number):
        try:
            return LabelStore(root).add(replace(first, facts={"said": number}), seen=first.number)
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as people:
        kept = list(people.map(submit, range(60)))
        first = kept[0]
        changed = [one for one in people.map(change, range(8)) if one]
        anyhow = list(people.map(lambda number: LabelStore(root).add(replace(first, facts={"any": number})), range(8)))
    assert len({one.number for one in kept}) == 60
    assert len(changed) == 1
    history = LabelStore(root).history(series=first.label.series, annotator=first.label.annotator)
    assert history == [first, *changed, *sorted(anyhow, key=lambda one: one.number)]
    assert [one.parent for one in history[1:]] == [one.number for one in history[:-1]]
    assert sum(len(LabelStore(root).history(series=row.series)) for row in rows) == 60 + 1 + 8
    assert open_trail().verify().problems == ()
    assert open_trail().verify().events == 69


def test_many_people_at_once_lose_nothing(root):
    hurried(root)


@pytest.mark.services
@pytest.mark.skipif(not POSTGRES, reason="postgresql is not installed")
def test_many_people_at_once_lose_nothing_in_postgresql(root, tmp_path, monkeypatch):
    with postgres_server(tmp_path, POSTGRES[-1].parent) as url:
        monkeypatch.setenv("MEDRAY_DATABASE_URL", url)
        hurried(root)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.booleans()), max_size=12))
def test_whatever_is_acknowledged_stays_in_order(root, acts):
    """Two people add findings, having seen the newest version or not: what is taken is there, each on the one before."""
    store, row = LabelStore(root), open_cohort(root).rows[0]
    taken: dict[str, list[Version]] = {"a": [], "b": []}
    salt = uuid.uuid4()
    for turn, (who, content, sees) in enumerate(acts):
        mine = taken[who]
        new = replace(version(row, who, project=str(salt), names={}, facts={"turn": turn}), kind="findings").saying(content)
        seen = (mine[-1].number if mine else 0) if sees else -1
        try:
            mine.append(store.add(new, seen=seen))
        except ConflictError:
            assert not sees
    for who, mine in taken.items():
        assert store.history(project=str(salt), annotator=who) == mine
        assert [one.parent for one in mine] == [0, *(one.number for one in mine)][: len(mine)]


def test_a_cohort_gets_what_was_submitted_under_its_own_values(root):
    before = open_cohort(root)
    assert before.index.labels is not None
    row, other, third = before.rows[:3]
    store = LabelStore(root)
    store.draw(version(row, "a", names={"core": 7}), drawn(root, row, 7))
    store.draw(version(row, "model/1", tag="original"), drawn(root, row, 1))
    store.draw(version(other, "a", names={"vessel": 2}), drawn(root, other, 2))
    bad = store.draw(version(third, "a"), drawn(root, third, 1))
    store.amend(bad.label, "rita", {}, status="rejected")
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
