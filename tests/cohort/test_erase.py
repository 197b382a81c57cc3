"""A patient is taken out: of every version, of labels and records, and of what comes later."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medray.annotation.erase import erase_subject
from medray.annotation.store import Label, LabelStore, Version
from medray.audit import open_trail
from medray.cohort import commit, erase
from medray.cohort.cohort import open_cohort
from medray.cohort.commit import Base, Contents, base_of, commit_cohort, restore_version
from medray.cohort.erase import erase_from_cohort
from medray.cohort.shards import shard_location
from medray.cohort.suppression import read_suppressed, standing
from medray.errors import InputError, NotFoundError, StorageError
from medray.inference.baseline import keep_reference, read_reference
from medray.ingestion.ledger import Outcome, note
from medray.ingestion.verify import verify
from medray.monitoring import records
from medray.monitoring.journal import Journal
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import erase_subject as erase_records
from medray.monitoring.records import models_of, read_records, records_root, rewrite, write_records
from medray.preprocessing.planning import plan
from medray.registry.card import ModelCard
from medray.registry.registry import Registry
from medray.storage.location import locate
from tests.cohort.test_commit import mtime_alone
from tests.inference.test_predictor import untrained
from tests.phantoms import SMALL_PLAN


@pytest.fixture
def root(phantom_cohort, tmp_path):
    """A cohort of two versions: the first one lacks its last patient."""
    place = locate(Path(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort")))
    for path in (tmp_path / "cohort" / "versions").iterdir():
        path.unlink()
    whole = open_cohort(place)
    last = whole.rows[-1].subject
    fewer = Contents(tuple(row for row in whole.rows if row.subject != last), whole.quarantine, whole.index.labels)
    (tmp_path / "cohort" / "cohort.json").unlink()
    commit_cohort(place, fewer, {})
    commit_cohort(place, Contents(whole.rows, whole.quarantine, whole.index.labels), {}, base=base_of(place))
    return place


def erased(root, subject, **more):
    return erase_subject(subject, [root], records_root(), **more)


def files_with(root, *words):
    return [path for path in Path(root.path).rglob("*") if path.is_file() and any(word in path.name for word in words)]


def test_no_file_of_the_patient_is_left(root):
    before = open_cohort(root)
    row = before.rows[0]
    done = erased(root, row.subject)
    now = open_cohort(root)
    assert row.subject not in now.subjects
    assert len(now.rows) == len(before.rows) - 1
    [erasure] = done.cohorts.values()
    assert erasure.cohort == now.index.id
    assert erasure.series == (row.series,)
    assert before.index.id in erasure.replaced
    assert not files_with(root, row.volume, row.label)
    assert not files_with(root, *erasure.replaced)
    assert verify(root.path) == []
    for left in now.rows:
        now.volume(left)
    texts = [path.read_bytes() for path in Path(root.path).rglob("*.json") if path.parent.name != "erased"]
    assert not any(row.series.encode() in text for text in texts)


def test_a_version_without_the_patient_stays(root):
    whole = open_cohort(root)
    names = [entry.name.removesuffix(".json") for entry in root.join("versions").entries()]
    [first] = [name for name in names if name != whole.index.id]
    erased(root, whole.rows[-1].subject)
    assert len(open_cohort(root, version=first).rows) == len(whole.rows) - 1
    assert len(open_cohort(root).rows) == len(whole.rows) - 1


def test_nobody_comes_back_by_a_rerun_or_by_who_was_under_way(root):
    whole = open_cohort(root)
    row, under_way = whole.rows[0], base_of(root)
    contents = Contents(whole.rows, whole.quarantine, whole.index.labels)
    shard = Path(root.path) / "volumes" / f"part-{row.volume}.parquet"
    data = shard.read_bytes()
    erased(root, row.subject)
    shard.write_bytes(data)  # what a rerun reads again
    for base in (under_way, base_of(root), Base(None, 0)):
        commit_cohort(root, contents, {}, base=base)
        assert row.subject not in open_cohort(root).subjects
        assert not shard.exists()
    assert set(read_suppressed(root)) == {row.subject}


def test_of_an_old_version_stays_what_it_was_of_others(root):
    whole = open_cohort(root)
    names = [entry.name.removesuffix(".json") for entry in root.join("versions").entries()]
    [first] = [name for name in names if name != whole.index.id]
    rows = open_cohort(root, version=first).rows
    gone = [rows[0].subject, rows[1].subject]
    for subject in gone:
        erased(root, subject)
    assert standing(root, whole.index.id) == open_cohort(root).index.id
    old = open_cohort(root, version=standing(root, first))
    assert [row.series for row in old.rows] == [row.series for row in rows if row.subject not in gone]
    assert "remade" in old.index.lineage
    assert standing(root, "unheard-of") == "unheard-of"
    newer = Contents(open_cohort(root).rows[:-1], (), whole.index.labels)
    commit_cohort(root, newer, {}, base=base_of(root))
    assert len(open_cohort(root).rows) == len(newer.rows), "what is of the past is no news"
    restored = restore_version(root, old.index.id)
    assert [row.series for row in restored.rows] == [row.series for row in old.rows]


@pytest.mark.parametrize("old", [False, True])
def test_others_keep_the_labels_that_came_later(root, old):
    """What a version was before its patient came is an old version once more, and no news to join."""
    whole = open_cohort(root)
    last = whole.rows[-1].subject
    labelled = replace(whole.rows[0], label="", findings=())
    for rows in ((labelled, *whole.rows[1:-1]), (labelled, *whole.rows[1:]), whole.rows):
        commit_cohort(root, Contents(rows, whole.quarantine, whole.index.labels), {}, base=base_of(root))
    for path in (Path(root.path) / "versions").iterdir() if old else ():
        os.utime(path, (0, 0))
    with mtime_alone():
        erased(root, last)
        newer = open_cohort(root)
        commit_cohort(root, Contents(newer.rows[:-1], (), whole.index.labels), {}, base=base_of(root))
    now = open_cohort(root)
    assert [row.series for row in now.rows] == [row.series for row in newer.rows[:-1]]
    assert next(row for row in now.rows if row.series == labelled.series).label == whole.rows[0].label


@pytest.mark.parametrize("when", ["listed", "after"])
def test_what_is_committed_meanwhile_stays_and_has_no_patient(root, monkeypatch, when):
    """An ingest has looked for who was erased before she was, and makes its version current while the erasure goes on."""
    whole = open_cohort(root)
    hers, late = whole.rows[0], replace(whole.rows[1], series="late", subject="somebody")
    read, base = erase._versions, base_of(root)
    done: list[bool] = []

    def commit():
        done.append(True)
        contents = Contents((*whole.rows, late), whole.quarantine, whole.index.labels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("medray.cohort.commit.read_suppressed", lambda place: {})
            commit_cohort(root, contents, {}, base=base)

    def versions(place):
        if not done and when == "listed" and read_suppressed(place):
            commit()
        found = read(place)
        if not done and when == "after" and read_suppressed(place):
            commit()
        return found

    monkeypatch.setattr(erase, "_versions", versions)
    erased(root, hers.subject)
    assert done
    assert {"somebody", *whole.subjects} - {hers.subject} == set(open_cohort(root).subjects)
    for entry in root.join("versions").entries():
        assert hers.subject not in open_cohort(root, version=entry.name.removesuffix(".json")).subjects


def test_a_commit_that_she_was_erased_under_writes_her_nowhere(root, monkeypatch):
    whole = open_cohort(root)
    hers, late, base = whole.rows[0], replace(whole.rows[1], series="late", subject="somebody"), base_of(root)
    write = commit._write
    done: list[bool] = []

    def written(*words):
        if not done:
            done.append(True)
            erased(root, hers.subject)
        return write(*words)

    monkeypatch.setattr(commit, "_write", written)
    commit_cohort(root, Contents((*whole.rows, late), whole.quarantine, whole.index.labels), {}, base=base)
    assert {"somebody", *whole.subjects} - {hers.subject} == set(open_cohort(root).subjects)
    tables = [path.read_bytes() for path in Path(root.path).rglob("*.parquet") if path.parent == Path(root.path)]
    assert tables
    for entry in root.join("versions").entries():
        assert hers.subject not in open_cohort(root, version=entry.name.removesuffix(".json")).subjects
    named = {cohort.index.manifest for cohort in erase._versions(root).values()}
    assert {path.name for path in Path(root.path).rglob("manifest*.parquet")} == {Path(name).name for name in named}


def test_what_was_read_and_not_committed_goes_too(root):
    row = replace(open_cohort(root).rows[0], series="second", volume="f" * 32, label="e" * 32, intake="key")
    note(root, "key", Outcome(row, ()))
    for folder, digest in (("volumes", row.volume), ("labels", row.label)):
        shard_location(root.join(folder), digest).write(b"voxels")
    erased(root, row.subject)
    assert not files_with(root, row.volume, row.label, "done-key")


def test_all_cohorts_are_looked_at_before_anything_is_begun(root, tmp_path):
    whole = open_cohort(root)
    lonely = locate(tmp_path / "lonely")
    commit_cohort(lonely, Contents(whole.rows[:1], (), whole.index.labels), {})
    with pytest.raises(InputError, match=r"only one of the cohort at .*lonely"):
        erase_subject(whole.rows[0].subject, [root, lonely], records_root())
    assert whole.rows[0].subject in open_cohort(root).subjects


def test_a_second_call_finds_the_rest_by_what_the_first_noted(root, monkeypatch):
    """A store that was away between the cohort and the records costs nothing."""
    row = open_cohort(root).rows[0]
    store = LabelStore(root)
    label = Version(Label(row.series, "ann"), "submitted", "ann", names={"ball": 1})
    image = open_cohort(root).volume(row)
    store.draw(label, image.with_voxels(np.ones((1, *image.shape), np.uint8)))
    drawn = store.latest(row.series, "final").content
    write_records(records_root(), [replace(record("hers", ""), reference=f"image:{row.series}")], name="some")
    with monkeypatch.context() as patch:
        patch.setattr("medray.cohort.erase._forget", lambda *words: (_ for _ in ()).throw(StorageError("away")))
        with pytest.raises(StorageError):
            erased(root, row.subject)
    assert files_with(root, drawn) == [], "the label map went with the patient's shards"
    done = erased(root, row.subject)
    [erasure] = done.cohorts.values()
    assert erasure.series == (row.series,)
    assert (done.labels, done.records) == (1, 1)


def test_two_are_erased_at_once(root):
    subjects = [row.subject for row in open_cohort(root).rows[:2]]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda subject: erase_from_cohort(root, subject, LabelStore(root)), subjects))
    assert set(read_suppressed(root)) == set(subjects)
    assert not set(subjects) & set(open_cohort(root).subjects)


def test_no_version_beside_has_the_patient(root, tmp_path):
    cohort = open_cohort(root)
    hers, other = cohort.rows[0], cohort.rows[1]
    recipe = plan(cohort, changes=SMALL_PLAN)
    registry = Registry()
    run = locate(tmp_path / "run")
    run.join("run.json").write(b"{}")
    run.join("pictures", "epoch-0001.png").write(b"a picture")
    people = {"train": (other.subject,), "val": (hers.subject,)}
    card = ModelCard(name="ball", created="2026", plan=recipe, scores={}, subjects=people, lineage={"run": run.path})
    with registry.tracking("ball") as tracking:
        tracking.pictures(run.join("pictures"))
        version = registry.register(card, locate(untrained(tmp_path / "model", recipe)), tracking=tracking)
    [picture] = [path for path in tmp_path.rglob("epoch-0001.png") if "run" not in path.parts]
    keep_reference("ball/1", [record(row.series, row.subject) for row in (hers, other)])
    done = erased(root, hers.subject)
    assert done.references == ("ball/1",)
    assert done.models == {"ball/1": "val"}
    assert [one.subject for one in read_reference(version, registry) or ()] == [other.subject]
    assert not picture.exists()
    assert not run.join("pictures", "epoch-0001.png").exists()


def test_what_is_on_its_way_arrives_without_the_patient(root):
    row = open_cohort(root).rows[0]
    before, replica = datetime.now(UTC), Journal(records_root())
    replica.add(record("mine", row.subject, before))
    replica.complete("mine", {})
    other = Journal(records_root())
    other.share(record("of a run", row.subject, before))
    assert erased(root, row.subject).records == 1, "the journal that a node's processes share was moved"
    replica.add(record("later", row.subject))
    replica.complete("later", {})
    replica.move()
    assert [one.id for one in read_records(records_root(), "ball")] == ["later"]
    assert models_of(records_root()) == ["ball"]


def record(id_, subject, at=None):
    return PredictionRecord(
        id=id_, at=at or datetime.now(UTC), model="ball", version=1, task="segmentation", subject=subject, numbers={"mean": 1.0}
    )


def test_records_of_dicom_know_no_parts_of_a_series(root):
    whole = open_cohort(root)
    row = replace(whole.rows[0], series="1a2b3c-ABCDEFGH", subject="of no PatientID")
    commit_cohort(root, Contents((*whole.rows, row), (), whole.index.labels), {}, base=base_of(root))
    served = replace(record("served", ""), series="1a2b3c")
    write_records(records_root(), [served], name="some")
    assert erased(root, row.subject).records == 1


@pytest.mark.parametrize("write", [write_records, None])
def test_who_was_erased_between_look_and_write_does_not_come_back(tmp_path, monkeypatch, write):
    place, hers = locate(tmp_path / "records"), record("hers", "she")
    write_records(place, [hers, record("other", "other")], name="some")
    put = records._write
    done: list[bool] = []

    def late(file, found):
        if not done:
            done.append(True)
            erase_records(place, "she")
        put(file, found)

    monkeypatch.setattr(records, "_write", late)
    if write:
        write(place, [hers], name="late")
    else:
        rewrite(place, "ball", hers.at.date(), lambda one: replace(one, reason="changed"))
    assert done
    assert [one.id for one in read_records(place, "ball")] == ["other"]


def test_labels_and_records_go_too_and_models_are_named(root, tmp_path):
    cohort = open_cohort(root)
    hers, other = cohort.rows[0], cohort.rows[1]
    store = LabelStore(root)
    for row in (hers, other):
        image = cohort.volume(row)
        mask = image.with_voxels(np.ones((1, *image.shape), np.uint8))
        label = Version(Label(row.series, "ann"), "submitted", "ann", names={"ball": 1})
        store.draw(label, mask)
    drawn = store.latest(hers.series, "final").content
    now = datetime.now(UTC)
    some = [record(row.series, row.subject, now) for row in (hers, other)]
    write_records(records_root(), some, name="a")
    recipe = plan(cohort, changes=SMALL_PLAN)
    folder = locate(untrained(tmp_path / "model", recipe))
    registry = Registry()
    for people in ({"train": (hers.subject,)}, {"train": (other.subject,), "test": (hers.subject,)}, {"train": ("x",)}):
        registry.register(ModelCard(name="ball", created="2026", plan=recipe, scores={}, subjects=people), folder)
    for start in ("ball/1", "ball/4", "ball/2"):
        heir = ModelCard(name="ball", created="2026", plan=recipe, scores={}, subjects={}, lineage={"start": start})
        registry.register(heir, folder)
    done = erased(root, hers.subject, why="asked on 2026-11-27")
    assert (done.labels, done.records) == (1, 1)
    assert done.models == {"ball/1": "train", "ball/2": "test", "ball/4": "began with ball/1", "ball/5": "began with ball/4"}
    assert not files_with(root, drawn)
    assert [one.label.series for one in store.history()] == [other.series]
    assert [one.subject for one in read_records(records_root(), "ball")] == [other.subject]
    told = list(open_trail().events(action="subject.erase"))
    assert [event.outcome for event in told] == ["begun", "ok"]
    assert told[0].detail == "asked on 2026-11-27"
    assert open_trail().verify().problems == ()


def test_what_two_patients_have_in_common_stays(root):
    cohort = open_cohort(root)
    one, other = cohort.rows[0], cohort.rows[1]
    twin = replace(other, volume=one.volume, label=one.label)
    rows = tuple(twin if row is other else row for row in cohort.rows)
    commit_cohort(root, Contents(rows, cohort.quarantine, cohort.index.labels), {}, base=base_of(root))
    erased(root, one.subject)
    open_cohort(root).volume(twin)


def test_strangers_and_the_last_one_are_refused(root):
    with pytest.raises(NotFoundError, match="nothing is known of a subject"):
        erased(root, "nobody")
    cohort = open_cohort(root)
    for row in cohort.rows[:-1]:
        erased(root, row.subject)
    with pytest.raises(InputError, match="only one of the cohort"):
        erased(root, cohort.rows[-1].subject)
    assert cohort.rows[-1].subject not in read_suppressed(root), "nothing was begun"


def test_a_damaged_list_lets_nothing_be_committed(root):
    cohort = open_cohort(root)
    root.join("erased", "somebody.json").write(b"{")
    with pytest.raises(InputError, match="who must not come back"):
        commit_cohort(root, Contents(cohort.rows, (), cohort.index.labels), {})


def test_a_patient_of_no_cohort_has_records_all_the_same(root):
    write_records(records_root(), [record("r0", "visitor"), record("r1", "elsewhere"), record("r2", "other")], name="some")
    assert erased(root, "visitor").records == 1
    assert erase_subject("stranger", [], records_root(), also=["elsewhere"]).records == 1
    assert [one.id for one in read_records(records_root(), "ball")] == ["r2"]
    row = open_cohort(root).rows[1]
    nameless = replace(record("r3", ""), reference=f"image:{row.series}")
    write_records(records_root(), [nameless], name="of the cohort")
    assert erased(root, row.subject).records == 1
    with pytest.raises(NotFoundError, match="medray cohort split"):
        erase_subject("stranger", [], records_root())
    subject = open_cohort(root).rows[0].subject
    with pytest.raises(NotFoundError, match="misspelt"):
        erase_subject(subject, [root, root.join("misspelt")], records_root())
    assert subject in open_cohort(root).subjects, "nothing was begun"


def test_what_a_kill_left_is_deleted_by_the_next_call(root, monkeypatch):
    row = open_cohort(root).rows[0]
    removed: list[Any] = []

    def remove(place):
        if len(removed) == 1:
            raise KeyboardInterrupt
        removed.append(place)
        delete(place)

    delete = type(root).remove
    with monkeypatch.context() as patch:
        patch.setattr(type(root), "remove", remove)
        with pytest.raises(KeyboardInterrupt):
            erased(root, row.subject)
    erased(root, row.subject)
    assert not files_with(root, row.volume, row.label)
    assert verify(root.path) == []
