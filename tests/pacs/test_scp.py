"""The receiver against dcmtk's sender and a DICOMweb client: what was acknowledged is on the disk."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from medray.audit import open_trail
from medray.errors import StorageError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.pacs.scp import Listening, StoreScp
from medray.pacs.spool import Spool
from medray.pacs.stow import StowServer, stow_app
from tests.certificates import issue
from tests.formats.test_dicom import volume
from tests.pacs.test_spool import objects
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed"),
]


def write_series(folder, name="s", shape=(40, 30, 12)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(
        write_dicom_series(volume(shape=shape), SeriesIdentity(patient="P", study=name, series=name))
    ):
        (folder / f"{number:03d}.dcm").write_bytes(data)
    return folder


class Noted:
    """Takes note of what it is told, until it can't."""

    def __init__(self):
        self.begun, self.arrivals, self.broken = [], [], False

    def begins(self, caller, header):
        if self.broken:
            raise StorageError("the audit trail can't be written")
        self.begun.append((caller, header.series))

    def ends(self, arrival):
        self.arrivals.append(arrival)


@pytest.fixture
def receiver(tmp_path):
    spool, witness = Spool(tmp_path / "spool"), Noted()
    scp = StoreScp(spool, Listening("MEDRAY"), witness)
    yield scp, spool, witness.arrivals
    scp.stop()


