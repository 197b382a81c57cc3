"""Predict with a MONAI Bundle: its own transforms, inferer and network, from memory to memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from medray import config
from medray.errors import ImageError, InputError, ResourceError
from medray.imaging.geometry import RAS_TO_LPS
from medray.imaging.volume import Volume
from medray.inference.certainty import certainty_of
from medray.inference.prediction import Prediction, Unwanted, predicted, volumes_of
from medray.inference.predictor import FLOAT_BYTES, Predictor
from medray.models.bundle import digest_of, read_bundle
from medray.models.bundle_card import BundleCard
from medray.models.runtime import EXACT, Network, Runtime, ready_to_run
from medray.preprocessing.blocks import Block, Blocks
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.tasks.answer import Answer

__all__ = ["BUNDLE", "BundlePredictor", "load_predictor"]

BUNDLE = "bundle.json"
IMAGE, PRED = "image", "pred"


class _Traced(np.ndarray[Any, np.dtype[np.float32]]):
    """What the network is shown, and the transforms' own record of how it came to be."""

    tensor: Any = None


class BundlePredictor:
    """A bundle behind the same questions as a `Predictor`.

    Args:
        card: What it is for.
        network: What runs it; see `medray.models.runtime`.
        pipeline: What goes before it, how it is run, what comes after.
        device: Where it runs.
    """

    def __init__(
        self,
        card: BundleCard,
        network: Network,
        pipeline: tuple[Any, Any, Any],
        device: torch.device,
    ) -> None:
        self.task = card.task
        self._card = card
        self._network = network
        self._before, self._inferer, self._after = pipeline  # asked for None below: MONAI builds them anew for their truth
        self._device = device

    @classmethod
    def load(cls, folder: Path, device: str | None = None, *, runtime: Runtime = EXACT) -> BundlePredictor:
        """Load a model folder: ``bundle.json``, ``weights.safetensors`` and the bundle in ``bundle``.

        Raises:
            ConfigError: If the runtime isn't installed.
            InputError: If the bundle isn't the one that was imported, or can't be built.
        """
        card = config.load(BundleCard, config.read_file(folder / BUNDLE), what=str(folder / BUNDLE))
        if digest_of(folder / "bundle") != card.digest:
            raise InputError(f"the files of bundle {card.name} have changed since it was imported: import it again")
        bundle = read_bundle(folder / "bundle", trusted=card.trusted)
        network = bundle.network()
        network.load_state_dict(load_file(folder / "weights.safetensors"))
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        ready = ready_to_run(runtime, network.to(place).eval(), place, (card.channels, *card.shape))
        return cls(card, ready, bundle.pipeline(), place)

    def predict(self, volume: Volume) -> Prediction:
        """Predict on an image of any grid; see `Predictor.predict`."""
        return predicted(self, volume)

    def prepare(self, volume: Volume) -> NDArray[np.float32]:
        """Return what the network is shown of an image.

        Raises:
            ImageError: If the image is of another modality or has other channels than the bundle is for.
        """
        from monai.data import MetaTensor  # noqa: PLC0415 - a second and more

        modality = volume.meta.get("modality", "OT")
        if self._card.modalities and modality not in {*self._card.modalities, "OT"}:
            raise ImageError("other-modality", f"the model is for {', '.join(self._card.modalities)}, not {modality}")
        voxels = volume.voxels
        if len(voxels) != self._card.channels:
            raise ImageError(
                "other-channels", f"the model is for {self._card.channels} channels, and the image has {len(voxels)}"
            )
        flat = len(self._card.shape) == 2
        shown = voxels[:, :, :, 0] if flat and voxels.shape[3] == 1 else voxels
        affine = torch.from_numpy(np.linalg.inv(RAS_TO_LPS) @ volume.affine)
        image = MetaTensor(torch.from_numpy(np.ascontiguousarray(shown, dtype=np.float32)), affine=affine)
        image.meta["original_channel_dim"] = 0
        image.meta["original_affine"] = affine
        image.meta["spatial_shape"] = np.array(shown.shape[1:])
        done = self._before({IMAGE: image})[IMAGE] if self._before is not None else image
        traced = np.asarray(done.detach().cpu().numpy(), np.float32).view(_Traced)
        traced.tensor = done
        return traced

    def map_bytes(self, prepared: NDArray[np.float32], *, whole: bool = False) -> int:
        """Return about how many bytes its map has; see `Predictor.map_bytes`."""
        if self.task == "diagnosis":
            return 0
        return FLOAT_BYTES * (1 + max(self._card.targets.values())) * math.prod(prepared.shape[1:])

    def activate(
        self, images: Sequence[NDArray[np.float32]], *, unwanted: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Blocks]]:
        """Run the network on prepared images, together where they are of one size; see `Predictor.activate`."""
        if len({image.shape for image in images}) > 1:
            yield from ((number, self._maps([image], unwanted)[0]) for number, image in enumerate(images))
        else:
            yield from enumerate(self._maps(images, unwanted))

    def finish(self, blocks: Blocks, volume: Volume, prepared: NDArray[np.float32]) -> Prediction:
        """Bring what the network says onto the image's own grid; see `Predictor.finish`."""
        started = time.perf_counter()
        said = blocks.whole()
        ready = time.perf_counter()
        answer = self._answer(said, volume, getattr(prepared, "tensor", None))
        latencies = {"network": ready - started, "postprocess": time.perf_counter() - ready}
        values = self._values()
        volumes_ml = volumes_of(answer.mask, values, volume.voxel_ml, regions=self._card.regions)
        sure = certainty_of(answer) if answer.mask is None else None
        return Prediction(answer, volume.shape, volume.affine, volumes_ml, values, latencies, certainty=sure)

    def probe(self) -> None:
        """Run the network on an empty image; see `Predictor.probe`."""
        with torch.inference_mode():
            said = self._network(torch.zeros((1, self._card.channels, *self._card.shape), device=self._device))
        if not bool(torch.isfinite(_first(said)).all()):
            raise ResourceError("the network's answer to an empty image is no number: restart the process")

    def _maps(self, images: Sequence[NDArray[np.float32]], unwanted: Callable[[], bool]) -> list[Blocks]:
        """Run the inferer when the first map is asked for; a grid is its image's, or one voxel of a diagnosis."""
        shape = (*images[0].shape[1:], 1) if images[0].ndim == 3 else images[0].shape[1:]
        i, j, k = (1, 1, 1) if self.task == "diagnosis" else (int(side) for side in shape)

        @cache
        def values() -> NDArray[np.float32]:
            found = self._run(np.stack([np.asarray(image) for image in images]), unwanted)
            return found.reshape(*found.shape[:2], i, j, k)

        def parts(number: int) -> Iterator[Block]:
            yield (0, 0, 0), values()[number]

        return [Blocks((i, j, k), parts(number)) for number in range(len(images))]

    def _run(self, images: NDArray[np.float32], unwanted: Callable[[], bool]) -> NDArray[np.float32]:
        """Return what the network says of images of one size, ``(N, D, …)``."""

        def network(patch: torch.Tensor, *more: Any, **named: Any) -> Any:
            if unwanted():
                raise Unwanted
            return self._network(patch, *more, **named)

        given = torch.from_numpy(images).to(self._device)
        with torch.inference_mode():
            said = self._inferer(given, network) if self._inferer is not None else network(given)
        found: NDArray[np.float32] = _first(said).float().cpu().numpy()
        return found

    def _answer(self, said: NDArray[np.float32], volume: Volume, image: Any) -> Answer:
        """Run what comes after the network."""
        from monai.data import MetaTensor  # noqa: PLC0415

        if self.task == "diagnosis":
            done = (
                self._after({PRED: torch.from_numpy(said[:, 0, 0, 0]), IMAGE: image})[PRED] if self._after is not None else said
            )
            return Answer(probabilities=self._probabilities(np.asarray(done, np.float64).reshape(-1)))
        flat = len(self._card.shape) == 2
        pred = MetaTensor(
            torch.from_numpy(said[..., 0] if flat else said), meta=image.meta, applied_operations=image.applied_operations
        )
        done = self._after({PRED: pred, IMAGE: image}) if self._after is not None else {PRED: pred}
        found = done[PRED]
        if tuple(found.shape[1:]) != tuple(volume.shape[:2] if flat else volume.shape) and self._before is not None:
            found = self._before.inverse({IMAGE: found})[IMAGE]
        values = np.asarray(found.detach().cpu().numpy() if hasattr(found, "detach") else found)
        return Answer(mask=self._mask(values.reshape(len(values), *volume.shape)))

    def _mask(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a label map, or a channel of 0 and 1 for each region."""
        if self._card.regions:
            order = [channel if len(values) > channel else 0 for channel in self._card.targets.values()]
            return (values[order] > 0.5).astype(np.uint8)
        labels = values[0] if len(values) == 1 else values.argmax(axis=0)
        return np.asarray(labels, np.uint8)[None]

    def _probabilities(self, values: NDArray[np.float64]) -> dict[str, float]:
        if not self._card.activated and len(values) == len(self._card.targets):
            shifted = np.exp(values - values.max())
            values = 1 / (1 + np.exp(-values)) if self._card.regions else shifted / shifted.sum()
        if len(values) == 1 and len(self._card.targets) > 1:  # a class, already decided
            values = np.eye(len(self._card.targets))[int(values[0])]
        return {name: float(values[channel]) for name, channel in self._card.targets.items()}

    def _values(self) -> dict[str, int]:
        if self.task != "segmentation":
            return {}
        return dict.fromkeys(self._card.targets, 1) if self._card.regions else dict(self._card.targets)


def load_predictor(folder: Path, device: str | None = None, *, runtime: Runtime = EXACT) -> Predictor | BundlePredictor:
    """Load a model folder, whether medray has trained it or it is a MONAI Bundle; see their own ``load``."""
    if (folder / BUNDLE).is_file():
        return BundlePredictor.load(folder, device, runtime=runtime)
    return Predictor.load(folder, device, runtime=runtime)


@lru_cache(maxsize=1)
def kept_predictor(registry: str, version: ModelVersion, runtime: Runtime) -> Predictor | BundlePredictor:
    """Load a registered model once a process.

    Args:
        registry: MLflow tracking URI.
        version: Of the model.
        runtime: What runs the network.
    """
    return load_predictor(Registry(registry).fetch(version), runtime=runtime)


def _first(said: Any) -> torch.Tensor:
    """Return a network's first answer: some give several, for training."""
    tensor: torch.Tensor = (
        next(iter(said.values())) if isinstance(said, dict) else said[0] if isinstance(said, list | tuple) else said
    )
    return tensor
