"""What runs a network: PyTorch anywhere or, on a CPU, OpenVINO, which takes less time for the same answer.

OpenVINO (https://docs.openvino.ai, Apache 2.0) is an extra of its own. It joins convolutions, norms and activations that
PyTorch runs one after another; see ``benchmarks/serve_throughput.py`` and ``serve_latency.py`` for what that is worth.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from medray.errors import ConfigError
from medray.models.embedding import Telling
from medray.models.lean import without

__all__ = ["EXACT", "Network", "Runtime", "RuntimeName", "by_torch", "ready_to_run"]

Network = Callable[..., Any]
"""Images ``(N, C, …)`` in, a network's answer out; of one that is `Telling`, that and what its deepest layer makes of them."""
RuntimeName = Literal["torch", "openvino"]
TELEMETRY = "openvino_telemetry"
"""It tells its maker of every import, unless it isn't there."""
OFF = {False: 1e-4, True: 0.1}
"""By how much of the largest value OpenVINO's answer to noise may be off PyTorch's exact one, exact itself and in bfloat16."""

PICTURE = 1 << 20
"""Voxels of an image of which several are run side by side."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How networks are run.

    Attributes:
        name: By what.
        mixed: Whether in bfloat16 where the processor has it: twice as fast and more, and not the same on every machine.
        threads: Cores for OpenVINO; PyTorch's are set for each thread. 0 for all.
    """

    name: RuntimeName = "torch"
    mixed: bool = False
    threads: int = 0

    def __str__(self) -> str:
        """Return ``torch`` or ``openvino``, with ``+bf16`` where it may run in bfloat16."""
        return f"{self.name}{'+bf16' if self.mixed else ''}"

    def require(self) -> None:
        """Check that it is installed.

        Raises:
            ConfigError: If it isn't.
        """
        if self.name == "openvino" and find_spec("openvino") is None:
            raise ConfigError('runtime=openvino needs a package that isn\'t installed: pip install "medray[openvino]"')


EXACT = Runtime()


def by_torch(network: nn.Module, device: torch.device, *, mixed: bool = False) -> Network:
    """Return what runs a network by PyTorch as it is, on ``device``."""
    return _Torch(network, device, None, mixed=mixed)


def ready_to_run(
    runtime: Runtime, network: nn.Module, device: torch.device, shape: Sequence[int], *, divisor: int = 0
) -> Network:
    """Return what runs a network that has been loaded for this alone: how its weights lie may change.

    A network that OpenVINO can't take, or of which it says something else than PyTorch, stays with PyTorch, as do images that
    it wasn't prepared for, and GPUs.

    Args:
        runtime: By what, and how.
        network: In evaluation mode, on ``device``.
        device: Where it is.
        shape: ``(C, …)`` of the images that it is for.
        divisor: Of the sides of others, for a network that takes images of any size; 0 where it doesn't.

    Raises:
        ConfigError: If the runtime isn't installed.
    """
    runtime.require()
    dense = {3: torch.channels_last, 4: torch.channels_last_3d if runtime.mixed else None}.get(len(shape))
    if dense is not None:
        network.to(memory_format=dense)  # type: ignore[call-overload]
    torchs = _Torch(network, device, dense, mixed=runtime.mixed)
    if runtime.name == "torch" or device.type != "cpu":
        return torchs
    try:
        return _OpenVino(network, torchs, runtime, tuple(shape), divisor)
    except Exception as error:  # noqa: BLE001 - whatever a converter says of a network
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        kind = type(network.network if isinstance(network, Telling) else network).__name__
        logger.warning("a %s stays with torch: %s", kind, said)
        return torchs


class _Torch:
    """A network by PyTorch, to which images go in such a memory format: channels last is what convolutions like."""

    def __init__(self, network: nn.Module, device: torch.device, dense: torch.memory_format | None, *, mixed: bool) -> None:
        self._network = network
        self._device = device
        self._dense = dense
        self._mixed = mixed

    def __call__(self, images: torch.Tensor, *more: Any, **named: Any) -> Any:
        if self._dense is not None and images.ndim == (4 if self._dense is torch.channels_last else 5):
            images = images.contiguous(memory_format=self._dense)
        with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed):
            return self._network(images, *more, **named)


class _OpenVino:
    """A network by OpenVINO, checked against PyTorch."""

    def __init__(self, network: nn.Module, torchs: Network, runtime: Runtime, shape: tuple[int, ...], divisor: int) -> None:
        with without({TELEMETRY}):
            import openvino  # noqa: PLC0415 - an extra
        channels, *sides = shape
        free = [-1 if divisor and side > 1 else side for side in sides]
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of what a trace can't see: that is tried below
            model = openvino.convert_model(
                network, example_input=torch.zeros(1, *shape), input=[(-1, channels, *free)], share_weights=True
            )
        self._tells = isinstance(network, Telling)
        if len(model.outputs) != 1 + self._tells:
            raise ValueError(f"it gives {len(model.outputs)} answers")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if runtime.mixed else "f32",
            "ENABLE_CPU_PINNING": False,  # replicas would all be pinned to the first cores
            **({"INFERENCE_NUM_THREADS": runtime.threads} if runtime.threads else {}),
        }
        core = openvino.Core()
        self._compiled = core.compile_model(model, "CPU", {**settings, "PERFORMANCE_HINT": "LATENCY"})
        streams = runtime.threads if math.prod(sides) <= PICTURE else 1
        self._each = core.compile_model(model, "CPU", {**settings, "NUM_STREAMS": streams}) if streams > 1 else None
        self._torchs = torchs
        self._free = tuple(free)
        self._divisor = divisor
        self._channels = channels
        larger = (sides[0] + divisor, *sides[1:])
        exact = by_torch(network, torch.device("cpu"))
        for count, tried in ((1, sides), (2, larger)):
            self._check(exact, torch.rand(count, channels, *tried), OFF[runtime.mixed])

    def __call__(self, images: torch.Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not self._takes(images):
            return self._torchs(images, *more, **named)
        return self._run(images)

    def _takes(self, images: torch.Tensor) -> bool:
        channels, *sides = images.shape[1:]
        fits = (side == has or (has == -1 and side % self._divisor == 0) for side, has in zip(sides, self._free, strict=True))
        return images.dtype == torch.float32 and channels == self._channels and len(sides) == len(self._free) and all(fits)

    def _run(self, images: torch.Tensor) -> Any:
        """Run images together; several pictures each by a core of its own, so that no core waits for another."""
        given, outputs = images.contiguous().numpy(), range(1 + self._tells)
        if self._each is None or len(given) == 1:
            found = self._compiled.create_infer_request().infer([given], share_inputs=True)
            said = [torch.from_numpy(found[number]) for number in outputs]
        else:
            requests = [self._each.create_infer_request() for _ in given]
            for request, image in zip(requests, given, strict=True):
                request.start_async([image[None]], share_inputs=True)
            for request in requests:
                request.wait()
            parts = [[request.get_output_tensor(number).data for request in requests] for number in outputs]
            said = [torch.from_numpy(np.concatenate(part)) for part in parts]
        return tuple(said) if self._tells else said[0]

    def _check(self, exact: Network, images: torch.Tensor, most: float) -> None:
        truth, found = exact(images), self._run(images)
        if self._tells:
            truth, found = truth[0], found[0]
        off = float((found - truth).abs().max() / truth.abs().max().clamp_min(1e-12))
        if found.shape != truth.shape or not off <= most:
            raise ValueError(f"openvino's answer is off by {off:.2g} of the largest value")
