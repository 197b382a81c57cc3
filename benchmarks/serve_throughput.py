"""How many small images a second does an endpoint answer, and how long does each take? Against LitServe and BentoML.

DenseNet121 on PNGs of 224 x 224, and a network of next to nothing on PNGs of 8 x 8, both untrained: the same weights and the
same decoding on each side, two cores that server and clients share, one side at a time.

* medray: the network as a MONAI Bundle behind ``/v1/diagnose``, one replica with both cores; exact, and in bfloat16
  (``mixed``), each by PyTorch, by OpenVINO, and by OpenVINO with HAProxy instead of Serve's own proxy; the best counts;
* LitServe and BentoML (``MEDRAY_BENCH_PYTHON``): the network as TorchScript, channels last, in three configurations each:
  one worker with both cores, two with one core each, one with both cores and batches; the best counts. LitServe's best in
  bfloat16, too, which its user would write himself; it is shown beside and no part of the ratios.

The knee is the best rate of closed loops of 4 and of 16 clients. Then requests come at 80 % of the better peer's knee, at
random and whether or not those before them were answered (open loop); latencies count from when each was due.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import asyncio
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from PIL import Image
from report import bars, save

import medray
from medray.registry.bundles import import_bundle

PEER = os.environ.get("MEDRAY_BENCH_PYTHON", "")
PORT, CORES = 18441, 2
CLIENTS, SECONDS, OPEN_SECONDS = (4, 16), 5.0, 15.0
CLASSES = ("none", "mild", "severe")
SHAPES = {"workers=1 threads=2": (1, 2, 1), "workers=2 threads=1": (2, 1, 1), "workers=1 threads=2 batch=8": (1, 2, 8)}
VERSIONS = {"version": "0.1.0", "monai_version": "1.6", "pytorch_version": "2.13", "numpy_version": "2"}
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "densenet121": ({"_target_": "DenseNet121", "spatial_dims": 2, "in_channels": 3, "out_channels": 3}, 224),
    "trivial": (
        {"_target_": "Regressor", "in_shape": [3, 8, 8], "out_shape": [3], "channels": [4], "strides": [2]},
        8,
    ),
}
Side = Callable[[], AbstractContextManager[tuple[str, bool]]]
"""Starts a server, and gives the route and whether images go there as forms."""
PEERS, OURS = ("LitServe", "BentoML"), {"medray": False, "medray mixed": True}
RUNTIMES = {"torch": ("torch", "0"), "openvino": ("openvino", "0"), "openvino haproxy": ("openvino", "1")}
"""What runs the network, and whether HAProxy takes requests."""


def main() -> None:
    """Measure, and save the figures."""
    found: dict[str, Any] = {"seconds_each": SECONDS, "clients": CLIENTS}
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDRAY_HOME"] = f"{place}/home"
        for name, (network, side) in NETWORKS.items():
            found[name] = compared(Path(place) / name, name, network, side)
            save("serve_throughput", found)
    title = "DenseNet121 on 224 x 224, two cores shared with the clients"
    bars("serve_throughput", title, found["densenet121"]["knee"], "requests a second at the knee")


def compared(folder: Path, name: str, network: dict[str, Any], side: int) -> dict[str, Any]:
    """Measure all sides on one network."""
    folder.mkdir()
    body, model = picture(side), bundled(folder, name, network, side)
    sides = sides_of(name, model)
    knees, answers = {}, {}
    for label, start in sides.items():
        knees[label], answers[label] = knee(start, body)
        print(name, label, f"{knees[label]:.1f}/s", flush=True)
    made = {side: [f"{side} {shape}" for shape in (RUNTIMES if side in OURS else SHAPES)] for side in (*OURS, *PEERS)}
    best = {side: max(labels, key=knees.__getitem__) for side, labels in made.items() if labels[0] in knees}
    rate = 0.8 * max(knees[best.get(peer, best["medray"])] for peer in PEERS)
    tails = {}
    for label in best.values():
        tails[label] = tail(sides[label], body, rate) if knees[label] > rate else "overloaded: the rate is beyond its knee"
        print(name, label, tails[label], flush=True)
    truth = np.array(answers["medray torch"])
    return {
        "knee": knees,
        "best": best,
        "ratios": {
            f"{side} to {peer}": knees[best[side]] / knees[best[peer]] for side in OURS for peer in PEERS if peer in best
        },
        "rate": rate,
        "latency_ms": tails,
        "answer": answers["medray torch"],
        "largest_difference": {
            label: float(np.abs(np.array(answer) - truth).max()) for label, answer in answers.items() if answer
        },
    }


def sides_of(name: str, model: Path) -> dict[str, Side]:
    """Return what starts each side in each configuration."""
    sides: dict[str, Side] = {
        f"{label} {shape}": partial(ours, name, *runtime, mixed=mixed)
        for label, mixed in OURS.items()
        for shape, runtime in RUNTIMES.items()
    }
    if not PEER:
        return sides
    for shape, (workers, threads, batch) in SHAPES.items():
        sides[f"LitServe {shape}"] = partial(litserve, model, workers, threads, batch)
        sides[f"BentoML {shape}"] = partial(bento, model, workers, threads, batch)
    return {**sides, "LitServe bfloat16, workers=2 threads=1": partial(litserve, model, 2, 1, 1, mixed=True)}


def knee(start: Side, body: bytes) -> tuple[float, list[float]]:
    """Return how many images a second a side answers at most, and its answer; 0 where it refuses some of them."""
    answer: list[float] = []
    with start() as (path, form):
        load = Load(path, form, body)
        try:
            answer = load.once()
            return max(load.closed(clients) for clients in CLIENTS), answer
        except RefusedError as error:
            print(error, flush=True)
            return 0.0, answer


def tail(start: Side, body: bytes, rate: float) -> dict[str, float] | str:
    """Return a side's latencies in ms at a rate, or what it says where it doesn't stand that."""
    with start() as (path, form):
        load = Load(path, form, body)
        try:
            load.closed(4)
            return load.open(rate)
        except RefusedError as error:
            return str(error)


def picture(side: int) -> bytes:
    """Make a PNG."""
    voxels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    packed = io.BytesIO()
    Image.fromarray(voxels).save(packed, "PNG")
    return packed.getvalue()


def bundled(folder: Path, name: str, network: dict[str, Any], side: int) -> Path:
    """Write a bundle, register it, and return the same network as TorchScript."""
    from monai.bundle import ConfigParser

    before = [{"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}]
    after = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    config = {
        "network_def": network,
        "inferer": {"_target_": "SimpleInferer"},
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }
    image = {"type": "image", "modality": "n/a", "num_channels": 3, "spatial_shape": [side, side]}
    pred = {"type": "probabilities", "num_channels": 3, "channel_def": dict(enumerate(CLASSES))}
    metadata = {**VERSIONS, "name": name, "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}
    (folder / "configs").mkdir()
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    built = ConfigParser({"net": network}).get_parsed_content("net").eval()
    for part in built.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, std=part.in_features**-0.5)  # else all answers would be alike
    torch.save(built.state_dict(), folder / "models" / "model.pt")
    medray.Registry().promote(str(import_bundle(folder, name=name)))
    trace: Any = torch.jit.trace
    with torch.no_grad():
        trace(built, torch.zeros(1, 3, side, side), check_trace=False).save(str(folder / "model.ts"))
    return folder / "model.ts"


@contextmanager
def ours(name: str, runtime: str, haproxy: str, *, mixed: bool) -> Iterator[tuple[str, bool]]:
    """Serve by medray, in a process of its own: HAProxy is for a whole process."""
    said = {"RAY_SERVE_ENABLE_HA_PROXY": haproxy, "RAY_SERVE_HAPROXY_METRICS_PORT": str(PORT + 1)}
    with started([sys.executable, __file__, "serve", name, runtime, "mixed" if mixed else ""], said, "/readyz"):
        yield f"/v1/diagnose/{name}", False


def serve(name: str, runtime: str, mixed: str) -> None:
    """Be medray's side until the process is ended."""
    with medray.deploy([name], port=PORT, insecure=True, mixed=bool(mixed), runtime=runtime, cpus=CORES):
        signal.pause()


