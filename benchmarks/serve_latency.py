"""What does an endpoint add to a model? One warm segmentation of a head at a time, and the first of all from zero replicas.

The same weights (a U-Net as a plan makes it, trained for a minute: how smooth a mask is makes time) and the same volume, on two
cores:

* bare: read the file, `Predictor.predict`, write the mask, in a process of its own;
* server: the same over HTTP, as the server's own clock has it (``Server-Timing``) and as the client's has it;
* viewer: the same as 3D Slicer's plug-in asks for it, by MONAI Label's protocol, of an image that the server has;
* MONAI Label: its own server, asked in the same way: the same network as TorchScript, in the transforms and the two kinds of
  sliding windows of its sample apps: as large as those (160 voxels), and as the network was taught. Where
  ``MEDRAY_BENCH_PYTHON`` names an interpreter that has it.

A viewer asks three endpoints, one after another and each in rounds that alternate with MONAI Label's: the plain one, one whose
networks OpenVINO runs, and one in bfloat16 (``mixed``). Rounds of all others alternate, too. Then the stages' sum against the
total, and the first answer of an endpoint that has no replica yet.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from report import bars, save
from safetensors.torch import load_file

import medray
from medray.formats.image import read_image
from medray.formats.nifti import write_nifti
from medray.inference.predictor import Predictor
from medray.models.networks import build_model
from medray.samples.brain import write_brain_cohort
from medray.tasks.task import task_of

ROUNDS, LOOKS, CORES, PORT, PEER_PORT = 15, 9, 2, 18431, 18433
WAYS: dict[str, dict[str, Any]] = {"exact": {}, "openvino": {"runtime": "openvino"}, "bfloat16": {"mixed": True}}
"""Of running networks."""
TRAINED = medray.FitConfig(epochs=3, steps=60, picture=False)
SAMPLE_ROI, SAMPLE_OVERLAP = (160, 160, 160), 0.25
"""Of MONAI Label's sample app for the spleen (sample-apps/radiology/lib/infers/segmentation_spleen.py)."""
PEER = os.environ.get("MEDRAY_BENCH_PYTHON", "")


def main() -> None:
    """Measure, and save the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["MEDRAY_HOME"] = str(folder / "home")
        scan = make_model(folder)
        body = scan.read_bytes()
        bare = subprocess.Popen(
            [sys.executable, __file__, "bare", str(folder / "model"), str(scan)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        cohort = medray.open_cohort(folder / "cohort")
        series = next(row.series for row in cohort.rows if np.array_equal(cohort.volume(row).voxels, read_image(body).voxels))
        peer, ways = start_peer(folder, scan) if PEER else (None, [])
        facts: dict[str, Any] = {"port": PORT, "insecure": True, "cpus": CORES}
        with medray.deploy(["head"], **facts) as endpoint:
            rounds = [one_round(bare, endpoint.url, body) for _ in range(ROUNDS)]
        bare.kill()
        peers = {f"monailabel_{way}": (f"http://127.0.0.1:{PEER_PORT}/infer/{way}", "scan") for way in ways}
        looked = {}
        for name, settings in WAYS.items():
            with medray.deploy(["head"], cohort=str(folder / "cohort"), **facts, **settings) as endpoint:
                viewers = {"medray": (f"{endpoint.url}/monailabel/infer/head", series), **peers}
                looks = [look(viewers) for _ in range(LOOKS)][2:]
            looked[name] = {side: statistics.median(found[side] for found in looks) for side in viewers}
        if peer:
            os.killpg(peer.pid, signal.SIGKILL)
        with medray.deploy(min_replicas=0, **facts) as endpoint:
            started = time.perf_counter()
            ask(endpoint.url, body)
            cold = time.perf_counter() - started
    warm = rounds[2:]
    middle = {name: statistics.median(found[name] for found in warm) for name in warm[0]}
    off = [abs(found["stages_s"] / found["server_s"] - 1) for found in warm]
    result: dict[str, Any] = {
        "rounds": len(warm),
        "bytes": len(body),
        **middle,
        "server_to_bare": middle["server_s"] / middle["bare_s"],
        "client_to_bare": middle["client_s"] / middle["bare_s"],
        "stages_off_total": {"median": statistics.median(off), "largest": max(off)},
        "cold_s": cold,
        "viewer_s": looked,
        "monailabel_to_viewer": {
            name: {way: found[f"monailabel_{way}"] / found["medray"] for way in ways} for name, found in looked.items()
        },
    }
    save("serve_latency", result)
    values = {
        "bare Predictor": middle["bare_s"],
        "medray, server's clock": middle["server_s"],
        "medray, client's clock": middle["client_s"],
        "medray, first answer from zero replicas": cold,
        **{f"medray, asked by a viewer, {name}": found["medray"] for name, found in looked.items()},
        **{f"MONAI Label, windows as {way}": looked["exact"][f"monailabel_{way}"] for way in ways},
    }
    bars("serve_latency", "one segmentation of a head, two cores", values, "seconds, median")


def make_model(folder: Path) -> Path:
    """Train and register a model, and return a scan."""
    write_brain_cohort(folder / "source", subjects=8, formats=("nifti",))
    cohort = medray.ingest(folder / "source", folder / "cohort", labels="*_dseg.nii.gz")
    plan = medray.plan(cohort)
    run = medray.fit(medray.prepare(cohort, plan, folder / "prepared"), TRAINED, name="head", runs=folder / "runs")
    medray.Registry().register(medray.card_from_run(run, plan=plan), run.model)
    shutil.copytree(run.model.path, folder / "model")
    return next((folder / "source").rglob("*_T1w.nii.gz"))


def start_peer(folder: Path, scan: Path) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Start MONAI Label's server with the same weights, and return it and the names of its models."""
    app, studies = folder / "app", folder / "studies"
    app.mkdir()
    studies.mkdir()
    (studies / "scan.nii.gz").write_bytes(scan.read_bytes())
    plan = Predictor.load(folder / "model").plan
    trace: Any = torch.jit.trace
    ways = {"sample": (SAMPLE_ROI, 1, SAMPLE_OVERLAP), "taught": (plan.patch, 4, plan.overlap)}
    task = task_of(plan)
    model = build_model(plan.network, task.inputs, task.channels, plan.patch)
    model.load_state_dict(load_file(folder / "model" / "weights.safetensors"))
    for name, (roi, batch, _) in ways.items():
        with torch.no_grad():
            traced = trace(model.eval(), torch.zeros(batch, task.inputs, *roi), check_trace=False)
            traced.save(str(app / f"{name}.ts"))
    said = {
        name: {"spacing_mm": plan.spacing_mm, "roi": roi, "batch": batch, "overlap": overlap}
        for name, (roi, batch, overlap) in ways.items()
    }
    (app / "settings.json").write_text(json.dumps({"labels": dict(plan.labels.names), "ways": said}))
    (app / "main.py").write_text((Path(__file__).parent / "monailabel_app.py").read_text())
    words = ["start_server", "--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(PEER_PORT)]
    command = [PEER, "-m", "monailabel.main", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES), "PYTHONPATH": str(stand_in(folder))}
    with (folder / "peer.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{PEER_PORT}/info/", timeout=10).is_success:
                return server, list(ways)
        except httpx.HTTPError:
            time.sleep(1)
    raise SystemExit(f"MONAI Label doesn't start:\n{(folder / 'peer.log').read_text()[-3000:]}")


