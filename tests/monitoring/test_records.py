import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.errors import InputError, MedrayError, NotFoundError
from medray.monitoring.journal import Journal
from medray.monitoring.record import PredictionRecord, records_of, sample_of, table_of
from medray.monitoring.records import (
    days_of,
    find_record,
    join_days,
    last_records,
    models_of,
    read_records,
    records_root,
    rewrite,
    write_records,
)
from medray.storage.location import locate

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def record(number=0, **changes: Any):
    facts: dict[str, Any] = {
        "id": f"r{number}",
        "at": NOON + timedelta(minutes=number),
        "model": "ball",
        "version": 1,
        "task": "segmentation",
    }
    return PredictionRecord(**facts | changes)


text = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20)
numbers = st.dictionaries(text, st.floats(allow_nan=False, width=32), max_size=5)
records = st.builds(
    record,
    st.integers(0, 10_000),
    role=st.sampled_from(["champion", "challenger", "shadow"]),
    status=st.integers(200, 599),
    reason=text,
    input_bytes=st.integers(0, 2**40),
    numbers=numbers,
    groups=st.dictionaries(text, text, max_size=3),
    latencies=numbers,
    embedding=st.lists(st.floats(-1e6, 1e6, width=32), max_size=4).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(some=st.lists(records, max_size=5, unique_by=lambda one: one.id))
def test_what_is_written_is_what_is_read(some, tmp_path_factory):
    root = locate(tmp_path_factory.mktemp("records"))
    assert records_of(table_of(some)) == some
    write_records(root, some, name="a")
    assert read_records(root, "ball") == sorted(some, key=lambda one: one.at)
    journal = Journal(root.join("moved"), tmp_path_factory.mktemp("journal"))
    for one in some:
        journal.add(one)
        journal.complete(one.id, {})
    assert journal.move() == len(some)
    assert read_records(root.join("moved"), "ball") == sorted(some, key=lambda one: one.at)


def test_any_parquet_reader_can_read_them(tmp_path):
    write_records(locate(tmp_path), [record(numbers={"volume ball": 2.5}, embedding=(1.0, 2.0))], name="a")
    table = pq.read_table(tmp_path)
    assert table["numbers"].to_pylist() == [[("volume ball", 2.5)]]
    assert table["day"].to_pylist() == ["2026-11-28"]


def test_a_time_is_read_and_nothing_beside_it(tmp_path):
    root = locate(tmp_path)
    write_records(root, [record(60 * number) for number in range(72)], name="a")
    write_records(root, [record(1, model="other")], name="a")
    assert len(days_of(root, "ball")) == 4
    assert models_of(root) == ["ball", "other"]
    since, until = NOON + timedelta(hours=3), NOON + timedelta(hours=30)
    assert [one.at for one in read_records(root, "ball", since=since, until=until)] == [
        NOON + timedelta(hours=hour) for hour in range(3, 30)
    ]
    assert find_record(root, "r600") == record(600)
    with pytest.raises(NotFoundError, match="on their way"):
        find_record(root, "r601")
    assert read_records(root, "nothing") == []
    assert models_of(root.join("nowhere")) == []


def test_the_last_ones_are_found_without_reading_all(tmp_path):
    root = locate(tmp_path)
    for number in range(200):
        write_records(root, [record(60 * number, version=1 + number % 2)], name=str(number))
    found = last_records(root, "ball", 10, lambda one: one.version == 2)
    assert [one.id for one in found] == [f"r{60 * number}" for number in range(181, 200, 2)]
    assert len(last_records(root, "ball", 1000)) == 200
    first = days_of(root, "ball")[0]
    assert {one.at.date() for one in last_records(root, "ball", 1000, since=first + timedelta(days=1))} == set(
        days_of(root, "ball")[1:]
    )


def test_what_comes_later_completes_a_record(tmp_path):
    journal = Journal(locate(tmp_path / "store"), tmp_path / "journal")
    journal.add(record(1))
    journal.add(record(2))
    journal.complete("r1", {"input_sha256": "ab", "numbers": {"noise": 0.5}, "embedding": [1.0, 2.0]})
    assert journal.lines == 3
    assert journal.move() == 1, "the other one isn't complete"
    assert journal.move() == 0
    [first] = read_records(locate(tmp_path / "store"), "ball")
    assert (first.input_sha256, first.numbers, first.embedding) == ("ab", {"noise": 0.5}, (1.0, 2.0))
    journal.complete("r2", {"input_sha256": "cd"})
    assert journal.move() == 1
    assert read_records(locate(tmp_path / "store"), "ball") == [first, record(2, input_sha256="cd")]
    assert not list((tmp_path / "journal").iterdir())


def test_a_store_that_is_away_loses_nothing(tmp_path):
    (tmp_path / "store").write_text("a file where a folder should be")
    journal = Journal(locate(tmp_path / "store"), tmp_path / "journal")
    journal.add(record())
    journal.complete("r0", {})
    with pytest.raises(MedrayError):
        journal.move()
    assert journal.lines == 2, "whoever is on call is to see them"
    (tmp_path / "store").unlink()
    journal.add(record(1))
    journal.complete("r1", {})
    assert journal.move() == 2
    assert journal.lines == 0


def test_what_a_killed_process_left_is_moved_and_a_living_one_s_is_not(tmp_path):
    code = textwrap.dedent(f"""
        import sys, time
        from datetime import UTC, datetime
        from pathlib import Path
        from medray.monitoring.journal import Journal
        from medray.monitoring.record import PredictionRecord
        from medray.storage.location import locate
        journal = Journal(locate({str(tmp_path / "store")!r}), Path({str(tmp_path / "journal")!r}))
        for number in range(100):
            journal.add(PredictionRecord(id=f"k{{number}}", at=datetime.now(UTC), model="ball", version=1, task="segmentation"))
        print("written", flush=True)
        time.sleep(60)
    """)
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        journal = Journal(locate(tmp_path / "store"), tmp_path / "journal")
        assert journal.move() == 0
        other.send_signal(signal.SIGKILL)
        other.wait()
        with next((tmp_path / "journal").iterdir()).open("a") as file:
            file.write('{"id": "cut off')
        assert journal.move() == 100
    finally:
        other.kill()
        other.wait()


def test_processes_share_a_journal(tmp_path):
    code = f"""
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from medray.monitoring.journal import Journal
        from medray.monitoring.record import PredictionRecord
        from medray.storage.location import locate
        journal = Journal(locate({str(tmp_path / "store")!r}), Path({str(tmp_path / "journal")!r}))
        for number in range(50):
            id_ = f"{{sys.argv[1]}}-{{number}}"
            journal.share(PredictionRecord(id=id_, at=datetime.now(UTC), model="ball", version=1, task="segmentation"))
            if number % 7 == 0:
                journal.move()
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    processes = [subprocess.Popen([*words, str(number)]) for number in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    root = locate(tmp_path / "store")
    Journal(root, tmp_path / "journal").move()
    assert len(read_records(root, "ball")) == 200
    assert not list((tmp_path / "journal").iterdir())


def test_a_day_is_written_anew_without_some(tmp_path):
    root = locate(tmp_path)
    for number in range(5):
        write_records(root, [record(number, subject=f"s{number % 2}")], name=str(number))
    assert rewrite(root, "ball", NOON.date(), lambda one: None if one.subject == "s1" else one) == 2
    assert [one.id for one in read_records(root, "ball")] == ["r0", "r2", "r4"]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert rewrite(root, "ball", NOON.date(), lambda one: replace(one, reference="")) == 3
    assert rewrite(root, "ball", NOON.date(), lambda one: None) == 3
    assert models_of(root) == []


def test_many_files_of_a_past_day_become_one(tmp_path):
    root = locate(tmp_path)
    old = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(70):
        write_records(root, [record(number, at=old)], name=str(number))
    assert join_days(root) == 1
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert len(read_records(root, "ball")) == 70


def test_a_foreign_file_is_named(tmp_path):
    write_records(locate(tmp_path), [record()], name="a")
    next(tmp_path.rglob("*.parquet")).write_text("no table")
    with pytest.raises(InputError, match="no table of records"):
        read_records(locate(tmp_path), "ball")


def test_drift_is_told_by_what_was_looked_at():
    some = [
        record(0, numbers={"noise": 1.0, "volume a": 2.0}, groups={"site": "n"}, embedding=(1.0, 2.0)),
        record(1),
        record(2, numbers={"noise": 2.0}),
    ]
    sample = sample_of(some)
    assert sample.size == 2
    assert sample.numbers["noise"].tolist() == [1, 2]
    assert sample.numbers["volume a"][0] == 2
    assert list(sample.labels["site"]) == ["n", ""]
    assert sample.embeddings is not None
    assert sample.embeddings.shape == (2, 2)
    assert records_root().path.endswith("home/records")
