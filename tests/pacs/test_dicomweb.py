"""`DicomwebPacs` against servers that keep to the standard less than they should."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from medray.pacs.dicomweb import DicomwebPacs
from medray.pacs.remote import parse_address

STUDIES = 5


@pytest.fixture(params=["pages", "small pages", "no offset"])
def server(request):
    """A DICOMweb service of five studies; it may give two at a time, or the same ones whatever the offset."""

    class Service(BaseHTTPRequestHandler):
        def do_GET(self):
            where, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
            offset = 0 if request.param == "no offset" else int(query.get("offset", ["0"])[0])
            count = 2 if request.param == "small pages" else STUDIES
            if where.path.endswith("/studies"):
                found = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(STUDIES)][offset : offset + count]
            else:
                study = where.path.split("/")[-2]
                found = [{"0020000E": {"vr": "UI", "Value": [f"{study}.9"]}}][offset:]
            body = json.dumps(found).encode()
            self.send_response(200 if found else 204)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, *_):
            return

    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service.server_address[1]
    service.shutdown()
    service.server_close()


def test_every_series_is_found_once(server):
    found = list(DicomwebPacs(parse_address(f"dicomweb+http://127.0.0.1:{server}/web")).find())
    assert sorted(item.series for item in found) == [f"1.2.{n}.9" for n in range(STUDIES)]
