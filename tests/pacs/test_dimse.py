"""What `DimsePacs` asks, seen by a PACS in this process."""

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from medray.pacs.dimse import DimsePacs
from medray.pacs.remote import parse_address


@pytest.fixture
def asked():
    """Queries that came to a PACS that has nothing, and its port."""
    queries: list[Dataset] = []

    def answer(event):
        queries.append(event.identifier)
        yield 0x0000, None

    entity = AE("PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    yield queries, server.server_address[1]
    server.shutdown()


@pytest.mark.parametrize("name", ["山田^太郎", "Łukasz^Ż", "Иванов", "DOE^JOHN"])
def test_names_arrive_as_they_were_asked_for(asked, name):
    queries, port = asked
    assert list(DimsePacs(parse_address(f"dimse://PACS@127.0.0.1:{port}/?PatientName={name}")).find()) == []
    assert str(queries[0].PatientName) == name
    assert ("SpecificCharacterSet" in queries[0]) == (not name.isascii())
