"""Series that come in by STOW-RS go to the models that rules choose, and results back to a real PACS: once."""

import io
import socket
import threading
from dataclasses import replace
from shutil import which

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from requests import Session

import medray
from medray import config
from medray.audit import open_trail
from medray.errors import ConfigError
from medray.formats.dicom_header import SeriesFacts
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.monitoring.records import read_records, records_root
from medray.registry.rollout import Canary
from medray.serving.app import ServeConfig
from medray.serving.auth import make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from medray.serving.orders import OrderBook
from medray.serving.rules import Rule, models_for
from tests.phantoms import LABELS
from tests.proxies import losing_proxy
from tests.services import orthanc_server
from tests.serving.inside import endpoint
from tests.waiting import wait_until

ORTHANC = pytest.mark.skipif(which("Orthanc") is None, reason="needs Debian's orthanc and orthanc-dicomweb")
HEAD = SeriesFacts("MR", "BRAIN", "T1 MPRAGE\nmprage_iso\nNeuro follow-up")
WHO = SeriesIdentity(patient="PAT^ONE", study="7", series="3", modality="MR")


@pytest.fixture(autouse=True)
def _place(home, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'orders.db'}")


def limits(tmp_path, pacs, *rules):
    return Limits(rules=rules or (Rule(model="ball", modality="MR"),), pacs=pacs, spool=str(tmp_path / "spool"), quiet_s=0.5)


def send(client, files, token=""):
    session = Session()
    session.trust_env = False
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    return DICOMwebClient(f"{client.base_url}/dicomweb".replace("//dicomweb", "/dicomweb"), session=session).store_instances(
        [dcmread(io.BytesIO(data)) for data in files]
    )


def states(most=100):
    return [order.state for order in OrderBook().latest(most)]


def kept(orthanc, modality):
    """The results that the PACS has."""
    client = DICOMwebClient(f"http://127.0.0.1:{orthanc.http}/dicom-web")
    found = client.search_for_instances(search_filters={"Modality": modality}, fields=["SOPInstanceUID"])
    return [client.retrieve_instance(*(one[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))) for one in found]


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (Rule(model="m"), True),
        (Rule(model="m", modality="MR"), True),
        (Rule(model="m", modality="CT"), False),
        (Rule(model="m", body_part="^(brain|head)$"), True),
        (Rule(model="m", body_part="chest"), False),
        (Rule(model="m", description="mprage|bravo"), True),
        (Rule(model="m", description="^flair"), False),
        (Rule(model="m", modality="MR", description="neuro", least=100), True),
        (Rule(model="m", least=101), False),
    ],
)
def test_a_rule_fits_when_all_that_it_says_does(rule, fits):
    assert rule.fits(HEAD, 100) is fits


def test_a_series_goes_to_each_model_once():
    rules = [
        Rule(model="a"),
        Rule(model="b", modality="MR"),
        Rule(model="a", body_part="brain"),
        Rule(model="c", modality="CT"),
    ]
    assert models_for(rules, HEAD, 1) == ["a", "b"]


def test_rules_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="regular expression"):
        config.load(Rule, {"model": "m", "description": "("}, what="a rule")
    with pytest.raises(ConfigError, match="PACS"):
        config.load(ServeConfig, {"rules": [{"model": "m"}]}, what="serve settings")


