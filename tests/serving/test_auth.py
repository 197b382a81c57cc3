"""Who may do what: tokens of medray's own and of an OpenID Connect issuer, roles, rates, and the trail."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.testing import CliRunner

import medray
from medray.audit import open_trail
from medray.cli.main import app as cli
from medray.errors import ConfigError, StorageError
from medray.formats.nifti import write_nifti
from medray.serving.auth import make_token, signing_key
from medray.serving.gateway import Doors
from tests.serving.inside import endpoint
from tests.waiting import wait_until


@pytest.fixture
def client(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(doors=Doors()) as inside:
        yield inside


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def local(**changes):
    now = int(time.time())
    claims = {"sub": "kim", "roles": ["annotator"], "exp": now + 60, "iss": "medray", "aud": "medray"} | changes
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, signing_key(), "HS256")


def test_a_token_opens_what_its_role_may_and_no_more(client, scan):
    def ask(role):
        headers = bearer(make_token("kim", role))
        seen = client.get("/v1/models", headers=headers).status_code
        return seen, client.post("/v1/segment/ball", content=write_nifti(scan), headers=headers)

    seen, refused = ask("viewer")
    assert (seen, refused.status_code) == (200, 403)
    assert refused.json()["detail"] == "this needs the role annotator, and the token carries viewer"
    for role in ("annotator", "admin"):
        seen, answered = ask(role)
        assert (seen, answered.status_code) == (200, 200)


def test_the_command_line_makes_a_token(client):
    made = CliRunner().invoke(cli, ["serve", "--make-token", "kim", "--role", "viewer"])
    assert client.get("/v1/models", headers=bearer(made.stdout.strip())).status_code == 200
    with pytest.raises(ConfigError, match="role 'king' is unknown: use one of viewer, annotator"):
        make_token("kim", "king")


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "send a bearer token"),
        ({"authorization": "Basic a2ltOmtpbQ=="}, "send a bearer token"),
        ({"authorization": "Bearer"}, "send a bearer token"),
        (bearer("nonsense"), "damaged"),
        (lambda: bearer(local(exp=int(time.time()) - 60)), "expired"),
        (lambda: bearer(local(exp=None)), "damaged"),
        (lambda: bearer(local(aud="other")), "somebody else"),
        (lambda: bearer(local(iss="other")), "somebody else"),
        (lambda: bearer(local()[:-2] + "xx"), "damaged"),
        (lambda: bearer(jwt.encode({"sub": "kim", "roles": ["admin"], "exp": 2**31}, "", "none")), "damaged"),
        (lambda: bearer(jwt.encode({"sub": "kim", "roles": ["admin"], "exp": 2**31}, "x" * 32, "HS256")), "damaged"),
    ],
)
def test_no_valid_token_is_401(client, headers, says):
    reply = client.get("/v1/models", headers=headers() if callable(headers) else headers)
    assert reply.status_code == 401
    assert says in reply.json()["detail"]
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("roles", [[], ["king"], None, 7, [7], {"admin": 1}])
def test_no_role_is_403(client, roles):
    reply = client.get("/v1/models", headers=bearer(local(roles=roles)))
    assert (reply.status_code, reply.json()["title"]) == (403, "forbidden")


def test_probes_need_no_token_and_browsers_are_kept_careful(client):
    reply = client.get("/healthz")
    assert reply.status_code == 200
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert "strict-transport-security" not in reply.headers


def test_each_request_is_in_the_trail_with_who_what_and_how_it_ended(client, scan, home):
    before = len(list(open_trail().events()))
    client.post("/v1/segment/ball", content=write_nifti(scan), headers=bearer(make_token("kim", "annotator")))
    client.post("/v1/segment/ball?PatientName=Doe", content=b"x", headers=bearer(make_token("lee", "viewer")))
    client.get("/v1/models/Doe^John")
    client.get("/healthz")
    new = [(event.actor, event.action, event.target, event.outcome) for event in open_trail().events()][before:]
    assert new == [
        ("kim", "http.post", "ball/1", "200"),
        ("lee", "http.post", "/v1/segment/{model:path}", "403"),
        ("unknown", "http.get", "/v1/models/{model:path}", "401"),
    ]
    assert open_trail().verify().problems == ()
    assert "Doe" not in str([(event.target, event.detail) for event in open_trail().events()])


def test_what_can_t_be_recorded_isn_t_answered(home, monkeypatch):
    def full(events):
        raise StorageError("the disk is full")

    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(record=full) as client:
        reply = client.get("/v1/models")
        assert reply.status_code == 503
        assert "audit trail" in reply.json()["detail"]
        assert reply.headers["retry-after"]


def test_one_caller_s_haste_is_nobody_else_s(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(doors=Doors(rate=2)) as client:
        kim, lee = (bearer(make_token(name, "viewer")) for name in ("kim", "lee"))
        replies = [client.get("/v1/models", headers=kim) for _ in range(12)]
        slowed = [reply for reply in replies if reply.status_code == 429]
        assert slowed
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in slowed)
        assert client.get("/v1/models", headers=lee).status_code == 200
        guesses = [client.get("/v1/models", headers=bearer(f"guess-{number}")).status_code for number in range(12)]
        assert {401, 429} == set(guesses)


def test_other_origins_by_list_alone(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    with endpoint(doors=Doors(insecure=True, origins=("https://ohif.example",))) as client:
        for origin, allowed in (("https://ohif.example", True), ("https://evil.example", False)):
            reply = client.get("/healthz", headers={"origin": origin})
            assert (reply.headers.get("access-control-allow-origin") == origin) == allowed


@contextmanager
def issuer(keys):
    """A real HTTP server with a discovery document and a key set that tests may change."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            base = f"http://{self.headers['host']}"
            said = {"jwks_uri": f"{base}/keys"} if self.path.endswith("openid-configuration") else {"keys": keys}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def key_pair(kid):
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key()))
    return private, public | {"kid": kid, "use": "sig", "alg": "RS256"}


