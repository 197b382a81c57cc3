import os
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.cohort.cohort import open_cohort
from medray.cohort.commit import Contents, base_of, commit_cohort, content_id, joined, restore_version
from medray.cohort.fingerprint import SeriesStatistics
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.errors import InputError
from medray.storage.location import Location, locate


def row(name, instances=1, volume="v", label=""):
    statistics = SeriesStatistics(percentiles=(0.0, 0.0, 0.0), mean=0.0, deviation=1.0, label_voxels={})
    return SeriesRow(
        subject=name[0], study=name[0], series=name, time_point=0, when="", modality="MR", plane=(), channels=1,
        shape=(1, 1, 1), spacing_mm=(1.0, 1.0, 1.0), source_hash="", intake=name,
        instances=instances, volume=volume, volume_checksum="",
        label=label, label_checksum="", findings=(), statistics=statistics,
    )  # fmt: skip


def refused(name):
    return QuarantineRow(source=name, reason="truncated", detail="cut off")


def holding(*names):
    return Contents(tuple(row(name) for name in names), (), None)


readings = st.builds(row, st.sampled_from("abc"), st.integers(1, 3), st.sampled_from("vw"), st.sampled_from(["", "l"]))
versions = st.builds(
    lambda rows, quarantine: Contents(tuple({item.series: item for item in rows}.values()), tuple(set(quarantine)), None),
    st.lists(readings, max_size=4),
    st.lists(st.builds(refused, st.sampled_from("xyz")), max_size=3),
)


def content(contents):
    rows = sorted(contents.rows, key=lambda item: item.series)
    return rows, sorted(contents.quarantine, key=lambda item: item.source)


@given(versions, versions, versions)
def test_the_union_depends_on_neither_order_nor_number(one, two, three):
    assert content(joined(one, two)) == content(joined(two, one))
    assert content(joined(joined(one, two), three))[0] == content(joined(one, joined(two, three)))[0]
    assert content(joined(one, one)) == content(one)
    assert {item.series for item in joined(one, two).rows} == {item.series for item in (*one.rows, *two.rows)}


@contextmanager
def at_write(number, do):
    """Call ``do`` once before the given write, and again never."""
    original, count = Location.write, 0

    def write(place, data):
        nonlocal count
        count += 1
        if count == number:
            do()
        return original(place, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Location, "write", write)
        yield


@pytest.mark.parametrize("moment", range(1, 10))
def test_whenever_another_commits_both_are_in(tmp_path, moment):
    """Another run's whole commit falls between any two writes of this one."""
    root = locate(tmp_path)
    commit_cohort(root, holding("a"), {})
    base = base_of(root)
    with at_write(moment, lambda: commit_cohort(root, holding("a", "c"), {}, base=base)):
        commit_cohort(root, holding("a", "b"), {}, base=base)
    writes = 3  # a manifest, a version and the current one: the empty quarantine is there already; later moments never come
    expected = {"a", "b", "c"} if moment <= writes else {"a", "b"}
    assert {item.series for item in open_cohort(root).rows} == expected


@pytest.mark.parametrize("moment", range(1, 5))
def test_three_at_once_are_all_in(tmp_path, moment):
    root = locate(tmp_path)

    def second():
        with at_write(moment, lambda: commit_cohort(root, holding("c"), {})):
            commit_cohort(root, holding("b"), {})

    with at_write(moment, second):
        commit_cohort(root, holding("a"), {})
    assert {item.series for item in open_cohort(root).rows} == {"a", "b", "c"}


def test_a_run_that_sleeps_before_its_commit_loses_nothing(tmp_path):
    """Hours after the others': what counts is what it builds on."""
    root = locate(tmp_path)
    commit_cohort(root, holding("a"), {})
    base = base_of(root)
    commit_cohort(root, holding("a", "c"), {}, base=base)
    for file in ("cohort.json", *(f"versions/{path.name}" for path in (tmp_path / "versions").iterdir())):
        facts = (tmp_path / file).stat()
        os.utime(tmp_path / file, ns=(facts.st_atime_ns, facts.st_mtime_ns - 7200 * 10**9))
    commit_cohort(root, holding("a", "b"), {}, base=base)
    assert {item.series for item in open_cohort(root).rows} == {"a", "b", "c"}