@contextmanager
def litserve(model: Path, workers: int, threads: int, batch: int, *, mixed: bool = False) -> Iterator[tuple[str, bool]]:
    """Serve by LitServe."""
    script, said = Path(__file__).parent / "throughput_litserve.py", {"MIXED": "1" if mixed else ""}
    with started([PEER, str(script), str(model), str(PORT), *map(str, (workers, threads, batch))], said, "/health"):
        yield "/predict", True


@contextmanager
def bento(model: Path, workers: int, threads: int, batch: int) -> Iterator[tuple[str, bool]]:
    """Serve by BentoML."""
    said = {"MODEL": str(model), "WORKERS": str(workers), "THREADS": str(threads), "BATCH": str(batch)}
    said["BENTOML_DO_NOT_TRACK"] = "1"
    what = f"throughput_bentoml:{'Together' if batch > 1 else 'Alone'}"
    with started([PEER, "-m", "bentoml", "serve", what, "--host", "127.0.0.1", "--port", str(PORT)], said, "/readyz"):
        yield "/predict", True


@contextmanager
def started(command: list[str], said: dict[str, str], ready: str) -> Iterator[None]:
    """Run a server until it isn't needed."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, cwd=Path(__file__).parent, env={**os.environ, **said}
        )
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    if httpx.get(f"http://127.0.0.1:{PORT}{ready}", timeout=2).is_success:
                        break
                except httpx.HTTPError:
                    pass
                if time.monotonic() > deadline or server.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{command} doesn't start:\n{log.read().decode()[-3000:]}")
                time.sleep(0.3)
            yield
        finally:
            family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, timeout=10)


class Load:
    """Clients of one route.

    Args:
        path: The route.
        form: Whether the image goes as a form's file.
        body: The image.
    """

    def __init__(self, path: str, form: bool, body: bytes) -> None:
        kind = "image/png"
        if form:
            head = b'--limit\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
            head += b"Content-Type: image/png\r\n\r\n"
            body, kind = head + body + b"\r\n--limit--\r\n", "multipart/form-data; boundary=limit"
        head_lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "", ""]
        self._request = "\r\n".join(head_lines).encode() + body

    def once(self) -> list[float]:
        """Ask once, and return the probabilities."""
        reply = asyncio.run(self._one())
        said = json.loads(reply)["probabilities"]
        return [said[name] for name in CLASSES] if isinstance(said, dict) else [float(value) for value in said]

    def closed(self, clients: int) -> float:
        """Return answers a second of so many clients, each of which asks again when it has its answer."""
        return asyncio.run(self._closed(clients))

    def open(self, rate: float) -> dict[str, float]:
        """Return latencies in ms of requests at such a rate."""
        found = sorted(asyncio.run(self._open(rate)))
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        return {name: 1000 * found[min(len(found) - 1, int(share * len(found)))] for name, share in shares.items()}

    async def _one(self) -> bytes:
        client = Client(self._request)
        reply = await client.ask()
        client.close()
        return reply

    async def _closed(self, clients: int) -> float:
        made, done, end = [Client(self._request) for _ in range(clients)], 0, time.perf_counter() + SECONDS
        started = time.perf_counter()

        async def run(client: Client) -> None:
            nonlocal done
            while time.perf_counter() < end:
                await client.ask()
                done += 1
            client.close()

        await asyncio.gather(*(run(client) for client in made))
        return done / (time.perf_counter() - started)

    async def _open(self, rate: float) -> list[float]:
        free: list[Client] = []
        latencies: list[float] = []

        async def ask(due: float) -> None:
            client = free.pop() if free else Client(self._request)
            await client.ask()
            latencies.append(time.perf_counter() - due)
            free.append(client)

        chance, due, asked = random.Random(0), time.perf_counter(), []
        end = due + OPEN_SECONDS
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(ask(due)))
            due += chance.expovariate(rate)
        await asyncio.gather(*asked)
        for client in free:
            client.close()
        return latencies


class RefusedError(Exception):
    """A server answered something else than 200."""


class Client:
    """One connection that is kept; as little work as can be, for it shares the cores.

    Args:
        request: The bytes of a request.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> bytes:
        """Send the request, and return the body of its answer; a connection that the server closed meanwhile is made anew."""
        kept = self._streams is not None
        try:
            return await self._ask()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.close()
            self._streams = None
            if not kept:
                raise RefusedError(f"hung up: {error}") from None
        return await self.ask()

    async def _ask(self) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", PORT)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RefusedError(f"refused: {head[:100]!r}")
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return await reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    else:
        main()
