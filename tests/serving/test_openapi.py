"""The endpoint against its own OpenAPI, by schemathesis: whatever is sent, the reply is one that the description promises."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medray.formats.nifti import write_nifti
from medray.serving.auth import make_token
from medray.serving.desk import Limits
from medray.serving.gateway import Doors
from tests.serving.inside import endpoint

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


UNSENDABLE = "^POST /(dicomweb|monailabel/proxy)"
"""Bodies that schemathesis can't make: multipart/related; `test_routing` sends them."""


@pytest.mark.parametrize("paths", ["/", "/monailabel/(datastore|info|activelearning)|/v1/(images|view)"])
def test_every_reply_is_one_that_openapi_promises(home, phantom_cohort, scan, monkeypatch, tmp_path, paths):
    """All routes of an endpoint that shows no cohort; and those about a cohort's images of one that does."""
    monkeypatch.setenv("MEDRAY_HOME", str(home))
    monkeypatch.setenv("MEDRAY_DATABASE_URL", f"sqlite:///{tmp_path / 'labels.db'}")
    token = {"Authorization": f"Bearer {make_token('kim', 'operator')}"}
    root = "" if paths == "/" else str(shutil.copytree(phantom_cohort.root.path, tmp_path / "cohort"))
    with endpoint(doors=Doors(), limits=Limits(cohort=root)) as client:
        described = client.get("/openapi.json").json()
        ids = [(path, said["operationId"]) for path, methods in described["paths"].items() for said in methods.values()]
        wanted = [number for path, number in ids if re.search(paths, path) and not re.search(UNSENDABLE, number)]
        assert len(wanted) > (12 if root else 45)
        body = {"content": write_nifti(scan), "headers": {**token, "prefer": "respond-async"}}
        job = client.post("/v1/segment/ball", **body).json()["id"]
        image = phantom_cohort.rows[0].series
        known = {"model": "ball", "job": job, "image": image, "label": image, "id": image, "strategy": "first"}
        lines = [f'{name} = "{value}"' for name, value in known.items()]
        (tmp_path / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines]))
        command = [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"{client.base_url}/openapi.json",
            "--checks",
            CHECKS,
        ]
        options = ["--header", f"Authorization: {token['Authorization']}", "--max-examples", "15", "--seed", "7", "--no-color"]
        options += ["--phases", "examples,coverage,fuzzing", "--include-path-regex", paths]
        options += ["--exclude-operation-id-regex", UNSENDABLE]
        done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=220, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert re.search(r"Tested: (\d+)", done.stdout)[1] == str(len(wanted))  # type: ignore[index]