def test_many_threads_lose_nothing(tmp_path):
    root = locate(tmp_path)
    threads = [threading.Thread(target=commit_cohort, args=(root, holding(name), {})) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "".join(item.series for item in open_cohort(root).rows) == "abcdefgh"


def test_what_a_version_has_dropped_does_not_come_back(tmp_path):
    """Its ancestors are recent, too, and are no one else's work."""
    root = locate(tmp_path)
    commit_cohort(root, Contents((row("a"),), (refused("x"),), None), {})
    commit_cohort(root, Contents((row("a", volume="w"),), (), None), {}, base=base_of(root))
    third = commit_cohort(root, Contents((row("a", volume="x"),), (), None), {}, base=base_of(root))
    assert open_cohort(root).index.id == third.index.id
    assert third.quarantine == ()


def test_content_that_returns_is_a_child_of_what_came_between(tmp_path):
    root = locate(tmp_path)
    first = commit_cohort(root, holding("a"), {})
    commit_cohort(root, Contents((row("a", volume="wrong"),), (refused("x"),), None), {}, base=base_of(root))
    mended = commit_cohort(root, holding("a"), {}, base=base_of(root))
    assert mended.index.id == f"{first.index.id}-1"
    last = commit_cohort(root, holding("a", "b"), {}, base=base_of(root))
    assert {item.series: item.volume for item in last.rows} == {"a": "v", "b": "v"}
    assert last.quarantine == ()


def test_the_same_again_changes_no_file(tmp_path):
    root = locate(tmp_path)
    commit_cohort(root, holding("a"), {"audit": "1"})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    commit_cohort(root, holding("a"), {"audit": "2"}, base=base_of(root))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_earlier_version_is_restored_and_stays(tmp_path):
    root = locate(tmp_path)
    first = commit_cohort(root, holding("a"), {})
    commit_cohort(root, holding("a", "wrong"), {}, base=base_of(root))
    assert restore_version(root, first.index.id).index.id == f"{first.index.id}-1"
    assert {item.series for item in open_cohort(root).rows} == {"a"}
    commit_cohort(root, holding("a", "new"), {}, base=base_of(root))
    assert {item.series for item in open_cohort(root).rows} == {"a", "new"}


def test_what_comes_again_after_a_restoration_is_seen_by_a_run_beside(tmp_path):
    """Its content is an old version's, and so is its name; it is another commit all the same."""
    root = locate(tmp_path)
    first = commit_cohort(root, holding("a"), {})
    commit_cohort(root, holding("a", "b"), {}, base=base_of(root))
    restore_version(root, first.index.id)
    for path in tmp_path.rglob("*.json"):
        facts = path.stat()
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns - 7200 * 10**9))
    base = base_of(root)
    with mtime_alone():
        commit_cohort(root, holding("a", "b"), {}, base=base)
        commit_cohort(root, holding("a", "c"), {}, base=base)
    assert {item.series for item in open_cohort(root).rows} == {"a", "b", "c"}


@contextmanager
def mtime_alone():
    """Listings as an object store's: it knows when an object was written and nothing else."""
    original = Location.entries

    def entries(place):
        return [replace(entry, modified_ns=place.join(entry.name).modified_ns()) for entry in original(place)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Location, "entries", entries)
        yield


@pytest.mark.parametrize("mended_first", [True, False])
def test_what_one_run_has_mended_another_leaves_mended(tmp_path, mended_first):
    """It only inherited what was there before."""
    root = locate(tmp_path)
    faulty = Contents((row("s", label="zz"), row("t", volume="zz")), (refused("x"),), None)
    mended = Contents((row("s", label="aa"), row("t", volume="aa")), (), None)
    commit_cohort(root, faulty, {})
    base = base_of(root)
    added = Contents((*faulty.rows, row("n")), faulty.quarantine, None)
    for contents in (mended, added) if mended_first else (added, mended):
        commit_cohort(root, contents, {}, base=base)
    current = open_cohort(root)
    assert {(item.series, item.label, item.volume) for item in current.rows} == {
        ("s", "aa", "v"),
        ("t", "", "aa"),
        ("n", "", "v"),
    }
    assert current.quarantine == ()


def test_a_first_run_that_died_before_its_end_blocks_nobody(tmp_path):
    def refuse(contents, other, base):
        raise InputError("made with another key")

    root = locate(tmp_path)
    with at_write(4, lambda: (_ for _ in ()).throw(KeyboardInterrupt)), pytest.raises(KeyboardInterrupt):
        commit_cohort(root, holding("z"), {})
    assert not (tmp_path / "cohort.json").exists()
    for path in (tmp_path / "versions").iterdir():
        facts = path.stat()
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns - 7200 * 10**9))
    with mtime_alone():
        commit_cohort(root, holding("a"), {}, join=refuse)
    assert {item.series for item in open_cohort(root).rows} == {"a"}


def test_different_voxels_under_one_name_at_once_are_not_lost_in_silence(tmp_path):
    root = locate(tmp_path)
    with at_write(2, lambda: commit_cohort(root, Contents((row("a", volume="w"),), (), None), {})):
        commit_cohort(root, holding("a", "b"), {})
    current = open_cohort(root)
    assert {item.series for item in current.rows} == {"a", "b"}
    assert [(item.source, item.reason) for item in current.quarantine] == [("a", "conflicting-series")]


def test_another_s_version_that_is_refused_leaves_nothing_behind(tmp_path):
    def refuse(contents, other, base):
        raise InputError("made with another key")

    root = locate(tmp_path)
    other = commit_cohort(root, holding("a"), {})
    with pytest.raises(InputError, match="another key"):
        commit_cohort(root, holding("b"), {}, join=refuse)
    assert open_cohort(root).index.id == other.index.id
    commit_cohort(root, holding("a", "c"), {}, base=base_of(root), join=refuse)


def test_the_id_is_that_of_the_content(tmp_path):
    cohort = commit_cohort(locate(tmp_path), holding("b", "a"), {})
    assert content_id(cohort.rows, cohort.quarantine, None) == cohort.index.id
