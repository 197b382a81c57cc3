"""What every peer of `serve_throughput.py` does with an image: the same decoding, the same network, the same answer."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = ["decoded", "loaded", "probabilities"]


def decoded(body: bytes) -> torch.Tensor:
    """Read a PNG as the bundle's transforms do: columns, then rows; 0 to 1."""
    voxels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(voxels.transpose(2, 1, 0)))


def loaded(path: str, threads: int) -> Any:
    """Load a network; channels last, as medray has it."""
    torch.set_num_threads(threads)
    load: Any = torch.jit.load
    return load(path).eval().to(memory_format=torch.channels_last)


def probabilities(network: Any, images: torch.Tensor) -> list[list[float]]:
    """Run the network."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(os.environ.get("MIXED"))):
        scores = network(images.contiguous(memory_format=torch.channels_last))
        found: list[list[float]] = torch.softmax(scores.float(), dim=1).tolist()
    return found
