"""Hospital to cohort: a real PACS is queried and pulled from, and real senders push."""

import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

import medray
from medray.audit import open_trail
from medray.errors import ConfigError, NotFoundError, StorageError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.ingestion.pacs import Receiving, receive
from medray.ingestion.pipeline import ingest
from medray.ingestion.verify import verify
from medray.pacs.remote import parse_address
from medray.pacs.scp import Listening
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import naming
from tests.phantoms import grid, orientations, phantom
from tests.services import ORTHANC_PLUGIN, orthanc_server
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.services,
    pytest.mark.ray,
    pytest.mark.skipif(
        not Path(ORTHANC_PLUGIN).exists() or shutil.which("storescu") is None, reason="orthanc and dcmtk are not installed"
    ),
]

PATIENTS = ("DOE1", "DOE2", "DOE3")


def scan(number):
    return phantom(np.random.default_rng(number), grid(list(orientations())[number * 7], (2.0, 2.0, 2.5), (3, 4, 5)))[0]


def write(folder, patient, number, date="20200101"):
    folder.mkdir(parents=True, exist_ok=True)
    who = SeriesIdentity(patient=patient, study=f"{patient}-{date}", series=f"{patient}-{date}", date=date)
    files = []
    for k, data in enumerate(write_dicom_series(scan(number), who)):
        files.append(folder / f"{patient}-{date}-{k:03d}.dcm")
        files[-1].write_bytes(data)
    return files


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    """Orthanc with three patients; the second one's objects are kept as lossless JPEG."""
    folder = tmp_path_factory.mktemp("pacs")
    with orthanc_server(folder) as server:
        for number, patient in enumerate(PATIENTS):
            files = write(folder / "files", patient, number)
            if number == 1:
                for file in files:
                    subprocess.run(["dcmcjpeg", "+e1", file, file], check=True)
            server.store(files)
        yield server


def source(pacs, kind, query):
    if kind == "dimse":
        return f"dimse://ORTHANC@127.0.0.1:{pacs.dimse}/?{query}"
    return f"dicomweb+http://{pacs.web}?{query}"


def retrieved():
    return [event.target for event in open_trail().events(action="pacs.retrieve")]


@pytest.mark.parametrize("kind", ["dimse", "dicomweb"])
def test_a_query_becomes_a_cohort(local_ray, pacs, kind, tmp_path):
    one = medray.ingest(source(pacs, kind, "PatientID=DOE2"), tmp_path / "c")
    assert one.index.counts["series"] == 1
    assert np.array_equal(one.volume(one.rows[0]).reoriented().voxels, scan(1).reoriented().voxels)
    every = medray.ingest(source(pacs, kind, "StudyDate=20190101-20201231"), tmp_path / "c")
    assert every.index.counts == {"subjects": 3, "series": 3, "labels": 0, "quarantined": 0}
    assert len(retrieved()) == 3, "the series that the cohort holds isn't pulled again"
    assert medray.ingest(source(pacs, kind, ""), tmp_path / "c").index.id == every.index.id
    assert len(retrieved()) == 3
    assert not list((tmp_path / "home" / "spool").rglob("*.dcm")), "nothing identified is left behind"


@pytest.mark.parametrize("kind", ["dimse", "dicomweb"])
def test_series_with_localizers_are_pulled_once(local_ray, kind, tmp_path):
    """The cohort has fewer objects of them than the PACS."""
    with orthanc_server(tmp_path / "pacs") as server:
        files = write(tmp_path / "files", "DOE1", 0)
        for file in files[:2]:
            turned = dcmread(file)
            turned.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            turned.SOPInstanceUID = turned.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            turned.save_as(file.with_suffix(".localizer.dcm"))
        server.store(sorted((tmp_path / "files").iterdir()))
        first = medray.ingest(source(server, kind, ""), tmp_path / "c")
        assert (first.rows[0].instances, [row.reason for row in first.quarantine]) == (len(files), ["localizer"])
        assert medray.ingest(source(server, kind, ""), tmp_path / "c").index.id == first.index.id
        assert len(retrieved()) == 1
        volume = first.root.join("volumes", f"part-{first.rows[0].volume}.parquet")
        volume.write(b"damaged")
        assert verify(tmp_path / "c", repair=True)
        medray.ingest(source(server, kind, ""), tmp_path / "c")
        assert len(retrieved()) == 2, "what was damaged is fetched again"
        medray.ingest(source(server, kind, ""), tmp_path / "c")
        assert len(retrieved()) == 2, "once"
        assert verify(tmp_path / "c") == []