def test_an_order_is_there_once_and_done_once():
    book = OrderBook()
    taken: list[bool] = []
    people = [threading.Thread(target=lambda: taken.append(book.add("study", "series", "ball/1"))) for _ in range(8)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert sorted(taken) == [False] * 7 + [True]
    assert book.add("study", "series", "ball/2")
    order = book.claim()
    assert order is not None
    assert order.model == "ball/1"
    book.finish(order, "stored")
    book.postpone(order, "too late")  # it is over, whatever anybody says afterwards
    assert [one.state for one in book.latest()] == ["waiting", "stored"]
    assert not book.add("study", "series", "ball/1")
    assert book.add("study", "series", "ball/1", "with further objects")
    assert [one.state for one in book.latest()] == ["waiting", "waiting"]


def test_endpoints_that_share_a_database_leave_one_another_s_orders_alone():
    one, other = OrderBook("one"), OrderBook("other")
    one.add("study", "series", "ball/1")
    assert other.claim() is None
    first = one.claim()
    assert first is not None
    one.release(first)
    second = one.claim()
    assert second is not None
    one.finish(replace(second, attempts=7), "failed")  # by somebody whose lease is over
    assert one.latest()[0].state == "running"


@pytest.mark.services
@ORTHANC
def test_a_series_comes_in_and_its_results_are_in_the_pacs_once(scan, tmp_path):
    files = write_dicom_series(scan, WHO)
    (tmp_path / "pacs").mkdir()
    with orthanc_server(tmp_path / "pacs") as orthanc:
        pacs = f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web"
        where = limits(tmp_path, pacs, Rule(model="ball", modality="MR"), Rule(model="spots", modality="MR"))
        with endpoint(limits=where) as client:
            send(client, files)
            wait_until(lambda: states() == ["stored", "stored"])
            send(client, files)  # again: nothing is done twice
            send(client, write_dicom_series(scan, replace(WHO, series="4", modality="CT")))  # no rule fits
            wait_until(lambda: not any((tmp_path / "spool" / "arriving").iterdir()))
            wait_until(lambda: len(list((tmp_path / "spool" / "settled").glob("*/*"))) >= 2)
            said = client.get("/v1/orders").json()["orders"]
            assert {order["model"] for order in said} == {"ball/1", "spots/1"}
            found = client.get("/dicomweb/studies", headers={"accept": "application/dicom+json"}).json()
            assert len(found) == 1  # QIDO-RS, through
        [segmentation] = kept(orthanc, "SEG")
        reports = kept(orthanc, "SR")
    source = dcmread(io.BytesIO(files[0]))
    assert segmentation.StudyInstanceUID == source.StudyInstanceUID
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert {one.SegmentLabel for one in segmentation.SegmentSequence} <= set(LABELS.names)
    assert len(reports) == 2
    assert all(one.StudyInstanceUID == source.StudyInstanceUID for one in reports)


@pytest.mark.services
@ORTHANC
def test_a_challenger_has_its_share_of_what_comes_in(scan, tmp_path):
    """No copy here, so that nothing is compared: there is no Ray between gateway and pool."""
    records = tmp_path / "records"
    store, mine = medray.Registry(), Rule(model="ball", modality="MR")
    (tmp_path / "pacs").mkdir()
    store.challenge("ball/2", Canary(share=1, compared=0))
    try:
        with orthanc_server(tmp_path / "pacs") as orthanc:
            where = limits(tmp_path, f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web", mine)
            with endpoint(limits=replace(where, records=str(records))) as client:
                send(client, write_dicom_series(scan, replace(WHO, study="70", series="71")))
                wait_until(lambda: states() == ["stored"])
                wait_until(lambda: read_records(records_root(str(records)), "ball") != [])
                [order] = client.get("/v1/orders").json()["orders"]
                assert (order["model"], order["detail"]) == ("ball/1", "by ball/2")
            assert len(kept(orthanc, "SEG")) == 1
        assert [event.target for event in open_trail().events(action="result.store")] == ["ball/2"]
    finally:
        store.withdraw("ball/2")
    assert {(one.version, one.role) for one in read_records(records_root(str(records)), "ball")} == {(2, "challenger")}


@pytest.mark.services
@ORTHANC
def test_a_series_whose_second_half_comes_late_is_done_again(scan, tmp_path):
    files = write_dicom_series(scan, WHO)
    (tmp_path / "pacs").mkdir()
    with orthanc_server(tmp_path / "pacs") as orthanc:
        with endpoint(limits=limits(tmp_path, f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web")) as client:
            send(client, files[:10])
            wait_until(lambda: states() == ["stored"])
            first = OrderBook().latest()[0].content
            send(client, files[10:])
            wait_until(lambda: states() == ["stored"] and OrderBook().latest()[0].content != first)
        found = kept(orthanc, "SEG")
    assert len({one.SOPInstanceUID for one in found}) == 2
    assert sorted(len(one.ReferencedSeriesSequence[0].ReferencedInstanceSequence) for one in found) == [10, len(files)]


def test_a_rule_for_a_model_that_is_gone_stops_nothing_else(scan, tmp_path):
    rules = (Rule(model="nowhere", body_part="^$"), Rule(model="ball", body_part="^$", modality="CT"))
    with endpoint(limits=limits(tmp_path, "dicomweb+http://127.0.0.1:1/x", *rules)) as client:
        send(client, write_dicom_series(scan, WHO))
        OrderBook((tmp_path / "spool" / ".name").read_text()).add("study", "series", "ball/1")
        wait_until(lambda: OrderBook().latest()[0].detail.startswith("the series isn't in the spool"))


@pytest.mark.services
@ORTHANC
def test_what_is_stored_when_everything_ends_is_not_stored_twice(scan, tmp_path):
    """The worst moment: the PACS has the results, its reply is lost, and the endpoint goes away before it asks again."""
    (tmp_path / "pacs").mkdir()
    with orthanc_server(tmp_path / "pacs") as orthanc, losing_proxy(orthanc.http, losses=1) as proxy:
        where = limits(tmp_path, f"dicomweb+http://127.0.0.1:{proxy.port}/dicom-web")
        with endpoint(limits=where) as client:
            send(client, write_dicom_series(scan, WHO))
            wait_until(lambda: proxy.refused == 1)
        wait_until(lambda: len(kept(orthanc, "SEG")) == 1)
        assert states() != ["stored"]
        with endpoint(limits=where):
            wait_until(lambda: states() == ["stored"])
        assert len(kept(orthanc, "SEG")) == len(kept(orthanc, "SR")) == 1


@pytest.mark.services
@ORTHANC
def test_a_pacs_that_is_away_gets_its_results_later(scan, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    (tmp_path / "pacs").mkdir()
    with endpoint(limits=limits(tmp_path, f"dicomweb+http://127.0.0.1:{nobody}/dicom-web")) as client:
        send(client, write_dicom_series(scan, WHO))
        wait_until(
            lambda: OrderBook().latest()[:1] and OrderBook().latest()[0].state == "waiting" and OrderBook().latest()[0].attempts
        )
        assert "DICOMweb" in client.get("/v1/orders").json()["orders"][0]["detail"]
    with orthanc_server(tmp_path / "pacs") as orthanc:
        with endpoint(limits=limits(tmp_path, f"dicomweb+http://127.0.0.1:{orthanc.http}/dicom-web")):
            wait_until(lambda: states() == ["stored"])
        assert len(kept(orthanc, "SEG")) == 1


def test_an_image_that_is_none_for_the_model_fails_once(scan, tmp_path):
    """What can never be isn't tried again."""
    damaged = [bytes(data[:-1000]) for data in write_dicom_series(scan, WHO)]
    with endpoint(limits=limits(tmp_path, "dicomweb+http://127.0.0.1:1/x")) as client:
        send_raw(client, damaged)
        wait_until(lambda: states() == ["failed"])
        [order] = client.get("/v1/orders").json()["orders"]
        assert order["attempts"] == 1
        assert "PAT" not in order["detail"]


def send_raw(client, files):
    boundary = "limit"
    body = b"".join(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data + b"\r\n" for data in files)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    reply = client.post("/dicomweb/studies", content=body + f"--{boundary}--\r\n".encode(), headers={"content-type": kind})
    assert reply.status_code == 200


def test_who_may_send_and_look(scan, tmp_path):
    files = write_dicom_series(scan, WHO)
    with endpoint(limits=limits(tmp_path, "dicomweb+http://127.0.0.1:1/x"), doors=Doors()) as client:
        for token in ("", make_token("kim", "viewer")):
            with pytest.raises(Exception, match=r"401|403"):
                send(client, files[:1], token)
        bearer = {"authorization": f"Bearer {make_token('kim', 'annotator')}"}
        assert client.get("/v1/orders", headers=bearer).status_code == 403
        assert client.get("/dicomweb/studies", headers=bearer).status_code == 503
        for path in ("metadata", "../admin", "studies/../../x", "studies/1%2f..%2fx"):
            assert client.get(f"/dicomweb/{path}", headers=bearer).status_code == 404


def test_without_rules_nothing_is_taken_in(scan):
    with endpoint() as client:
        kind = {"content-type": 'multipart/related; type="application/dicom"; boundary=x'}
        reply = httpx.post(f"{client.base_url}/dicomweb/studies", content=b"--x--", headers=kind)
        assert (reply.status_code, "rules" in reply.json()["detail"]) == (404, True)
        assert client.get("/dicomweb/studies").status_code == 404
