"""A client of MONAI Label's protocol that behaves as 3D Slicer's plug-in does.

One plain connection a request, ``/auth/`` before each, no redirects, multipart written by hand and read from the socket as far
as Content-Length says.
"""

import http.client
import json
from email.parser import BytesParser
from typing import Any
from urllib.parse import quote_plus, urlencode, urlparse

LIMIT = "----------lImIt_of_THE_fIle_eW_$"


class Viewer:
    """Slicer's side of the protocol.

    Args:
        url: ``http://host:port/monailabel``.
        token: Sent as a bearer token where it isn't empty.
    """

    def __init__(self, url, token=""):
        self._url = urlparse(url)
        self.token = token

    def ask(self, method, selector, body=None, headers=None):
        """Return status, headers and the raw bytes that the length promises."""
        if not selector.startswith("/auth/"):
            status, _, said = self.ask("GET", "/auth/")
            assert status == 200, status
            assert json.loads(said)["enabled"] in {True, False}
        connection = http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=60)
        headers = dict(headers or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        if body is not None:
            headers["content-length"] = str(len(body))
        connection.request(method, self._url.path + selector, body=body, headers=headers)
        reply = connection.getresponse()
        assert reply.status not in {301, 302, 307, 308}, "Slicer follows no redirects"
        assert not reply.chunked, "Slicer reads the socket itself"
        assert reply.getheader("content-encoding") is None
        length = int(reply.getheader("content-length") or 0)
        data = b"" if method == "HEAD" else reply.fp.read(length)
        connection.close()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, data

    def form(self, method, selector, fields, files):
        """Send a form and return status, its fields and its files, or the JSON that came instead."""
        body = b""
        for name, value in fields.items():
            body += f'--{LIMIT}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, (filename, data) in files.items():
            head = f'--{LIMIT}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            body += f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + b"\r\n"
        body += f"--{LIMIT}--\r\n".encode()
        kind = f"multipart/form-data; boundary={LIMIT}"
        status, headers, data = self.ask(method, selector, body, {"content-type": kind})
        if not headers["content-type"].startswith("multipart/"):
            return status, json.loads(data), {}
        message = BytesParser().parsebytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + data)
        fields, files = {}, {}
        parts: Any = message.get_payload()
        for part in parts:
            name = part.get_filename()
            kept = part.get_payload(decode=True)
            if name:
                files[name] = kept
            else:
                fields[part.get_param("name", header="content-disposition")] = kept.decode()
        return status, fields, files

    def info(self):
        status, _, data = self.ask("GET", "/info/")
        assert status == 200, data
        return json.loads(data)

    def login(self, user, password):
        body = urlencode({"username": user, "password": password, "grant_type": "password"}).encode()
        status, _, data = self.ask("POST", "/auth/token", body, {"content-type": "application/x-www-form-urlencoded"})
        return status, json.loads(data)

    def next_sample(self, strategy, params):
        status, _, data = self.ask("POST", f"/activelearning/{quote_plus(strategy)}", params)
        return status, json.loads(data)

    def infer(self, model, image="", params=None, session="", files=None):
        """Return the one file's name and bytes, and the params, as the plug-in's ``infer`` does."""
        where = urlencode({key: value for key, value in {"image": image, "session_id": session}.items() if value})
        asked = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz", **(params or {})}
        status, fields, found = self.form(
            "POST", f"/infer/{quote_plus(model)}?{where}", {"params": json.dumps(asked)}, files or {}
        )
        assert status == 200, fields
        [(name, data)] = found.items()
        return name, data, json.loads(fields["params"])

    def save_label(self, image, name, data, params, tag=""):
        selector = f"/datastore/label?image={quote_plus(image)}" + (f"&tag={quote_plus(tag)}" if tag else "")
        return self.form("PUT", selector, {"params": json.dumps(params)}, {"label": (name, data)})[:2]

    def upload(self, image, name, data):
        return self.form("PUT", f"/datastore/?image={quote_plus(image)}", {}, {"file": (name, data)})[:2]

    def session(self, name, data):
        status, said, _ = self.form("PUT", "/session/", {}, {"files": (name, data)})
        assert status == 200, said
        return said["session_id"]