def send(port, folder, *options, title="MEDRAY"):
    command = ["storescu", "-aec", title, *options, "127.0.0.1", str(port), "+sd", str(folder)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def datasets(folder):
    return sorted(dcmread(file).SOPInstanceUID for file in objects(folder))


def test_what_storescu_sends_is_stored_as_it_was(receiver, tmp_path):
    scp, spool, arrivals = receiver
    sent = write_series(tmp_path / "s")
    assert send(scp.port, sent) == 0
    assert send(scp.port, sent) == 0
    assert datasets(spool.arriving) == datasets(sent)
    pixels = {dcmread(file).SOPInstanceUID: dcmread(file).PixelData for file in objects(sent)}
    for file in objects(spool.arriving):
        item = dcmread(file)
        assert item.PixelData == pixels[item.SOPInstanceUID]
        assert item.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    wait_until(lambda: len(arrivals) == 2)
    assert [{h.series: n for h, n in arrival.series} for arrival in arrivals] == [
        {item.SeriesInstanceUID: 12},
        {item.SeriesInstanceUID: 0},
    ]
    assert arrivals[0].caller.startswith("STORESCU@127.0.0.1")
    assert list(spool.incoming.iterdir()) == []


def test_compressed_objects_stay_compressed(receiver, tmp_path):
    scp, spool, _ = receiver
    sent = write_series(tmp_path / "s")
    for file in objects(sent):
        subprocess.run(["dcmcjpeg", "+e1", file, file], check=True)
    assert send(scp.port, sent, "-xs") == 0
    assert {dcmread(file).file_meta.TransferSyntaxUID for file in objects(spool.arriving)} == {"1.2.840.10008.1.2.4.70"}


def test_strangers_and_wrong_titles_are_turned_away(tmp_path):
    scp = StoreScp(Spool(tmp_path / "spool"), Listening("MEDRAY", callers=("MODALITY",)), Noted())
    sent = write_series(tmp_path / "s")
    try:
        assert send(scp.port, sent) != 0
        assert send(scp.port, sent, "-aet", "MODALITY", title="OTHER") != 0
        assert send(scp.port, sent, "-aet", "MODALITY") == 0
    finally:
        scp.stop()


def test_no_room_is_answered_and_nothing_is_lost(receiver, tmp_path, monkeypatch):
    scp, spool, arrivals = receiver
    monkeypatch.setattr(Spool, "has_room", lambda self: False)
    assert send(scp.port, write_series(tmp_path / "s")) == 0xA7
    wait_until(lambda: arrivals)
    assert arrivals[0].refused == (("no-room", 1),)
    assert objects(spool.folder) == []


def test_what_can_t_be_put_on_record_is_refused(tmp_path):
    spool, witness = Spool(tmp_path / "spool"), Noted()
    scp = StoreScp(spool, Listening("MEDRAY"), witness)
    server = StowServer(stow_app(spool, witness))
    sent = write_series(tmp_path / "s")
    try:
        witness.broken = True
        assert send(scp.port, sent) == 0xA7
        body, headers = body_of([objects(sent)[0].read_bytes()]), {"Content-Type": "multipart/related; boundary=xyz"}
        assert httpx.post(f"http://127.0.0.1:{server.port}/studies", content=body, headers=headers).status_code == 409
        assert objects(spool.folder) == []
        witness.broken = False
        assert send(scp.port, sent) == 0
        assert httpx.post(f"http://127.0.0.1:{server.port}/studies", content=body, headers=headers).status_code == 200
    finally:
        scp.stop()
        server.stop()
    assert [caller.partition("@")[0] for caller, _ in witness.begun] == ["STORESCU", "stow"], "once for each association"


@pytest.mark.parametrize("mutual", [True, False])
def test_both_ways_in_are_encrypted(tmp_path, mutual):
    own, caller = issue(tmp_path / "tls", "receiver", "modality")
    tls = own if mutual else replace(own, authority=None)
    spool = Spool(tmp_path / "spool")
    scp = StoreScp(spool, Listening("MEDRAY", tls=tls), Noted())
    server = StowServer(stow_app(spool, Noted()), tls=tls)
    first, second = write_series(tmp_path / "s"), write_series(tmp_path / "t", "t")
    trusted = ["+cf", str(own.authority)]
    body, headers = body_of([objects(second)[0].read_bytes()]), {"Content-Type": "multipart/related; boundary=xyz"}
    url, plain = f"https://127.0.0.1:{server.port}/studies", ssl.create_default_context(cafile=own.authority)
    shown = ssl.create_default_context(cafile=own.authority)
    shown.load_cert_chain(caller.certificate, caller.key)
    try:
        assert send(scp.port, first) != 0, "plain text"
        assert (send(scp.port, first, "+tla", *trusted) == 0) != mutual, "a caller without a certificate"
        assert send(scp.port, first, "+tls", str(caller.key), str(caller.certificate), *trusted) == 0
        assert httpx.post(url, content=body, headers=headers, verify=shown).status_code == 200
        if mutual:
            with pytest.raises(httpx.TransportError):
                httpx.post(url, content=body, headers=headers, verify=plain)
        else:
            assert httpx.post(url, content=body, headers=headers, verify=plain).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.post(url.replace("https", "http"), content=body, headers=headers)
    finally:
        scp.stop()
        server.stop()
    assert len(objects(spool.arriving)) == 13


def test_a_sender_that_goes_away_leaves_nothing_half(receiver, tmp_path):
    scp, spool, _ = receiver
    big = write_series(tmp_path / "s", shape=(1500, 1500, 1))
    sender = subprocess.Popen(["storescu", "-aec", "MEDRAY", "127.0.0.1", str(scp.port), "+sd", str(big), "-pdu", "4096"])
    time.sleep(0.05)
    sender.kill()
    sender.wait()
    small = write_series(tmp_path / "t", "t")
    assert send(scp.port, small) == 0
    wait_until(lambda: list(spool.incoming.iterdir()) == [])
    assert set(datasets(small)) <= set(datasets(spool.arriving))


def test_an_absurd_length_costs_no_memory(receiver, tmp_path):
    scp, _, _ = receiver
    with socket.create_connection(("127.0.0.1", scp.port)) as peer:
        peer.sendall(struct.pack(">BBL", 1, 0, 300_000_000))
        peer.settimeout(10)
        with contextlib.suppress(OSError):
            assert peer.recv(10) == b"" or True
    assert send(scp.port, write_series(tmp_path / "s")) == 0


RECEIVER = """
import sys
from pathlib import Path
from medray.ingestion.pacs import Receiving, receive
from medray.pacs.scp import Listening
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import naming
receiving = Receiving(listening=Listening("MEDRAY"), spool=Path(sys.argv[1]), on_ready=lambda port, _: print(port, flush=True))
receive(receiving, lambda folder: None, naming(parse_profile("basic")))
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    sent = write_series(tmp_path / "s", shape=(200, 200, 150))
    process = subprocess.Popen([sys.executable, "-c", RECEIVER, str(tmp_path / "spool")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    sender = subprocess.Popen(
        ["storescu", "-v", "-aec", "MEDRAY", "127.0.0.1", str(port), "+sd", str(sent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    spool = tmp_path / "spool" / "arriving"
    wait_until(lambda: len(objects(spool)) > 30)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    output = sender.communicate(timeout=30)[0]
    acknowledged = output.count("Received Store Response (Success)")
    assert 0 < acknowledged < 150
    kept = {dcmread(file).SOPInstanceUID for file in objects(spool)}
    assert len(kept) >= acknowledged
    begun = list(open_trail().events(action="pacs.store"))
    assert [(event.outcome, event.actor.partition("@")[0]) for event in begun] == [("begun", "STORESCU")], "it is on record"
    Spool(tmp_path / "spool").sweep()
    assert list((tmp_path / "spool" / "incoming").iterdir()) == []


@pytest.fixture
def stow(tmp_path):
    spool, witness = Spool(tmp_path / "spool"), Noted()
    server = StowServer(stow_app(spool, witness, token="secret"))
    yield f"http://127.0.0.1:{server.port}", spool, witness.arrivals
    server.stop()


def test_a_dicomweb_client_stores(stow, tmp_path):
    url, spool, arrivals = stow
    sent = write_series(tmp_path / "s")
    client = DICOMwebClient(url, headers={"Authorization": "Bearer secret"})
    answer = client.store_instances([dcmread(file) for file in objects(sent)])
    assert len(answer.ReferencedSOPSequence) == 12
    assert datasets(spool.arriving) == datasets(sent)
    assert sum(count for _, count in arrivals[0].series) == 12


def body_of(files, boundary=b"xyz"):
    parts = b"".join(b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files)
    return parts + b"--" + boundary + b"--\r\n"


def test_answers_are_the_standards(stow, tmp_path):
    url, spool, _ = stow
    files = [file.read_bytes() for file in objects(write_series(tmp_path / "s"))]
    item = dcmread(objects(tmp_path / "s")[0])
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz', "Authorization": "Bearer secret"}
    mixed = httpx.post(f"{url}/studies", content=body_of([files[0], b"not dicom"]), headers=headers)
    assert mixed.status_code == 202
    assert mixed.headers["content-type"] == "application/dicom+json"
    assert mixed.json()["00081199"]["Value"][0]["00081155"]["Value"] == [item.SOPInstanceUID]
    assert mixed.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    wrong = httpx.post(f"{url}/studies/1.2.3", content=body_of([files[1]]), headers=headers)
    assert (wrong.status_code, wrong.json()["00081198"]["Value"][0]["00081197"]["Value"]) == (409, [0x0110])
    assert httpx.post(f"{url}/studies/{item.StudyInstanceUID}", content=body_of([files[1]]), headers=headers).status_code == 200
    assert httpx.post(f"{url}/studies", content=body_of([b"x"]), headers=headers).status_code == 409
    assert httpx.post(f"{url}/studies", content=body_of(files)[:-20], headers=headers).status_code == 202, (
        "what came whole is kept"
    )
    assert (
        httpx.post(f"{url}/studies", content=b"x", headers={**headers, "Content-Type": "application/dicom"}).status_code == 415
    )
    assert httpx.post(f"{url}/studies", content=b"x", headers={**headers, "Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{url}/studies", headers=headers).status_code == 405
    assert len(objects(spool.arriving)) == 11, "all but the one that was cut"


def test_a_disk_that_fills_while_objects_come(stow, tmp_path, monkeypatch):
    url, spool, _ = stow
    monkeypatch.setattr(Spool, "has_room", lambda self: len(objects(self.arriving)) < 3)
    files = [file.read_bytes() for file in objects(write_series(tmp_path / "s"))[:3]]
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=xyz', "Authorization": "Bearer secret"}
    reply = httpx.post(f"{url}/studies", content=body_of([*files, bytes(16 << 20)]), headers=headers)
    assert reply.status_code == 202
    assert len(reply.json()["00081199"]["Value"]) == 3, "what came whole is kept"
    assert reply.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA700]
    assert list(spool.incoming.iterdir()) == []