def test_objects_come_straight_into_the_spool(local_ray, pacs, tmp_path, monkeypatch):
    """Not by way of the system's temporary folder, which may be another disk and outlives a crash with its identifiers."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert medray.ingest(source(pacs, "dimse", "PatientID=DOE1"), tmp_path / "c").index.counts["series"] == 1


def test_both_ways_and_the_folder_give_one_cohort(local_ray, pacs, tmp_path):
    for number, patient in enumerate(PATIENTS):
        write(tmp_path / "files", patient, number)
    cohorts = [medray.ingest(place, tmp_path / str(number)) for number, place in enumerate(
        (tmp_path / "files", source(pacs, "dimse", ""), source(pacs, "dicomweb", "ModalitiesInStudy=MR")))]  # fmt: skip
    volumes = [{row.volume for row in cohort.rows} for cohort in cohorts]
    assert volumes[0] == volumes[1] == volumes[2]


@pytest.mark.parametrize("kind", ["dimse", "dicomweb"])
def test_what_the_pacs_does_wrong_is_told_in_one_line(local_ray, pacs, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("medray.pacs.dicomweb.PAUSE_MS", 10)
    with pytest.raises(NotFoundError, match="no series that matches"):
        medray.ingest(source(pacs, kind, "PatientID=NOBODY"), tmp_path / "c")
    gone = type(pacs)(1, 1)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1.*(can't be reached|fails)") as caught:
        medray.ingest(source(gone, kind, "PatientID=DOE2"), tmp_path / "c")
    assert "DOE2" not in str(caught.value)
    if kind == "dimse":
        with pytest.raises(StorageError, match="does it know the calling title STRANGER"):
            medray.ingest(source(pacs, kind, "calling=STRANGER"), tmp_path / "c")


@pytest.mark.parametrize(
    "uri", ["dimse://127.0.0.1:104/", "dimse://A@127.0.0.1/", "dicomweb:///x", "dicomweb://h/x?Secret=1", "dimse://A@h:x/"]
)
def test_bad_addresses_are_told(uri):
    with pytest.raises(ConfigError):
        parse_address(uri)


def test_what_is_pushed_becomes_a_cohort(local_ray, tmp_path):
    names, stop, ports = naming(parse_profile("basic")), threading.Event(), []
    receiving = Receiving(
        listening=Listening("MEDRAY"), stow_port=0, spool=tmp_path / "spool", quiet_s=1.5, stop=stop,
        on_ready=lambda dimse, stow: ports.extend([dimse, stow]),
    )  # fmt: skip
    thread = threading.Thread(target=receive, args=(receiving, lambda folder: ingest(folder, tmp_path / "c"), names))
    thread.start()
    try:
        wait_until(lambda: ports)
        for number, patient in enumerate(PATIENTS[:2]):
            files = write(tmp_path / "files", patient, number)
            subprocess.run(["storescu", "-aec", "MEDRAY", "127.0.0.1", str(ports[0]), *map(str, files)], check=True)
        wait_until(
            lambda: (tmp_path / "c" / "cohort.json").exists() and medray.open_cohort(tmp_path / "c").index.counts["series"] == 2
        )
        late = write(tmp_path / "late", PATIENTS[0], 5, date="20210101")
        subprocess.run(["storescu", "-aec", "MEDRAY", "127.0.0.1", str(ports[0]), *map(str, late)], check=True)
        wait_until(lambda: medray.open_cohort(tmp_path / "c").index.counts["series"] == 3)
    finally:
        stop.set()
        thread.join(60)
    rows = medray.open_cohort(tmp_path / "c").rows
    points = sorted((row.subject == names.name("subject", PATIENTS[0]), row.time_point) for row in rows)
    assert points == [(False, 0), (True, 0), (True, 1)]
    stored = list(open_trail().events(action="pacs.store"))
    assert [event.outcome for event in stored] == ["begun", "ok"] * 3
    assert all(event.actor.startswith("STORESCU@127.0.0.1") for event in stored)
    assert open_trail().verify().problems == ()


def test_a_slice_that_is_sent_again_replaces_nothing(local_ray, tmp_path):
    files = write(tmp_path / "all", "DOE1", 0)
    whole = medray.ingest(tmp_path / "all", tmp_path / "c")
    (tmp_path / "one").mkdir()
    shutil.copy(files[3], tmp_path / "one")
    again = medray.ingest(tmp_path / "one", tmp_path / "c")
    assert [row.volume for row in again.rows] == [row.volume for row in whole.rows]
    assert [row.reason for row in again.quarantine] == ["partial"]