def test_an_issuer_s_tokens_its_new_keys_and_its_outage(home, monkeypatch):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    private, public = key_pair("one")
    keys: list[dict[str, Any]] = [public]
    with issuer(keys) as (server, url):

        def token(key, kid, **changes):
            claims = {
                "sub": "kim",
                "exp": time.time() + 60,
                "iss": url,
                "aud": "clinic",
                "realm_access": {"roles": ["viewer", "x"]},
            }
            return bearer(jwt.encode(claims | changes, key, "RS256", headers={"kid": kid}))

        doors = Doors(issuer=url, audience="clinic", roles_claim="realm_access.roles")
        with endpoint(doors=doors) as client:

            def status(headers):
                return client.get("/v1/models", headers=headers).status_code

            assert status(token(private, "one")) == 200
            assert status(token(private, "one", aud="other")) == 401
            assert status(token(private, "one", iss="https://evil.example")) == 401
            assert status(token(private, "one", realm_access={})) == 403
            assert status(bearer(make_token("kim", "admin"))) == 401, "medray's own tokens are no issuer's"
            stranger, another = key_pair("two")
            assert status(token(stranger, "one")) == 401
            pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            forged = jwt.api_jws.PyJWS().encode(
                json.dumps(
                    {"sub": "kim", "exp": 2**31, "iss": url, "aud": "clinic", "realm_access": {"roles": ["admin"]}}
                ).encode(),
                pem.replace(b"PUBLIC", b"SECRET"),
                "HS256",
                headers={"kid": "one"},
            )
            assert status(bearer(forged)) == 401, "a public key is no secret"
            keys.append(another)
            wait_until(lambda: status(token(stranger, "two")) == 200, seconds=20)
            server.shutdown()
            server.server_close()
            assert status(token(private, "one")) == 200, "known keys outlive the issuer's outage"
            wait_until(lambda: status(token(private, "three")) == 503, seconds=20)


def test_no_authentication_is_for_this_machine_alone(monkeypatch):
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0 isn't loopback"):
        medray.deploy(["ball"], host="0.0.0.0", insecure=True)
    monkeypatch.delenv("MEDRAY_KEY")
    with pytest.raises(ConfigError, match="MEDRAY_KEY, which isn't set"):
        medray.deploy(["ball"])
    with pytest.raises(ConfigError, match="both certificate and private_key"):
        medray.deploy(["ball"], certificate="x.pem")


def test_haproxy_speaks_no_tls(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match="Serve speaks no TLS"):
        medray.deploy(["ball"], certificate="x.pem", private_key="x.key", insecure=True)
