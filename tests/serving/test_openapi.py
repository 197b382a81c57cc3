"""The endpoint against its own OpenAPI, by schemathesis: whatever is sent, the reply is one that the description promises."""

import re
import subprocess
import sys
from pathlib import Path

from medray.formats.nifti import write_nifti
from medray.serving.auth import make_token
from medray.serving.gateway import Doors
from tests.serving.inside import endpoint

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


def test_every_reply_is_one_that_openapi_promises(home, scan, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    token = {"Authorization": f"Bearer {make_token('kim', 'operator')}"}
    with endpoint(doors=Doors()) as client:
        described = client.get("/openapi.json").json()
        assert sum(len(methods) for methods in described["paths"].values()) >= 11
        job = client.post("/v1/segment/ball", content=write_nifti(scan), headers={**token, "prefer": "respond-async"}).json()[
            "id"
        ]
        (tmp_path / "schemathesis.toml").write_text(f'[parameters]\nmodel = "ball"\njob = "{job}"\n')
        command = [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"{client.base_url}/openapi.json",
            "--checks",
            CHECKS,
        ]
        options = ["--header", f"Authorization: {token['Authorization']}", "--max-examples", "25", "--seed", "7"]
        options += ["--phases", "examples,coverage,fuzzing", "--no-color"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert re.search(r"Tested: (\d+)", done.stdout)[1] == "11"  # type: ignore[index]
