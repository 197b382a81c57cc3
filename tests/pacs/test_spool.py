import os
import threading
import time

import pytest

from medray.errors import ImageError, StorageError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.pacs.spool import Spool
from tests.formats.test_dicom import WHO, edited, volume

FILES = write_dicom_series(volume(), WHO)


def put(spool, data):
    path = spool.new_file()
    path.write_bytes(data)
    return spool.accept(path)


def objects(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_same_object_twice_is_stored_once(tmp_path):
    spool = Spool(tmp_path / "spool")
    assert [put(spool, data).new for data in (*FILES, *FILES)] == [True] * 6 + [False] * 6
    assert len(objects(spool.folder)) == 6
    again = bytearray(FILES[0])
    again[0:4] = b"new!"  # another preamble: the object is the same
    assert not put(spool, bytes(again)).new
    assert put(spool, edited(FILES[0], RescaleIntercept="-1")).new, "same UID, other bytes: both are kept"
    assert len(objects(spool.folder)) == 7


def test_it_is_for_its_owner_alone_and_names_nobody(tmp_path):
    spool = Spool(tmp_path / "spool")
    named = write_dicom_series(volume(), SeriesIdentity(patient="DOE", study="DOE", series="DOE"))
    put(spool, named[0])
    assert (spool.folder.stat().st_mode & 0o777) == 0o700
    assert "DOE" not in str(objects(spool.folder))


@pytest.mark.parametrize("data", [b"hello", FILES[0][:200], edited(FILES[0], SOPInstanceUID="")], ids=["text", "cut", "no uid"])
def test_what_is_no_object_is_refused_and_left(tmp_path, data):
    spool = Spool(tmp_path / "spool")
    path = spool.new_file()
    path.write_bytes(data)
    with pytest.raises(ImageError):
        spool.accept(path)
    assert objects(spool.arriving) == []


def test_half_written_files_are_swept(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.new_file().write_bytes(b"half")
    put(spool, FILES[0])
    Spool(tmp_path / "spool").sweep()
    assert len(objects(spool.folder)) == 1


def test_studies_settle_when_they_are_quiet(tmp_path):
    spool = Spool(tmp_path / "spool")
    put(spool, FILES[0])
    assert spool.settle(quiet_s=60) == 0
    assert spool.settle(quiet_s=0) == 1
    put(spool, FILES[1])
    assert spool.settle(quiet_s=0) == 1
    assert len(objects(spool.settled)) == 2
    assert not put(spool, FILES[0]).new, "what settled is known still"
    assert spool.expire(older_s=60) == 0
    for path in objects(spool.settled):
        os.utime(path, (time.time() - 100,) * 2)
    assert spool.expire(older_s=60) == 0, "nobody has taken it in yet"
    spool.mark_taken(list(spool.settled.iterdir()))
    assert spool.expire(older_s=60) == 1
    assert objects(spool.folder) == []


def test_what_came_while_a_study_was_taken_in_does_not_expire_with_it(tmp_path):
    spool = Spool(tmp_path / "spool")
    put(spool, FILES[0])
    spool.settle(quiet_s=0.0)
    studies = list(spool.settled.iterdir())
    put(spool, FILES[1])
    spool.mark_taken(studies)
    assert spool.settle(quiet_s=0.0) == 1
    for path in objects(spool.settled):
        os.utime(path, (time.time() - 100,) * 2)
    assert spool.expire(older_s=60) == 0
    assert len(objects(spool.settled)) == 2


def test_one_process_at_a_time_holds_a_spool(tmp_path):
    with Spool(tmp_path / "spool").held(), pytest.raises(StorageError, match="same spool"), Spool(tmp_path / "spool").held():
        pass


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "spool")

    def full(*_):
        raise OSError(28, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        put(spool, FILES[0])


def test_an_object_that_comes_while_its_study_settles_is_kept(tmp_path):
    spool = Spool(tmp_path / "spool")
    put(spool, FILES[0])
    stop = threading.Event()

    def settle():
        while not stop.is_set():
            spool.settle(quiet_s=0.0)

    thread = threading.Thread(target=settle)
    thread.start()
    for data in FILES[1:]:
        put(spool, data)
    stop.set()
    thread.join()
    assert len(objects(spool.arriving)) + len(objects(spool.settled)) == len(FILES)
