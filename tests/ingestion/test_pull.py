"""`pull` from a PACS that lives in this process and does what no real one would do on demand."""

import numpy as np
import pytest

from medray.cohort.cohort import open_cohort
from medray.errors import StorageError
from medray.formats.dicom_header import read_dicom_file_header
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.ingestion import pacs
from medray.ingestion.pacs import pull
from medray.pacs.remote import RemoteSeries
from medray.pacs.spool import Spool
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import naming
from tests.ingestion.test_privacy import ultrasound
from tests.phantoms import grid, orientations, phantom, take_in_all

SOURCE = "dicomweb://pacs/web"
NAMES = naming(parse_profile("basic"))


class Archive:
    """Series by name; gives out the first ``breaks`` objects of each and fails then."""

    def __init__(self, series):
        self.series = series
        self.breaks = {}
        self.asked = []

    def find(self):
        for files in self.series.values():
            header = read_dicom_file_header(files[0])
            yield RemoteSeries(header.study, header.series, len(files))

    def retrieve(self, series, spool):
        name = next(name for name, files in self.series.items() if read_dicom_file_header(files[0]).series == series.series)
        self.asked.append(name)
        for number, data in enumerate(self.series[name]):
            if number == self.breaks.get(name):
                raise StorageError("the PACS went away")
            path = spool.new_file()
            path.write_bytes(data)
            spool.accept(path)
        return len(self.series[name])


@pytest.fixture
def archive(monkeypatch):
    def scan(number):
        return phantom(np.random.default_rng(number), grid(list(orientations())[number], (2.0, 2.0, 2.5)))[0]

    identities = [SeriesIdentity(patient=f"P{n}", study=f"P{n}", series=f"P{n}") for n in range(2)]
    made = Archive({f"P{n}": write_dicom_series(scan(n), who) for n, who in enumerate(identities)})
    monkeypatch.setattr(pacs, "DicomwebPacs", lambda address: made)
    return made


def take(tmp_path):
    def ingest(folder):
        return take_in_all(folder, tmp_path / "c")

    return pull(SOURCE, str(tmp_path / "c"), ingest, NAMES, lambda *_: None)


def test_half_a_series_is_left_out(archive, tmp_path):
    archive.breaks["P1"] = 8
    with pytest.raises(StorageError, match="1 of 2 series could not be retrieved whole"):
        take(tmp_path)
    assert [(row.subject, row.instances) for row in open_cohort(tmp_path / "c").rows] == [(NAMES.name("subject", "P0"), 20)]
    archive.breaks.clear()
    archive.asked.clear()
    take(tmp_path)
    assert archive.asked == ["P1"]


def test_a_killed_run_s_half_is_left_out(archive, tmp_path):
    spool = Spool(tmp_path / "home" / "spool" / "other")
    archive.breaks["P0"] = 3
    with pytest.raises(StorageError):
        archive.retrieve(next(iter(archive.find())), spool)
    folder = next(iter((tmp_path / "home" / "spool").iterdir()))
    archive.breaks.clear()
    archive.series.pop("P0")
    import hashlib

    folder.rename(folder.parent / f"pull-{hashlib.sha256(SOURCE.encode()).hexdigest()[:16]}")
    assert [row.instances for row in take(tmp_path).rows] == [20]


def test_what_was_refused_is_fetched_again_when_it_can_be_looked_at(archive, tmp_path, monkeypatch):
    archive.series = {"US": [ultrasound("DOE, JOHN")[0]]}
    with monkeypatch.context() as blind:
        blind.setattr("medray.privacy.pixels.find_spec", lambda name: None)
        assert [row.reason for row in take(tmp_path).quarantine] == ["burned-in-text"]
        take(tmp_path)
        assert archive.asked == ["US"], "nothing has changed: it isn't fetched again"
    assert len(take(tmp_path).rows) == 1
    assert archive.asked == ["US", "US"]


def test_what_couldn_t_be_read_for_now_is_fetched_again(archive, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as full:
        full.setattr("medray.ingestion.read.read_dicom_series", fail)
        assert {row.reason for row in take(tmp_path).quarantine} == {"unreadable"}
    assert len(take(tmp_path).rows) == 2
    assert archive.asked == ["P0", "P1"] * 2


def test_two_pulls_of_one_query_don_t_share_a_spool(archive, tmp_path):
    def ingest(folder):
        with pytest.raises(StorageError, match="same spool"):
            take(tmp_path)
        return take_in_all(folder, tmp_path / "c")

    assert len(pull(SOURCE, str(tmp_path / "c"), ingest, NAMES, lambda *_: None).rows) == 2