def stand_in(folder: Path) -> Path:
    """Write a torchvision of nothing: MONAI Label wants two names that no inference calls, and its wheel a GPU's torch."""
    (folder / "shim" / "torchvision").mkdir(parents=True)
    (folder / "shim" / "torchvision" / "__init__.py").write_text("")
    (folder / "shim" / "torchvision" / "utils.py").write_text("make_grid = save_image = None\n")
    return folder / "shim"


def look(viewers: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Ask each server as 3D Slicer's plug-in does, and return seconds."""
    found = {}
    params = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "bench"}
    for name, (url, image) in viewers.items():
        started = time.perf_counter()
        reply = httpx.post(url, params={"image": image}, files={"params": (None, json.dumps(params))}, timeout=600)
        assert reply.is_success, reply.text[:500]
        found[name] = time.perf_counter() - started
    return found


def one_round(bare: subprocess.Popen[bytes], url: str, body: bytes) -> dict[str, float]:
    """Time each side once."""
    assert bare.stdin is not None and bare.stdout is not None  # noqa: PT018 - for the type checker
    bare.stdin.write(b"go\n")
    bare.stdin.flush()
    alone = float(bare.stdout.readline())
    started = time.perf_counter()
    reply = ask(url, body)
    client = time.perf_counter() - started
    timing = {
        name: float(value.removeprefix("dur=")) / 1000
        for name, value in (part.strip().split(";") for part in reply.headers["server-timing"].split(","))
    }
    total = timing.pop("total")
    return {"bare_s": alone, "server_s": total, "client_s": client, "stages_s": sum(timing.values()), **timing}


def ask(url: str, body: bytes) -> httpx.Response:
    """Have the scan segmented."""
    headers = {"accept": "application/x-nifti"}
    return httpx.post(f"{url}/v1/segment/head", content=body, headers=headers, timeout=300).raise_for_status()


def serve_bare(model: Path, scan: Path) -> None:
    """Predict once for each line that comes in, and print the seconds."""
    torch.set_num_threads(CORES)
    predictor, body = Predictor.load(model), scan.read_bytes()
    for _ in sys.stdin:
        started = time.perf_counter()
        write_nifti(predictor.predict(read_image(body)).image)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        serve_bare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
