"""`Predictor`: what was validated is what is served, benchmarked and run in batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from medray import config
from medray.errors import InputError, NotFoundError, ResourceError
from medray.evaluation.calibration import CALIBRATION, Calibration, Calibrations
from medray.imaging.geometry import closest_lps
from medray.imaging.volume import Volume
from medray.inference.certainty import Onlooker, certainty_of
from medray.inference.likely import Likely
from medray.inference.prediction import Prediction, Unwanted, dated, predicted, volumes_of
from medray.inference.sliding_window import slide_all, window_of
from medray.models.embedding import telling
from medray.models.networks import build_model
from medray.models.runtime import EXACT, Network, Runtime, ready_to_run
from medray.preprocessing.blocks import Block, Blocks
from medray.preprocessing.case import frame_of, prepare_image
from medray.preprocessing.foreground import shape_of
from medray.preprocessing.plan import Plan, read_plan
from medray.tasks.answer import Answer
from medray.tasks.task import task_of
from medray.types import Shape, Voxels

__all__ = ["FLOAT_BYTES", "Predictor"]

FLOAT_BYTES = 4
"""Of each value that a network says."""
MAPPED = ("segmentation", "progression")
"""Tasks that tell of every voxel what it is."""


class _Watched:
    """Blocks, and how long they were waited for."""

    def __init__(self, parts: Iterable[Block]) -> None:
        self._parts = iter(parts)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        started = time.perf_counter()
        try:
            return next(self._parts)
        finally:
            self.seconds += time.perf_counter() - started


class Predictor:
    """A model with its plan.

    Attributes:
        plan: What it was trained by.
        task: What it says of an image.

    Args:
        network: What runs it; see `medray.models.runtime`.
        plan: What it was trained by.
        device: Where it runs.
        calibration: How its answers are to be taken.
        kept: Targets of a segmentation of which its predictions say, too, how probable they are at each voxel.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        device: torch.device,
        *,
        calibration: Calibrations | None = None,
        kept: Sequence[str] = (),
    ) -> None:
        self.plan = plan
        self.task = plan.task
        self._decoder = task_of(plan, calibration)
        self._network = network
        self._device = device
        self._calibration = calibration
        self._kept = tuple(kept)
        self._maps = plan.task in MAPPED

    @classmethod
    def load(cls, folder: Path, device: str | None = None, *, runtime: Runtime = EXACT) -> Predictor:
        """Load a model folder: ``plan.json``, ``weights.safetensors`` and, where there is one, ``calibration.json``.

        Args:
            folder: Where they are.
            device: Where the network runs: this process's GPU by default where it has one, else the CPU.
            runtime: What runs it.

        Raises:
            ConfigError: If that isn't installed.
            NotFoundError: If a file is missing.
            InputError: If the weights don't fit the plan.
        """
        weights = folder / "weights.safetensors"
        if not weights.is_file():
            raise NotFoundError(f"no weights.safetensors in {folder}: is it a model folder?")
        plan = read_plan(config.read_file(folder / "plan.json"), what=str(folder / "plan.json"))
        task = task_of(plan)
        model = build_model(plan.network, task.inputs, task.channels, plan.patch)
        try:
            model.load_state_dict(load_file(weights), assign=True)  # the file's own pages, which a node's processes share
        except Exception as error:
            raise InputError(f"{weights} doesn't fit its plan: {str(error).splitlines()[0]}") from error
        known = config.read_file(folder / CALIBRATION) if (folder / CALIBRATION).is_file() else {}
        calibration = {name: config.load(Calibration, found, what=str(folder / CALIBRATION)) for name, found in known.items()}
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        divisor = plan.network.divisor if plan.network.extends else 0
        tells = telling(model.to(place).eval(), (task.inputs, *_smallest(plan)), place)
        network = ready_to_run(runtime, tells, place, (task.inputs, *plan.patch), divisor=divisor)
        return cls(network, plan, place, calibration=calibration)

    def keeping(self, targets: Sequence[str]) -> Predictor:
        """Return the same model; its predictions say how probable these targets of a segmentation are at each voxel, too."""
        return Predictor(self._network, self.plan, self._device, calibration=self._calibration, kept=targets)

    def predict(self, volume: Volume) -> Prediction:
        """Predict on an image of any grid.

        Raises:
            ImageError: If the image is of a modality that the model doesn't know.
            InputError: If the model is a generator, which says nothing of images.
        """
        return predicted(self, volume)

    def prepare(self, volume: Volume) -> NDArray[np.float32]:
        """Return what the network is shown of an image, ``(C, I, J, K)`` on the plan's grid; raises what `predict` does."""
        if self.plan.task == "synthesis":
            raise InputError("the model makes images and says nothing of them: use it with medray synthesise")
        prepared: NDArray[np.float32] = prepare_image(volume, self.plan).voxels
        return prepared

    def map_bytes(self, prepared: NDArray[np.float32], *, whole: bool = False) -> int:
        """Return about how many bytes its map has, or are there at a time while `activate` and `finish` go through it."""
        i, j, k = (int(side) for side in prepared.shape[1:])
        planes = i if whole else min(i, window_of((i, j, k), self.plan)[0])
        return FLOAT_BYTES * int(self._decoder.channels) * planes * j * k

    def activate(
        self, images: Sequence[NDArray[np.float32]], *, unwanted: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Blocks]]:
        """Run the network on prepared images, in one go where each of them is one window and all are of one size.

        Args:
            images: From `prepare`.
            unwanted: Asked before each window; true ends it with `Unwanted`.

        Yields:
            Each image's number and the task's map ``(D, I, J, K)`` of it on the plan's grid. The network runs as blocks are
            asked for; one image's are to be gone through before the next is asked for.
        """

        def run(patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            if unwanted():
                raise Unwanted
            with torch.no_grad():
                return self._mirrored(patch) if self.plan.mirror else self._run(patch)

        return slide_all(run, images, self.plan, self._device)

    def finish(self, blocks: Blocks, volume: Volume, prepared: NDArray[np.float32]) -> Prediction:
        """Decode what `activate` makes of an image onto that image's own grid; waiting for it counts as ``network``.

        Args:
            blocks: From `activate`.
            volume: The image.
            prepared: What `prepare` made of it.
        """
        started = time.perf_counter()
        watched = _Watched(blocks.parts)
        likely = Likely(blocks.grid, [self._channel_of(name) for name in self._kept])
        watch = Onlooker(regions=bool(self.plan.regions))
        seen = likely.watched(blocks.through(watched))
        seen = watch.watched(seen) if self._maps else seen
        answer = dated(self._onto_source(seen, volume), volume)
        kept = self._placed(likely.onto(shape_of(frame_of(volume, self.plan))), volume) if self._kept else ()
        values = self._values()
        volumes_ml = volumes_of(answer.mask, values, volume.voxel_ml, regions=bool(self.plan.regions))
        rest = time.perf_counter() - started - watched.seconds
        latencies = {"network": watched.seconds, "postprocess": rest}
        return Prediction(
            answer,
            volume.shape,
            volume.affine,
            volumes_ml,
            values,
            latencies,
            dict(zip(self._kept, kept, strict=True)),
            watch.certainty if self._maps else certainty_of(answer),
            np.mean(blocks.embeddings, axis=0, dtype=np.float32) if blocks.embeddings else None,
        )

    def probe(self) -> None:
        """Run the network on the smallest image that it takes.

        Raises:
            ResourceError: If it says what is no number: memory or device are damaged.
        """
        with torch.inference_mode():
            said, _ = self._run(torch.zeros((1, self._decoder.inputs, *_smallest(self.plan)), device=self._device))
        if not bool(torch.isfinite(said).all()):
            raise ResourceError("the network's answer to an empty image is no number: restart the process")

    def answer(self, given: NDArray[np.float32]) -> Answer:
        """Answer what the task gives the network, ``(inputs, I, J, K)`` on the plan's own grid; for validation."""
        [(_, blocks)] = self.activate([given])
        return self._decoder.decode(blocks, (given.shape[1], given.shape[2], given.shape[3]))

    def _run(self, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        said = self._network(patch)
        answer, found = said if isinstance(said, tuple) else (said, None)
        return self._decoder.activate(answer), found

    def _mirrored(self, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the mean answer of patches ``(N, C, I, J, K)`` and their mirror images; and the patches' own embeddings."""
        axes = [axis + 2 for axis in self.plan.alike if patch.shape[axis + 2] > 1]
        flips = [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]
        said = [(flip, *self._run(patch.flip(flip))) for flip in flips]
        return torch.stack([answer.flip(flip) for flip, answer, _ in said]).mean(dim=0), said[0][2]

    def _onto_source(self, blocks: Blocks, volume: Volume) -> Answer:
        """Decode inside the frame that the plan looks at, and put that where it lies in the source."""
        frame = frame_of(volume, self.plan)
        answer = self._decoder.decode(blocks, shape_of(frame))
        back = closest_lps(volume.affine).inverse
        corner = [span.start for span in frame]
        boxes = [box.shifted(corner).reoriented(back, volume.reoriented().shape) for box in answer.boxes]
        mask, saliency = (None if one is None else self._placed(one, volume) for one in (answer.mask, answer.saliency))
        return replace(answer, mask=mask, saliency=saliency, boxes=boxes)

    def _placed(self, inner: Voxels, volume: Volume) -> Voxels:
        """Put what fills the frame that the plan looks at ``(C, ...)`` where it lies in the source."""
        outer = np.zeros((len(inner), *volume.reoriented().shape), inner.dtype)
        outer[(slice(None), *frame_of(volume, self.plan))] = inner
        return np.ascontiguousarray(closest_lps(volume.affine).inverse.apply(outer))

    def _channel_of(self, target: str) -> int:
        """Return which channel of the map a target of a segmentation is."""
        return self.plan.targets.index(target) + (0 if self.plan.regions else 1)

    def _values(self) -> dict[str, int]:
        if not self._maps:
            return {}
        return (
            dict.fromkeys(self.plan.targets, 1)
            if self.plan.regions
            else {name: self.plan.labels.names[name] for name in self.plan.targets}
        )


def _smallest(plan: Plan) -> Shape:
    """Return the sides of the smallest image that a plan's network takes."""
    side = plan.network.divisor if plan.network.extends else 0
    i, j, k = (side if side and patch > 1 else patch for patch in plan.patch)
    return i, j, k
