import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.errors import StorageError
from medray.ingestion.intake import Intake
from medray.ingestion.scan import FEWEST, MOST, chunks, identify, scan_chunk
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Pseudonyms
from medray.storage.location import Entry, Location, locate
from tests.phantoms import grid, orientations, phantom, write_dicom


def intake(source, root):
    return Intake(locate(source), locate(root), Pseudonyms(b"k" * 32), parse_profile("basic"))


def test_identify_never_raises(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "fake.dcm").write_text("hello")
    (tmp_path / "fake.nii.gz").write_text("hello")
    (tmp_path / "half.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04rest")
    work = intake(tmp_path, tmp_path / "c")
    kinds = {entry.name: identify(work, entry) for entry in work.source.entries()}
    assert kinds["notes.txt"].kind == "other"
    assert kinds["fake.dcm"].reason == "not-an-image"
    assert kinds["fake.nii.gz"].reason == "not-an-image"
    assert kinds["half.dcm"].kind == "bad"
    assert kinds["a.zip"].reason == "zip"
    assert identify(work, Entry("gone.dcm", 1, 1)).reason == "unreadable"


def test_records_hold_pseudonyms_and_are_kept(tmp_path, monkeypatch):
    volume, _ = phantom(np.random.default_rng(0), grid(next(iter(orientations())), (2.0, 2.0, 2.5)))
    write_dicom(tmp_path / "s" / "Doe_John", volume, "DOE4711")
    work = intake(tmp_path / "s", tmp_path / "c")
    entries = work.source.entries()
    first = scan_chunk(work, entries)
    assert {record.header.subject for record in first if record.header} == {Pseudonyms(b"k" * 32).name("subject", "DOE4711")}
    (kept,) = (tmp_path / "c" / "ledger").iterdir()
    from isal import igzip

    text = igzip.decompress(kept.read_bytes())
    for secret in (b"DOE4711", b"Doe_John", b"20200101", b"1.2.826"):
        assert secret not in text
    monkeypatch.setattr("medray.ingestion.scan.identify", None)
    assert scan_chunk(work, entries) == first


def test_a_changed_file_is_looked_at_again(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.dcm").write_text("x")
    work = intake(tmp_path / "s", tmp_path / "c")
    scan_chunk(work, work.source.entries())
    (tmp_path / "s" / "a.dcm").write_text("xy")
    scan_chunk(work, work.source.entries())
    assert len(list((tmp_path / "c" / "ledger").iterdir())) == 2


def test_a_store_that_fails_is_not_the_files_fault(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_text("x")
    work = intake(tmp_path, tmp_path / "c")

    def read(*_):
        raise StorageError("the network is down")

    monkeypatch.setattr(Location, "read", read)
    with pytest.raises(StorageError, match="network"):
        identify(work, Entry("a.dcm", 1, 1))

    def refuse(*_):
        raise StorageError("not this one", refused=True)

    monkeypatch.setattr(Location, "read", refuse)
    assert identify(work, Entry("a.dcm", 1, 1)).reason == "forbidden"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), max_size=40, unique_by=lambda pair: pair[0]))
def test_chunks_keep_every_file_once_and_stay_small(folders):
    entries = sorted(
        (Entry(f"d{folder:03d}/f{n:04d}", 1, 1) for folder, count in folders for n in range(count)), key=lambda e: e.name
    )
    made = chunks(entries)
    assert [entry for chunk in made for entry in chunk] == entries
    assert all(len(chunk) <= MOST for chunk in made)


def test_a_new_file_changes_few_chunks():
    entries = [Entry(f"study{n // 10:05d}/f{n % 10}", 1, 1) for n in range(20_000)]
    before = {tuple(chunk) for chunk in chunks(entries)}
    after = {tuple(chunk) for chunk in chunks(sorted([*entries, Entry("study00500/new", 1, 1)], key=lambda e: e.name))}
    assert len(after - before) <= 4
    assert len(before) < 20_000 / FEWEST
