"""The BentoML side of `serve_throughput.py`, in an environment of its own: PNG in, probabilities out.

``bentoml serve throughput_bentoml:Classifier``, with MODEL, WORKERS, THREADS and BATCH in the environment.
"""

import os
from pathlib import Path

import bentoml
import numpy as np
import torch
from throughput_model import decoded, loaded, probabilities

MODEL, WORKERS, THREADS, BATCH = (os.environ.get(name, "1") for name in ("MODEL", "WORKERS", "THREADS", "BATCH"))


@bentoml.service(workers=int(WORKERS), traffic={"timeout": 60})
class Network:
    """The network, for batches."""

    def __init__(self) -> None:
        self.network = loaded(MODEL, int(THREADS))

    @bentoml.api(batchable=True, max_batch_size=max(2, int(BATCH)), max_latency_ms=2000)  # type: ignore[untyped-decorator]
    def run(self, images: np.ndarray) -> np.ndarray:
        """Run it."""
        return np.asarray(probabilities(self.network, torch.from_numpy(np.ascontiguousarray(images))))


@bentoml.service(workers=int(WORKERS), traffic={"timeout": 60})
class Alone:
    """PNG in, answer out, one by one."""

    def __init__(self) -> None:
        self.network = loaded(MODEL, int(THREADS))

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, image: Path) -> dict[str, list[float]]:
        """Answer one image."""
        return {"probabilities": probabilities(self.network, decoded(image.read_bytes())[None])[0]}


@bentoml.service(workers=1, traffic={"timeout": 60})
class Together:
    """PNG in, answer out, through a service that gathers batches."""

    network = bentoml.depends(Network)

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    async def predict(self, image: Path) -> dict[str, list[float]]:
        """Answer one image."""
        found = await self.network.to_async.run(decoded(image.read_bytes())[None].numpy())
        return {"probabilities": found[0].tolist()}
