"""A prepared case in bricks, so that a training patch costs the bricks that it touches and not the volume.

::

    cases/<name>.arrow    an Arrow IPC file without compression: a record batch a brick, each one row
                          image   float16 (C, i, j, k)
                          mask    uint8 (i, j, k), channel numbers; empty where the plan needs no label maps
                          schema metadata: series, shape, what is present, and how many voxels of each channel number each
                          brick holds

On a local disk a brick's arrays are views of the page cache, shared by all workers of a host; from an object store a brick is
one range read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medray.errors import InputError, NotFoundError
from medray.preprocessing.patches import crop
from medray.storage.location import Location
from medray.types import Mask, Shape

__all__ = ["BRICK", "Case", "label_counts", "read_case", "write_case"]

BRICK = 64
"""Voxels of a brick's side: a 64-voxel patch touches at most eight, and half a MiB is a good range read."""
FEW_LABELS = 24
SCHEMA = pa.schema([("image", pa.large_binary()), ("mask", pa.large_binary())])

Image = NDArray[np.float16]


class Case:
    """A training case, open for reading.

    Args:
        reader: Of its file.
        facts: Its metadata.

    Attributes:
        series: Pseudonym.
        shape: I, J, K of the whole.
        present: What is in the image: see `medray.cohort.manifest.SeriesRow.present`.
        counts: ``(bricks, channel numbers)``: voxels of each number in each brick.
    """

    def __init__(self, reader: Any, facts: dict[str, Any]) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self.series = str(facts["series"])
        self.present = frozenset(str(name) for name in facts["present"])
        self.channels, *shape = (int(n) for n in facts["shape"])
        self.shape: Shape = (shape[0], shape[1], shape[2])
        self.counts: NDArray[np.int64] = np.array(facts["counts"], dtype=np.int64)
        self._corners = _corners(self.shape)

    @cached_property
    def image(self) -> Image:
        """The whole image ``(C, I, J, K)``, normalised, read-only."""
        return self._whole[0]

    @cached_property
    def mask(self) -> Mask:
        """The whole label map ``(I, J, K)``, channel numbers, read-only; all background where there is none."""
        return self._whole[1]

    def patch(self, start: tuple[int, int, int], size: Shape) -> tuple[Image, Mask]:
        """Read what a patch covers; beyond the volume its edge value goes on, as in `medray.preprocessing.patches.crop`."""
        low = [max(0, begin) for begin in start]
        high = [min(n, begin + length) for n, begin, length in zip(self.shape, start, size, strict=True)]
        image, mask = self._region(low, high)
        inner = [begin - first for begin, first in zip(start, low, strict=True)]
        return crop(image, inner, size), crop(mask, inner, size)

    def labelled_voxel(self, rng: np.random.Generator, among: Sequence[int]) -> tuple[int, int, int] | None:
        """Draw a voxel of a label that is drawn evenly among those present.

        Args:
            rng: Source of randomness.
            among: Channel numbers to choose from.

        Returns:
            None where the case has none of them. Reads one brick's mask.
        """
        found = self.counts.sum(axis=0)
        present = [number for number in among if number < len(found) and found[number]]
        if not present:
            return None
        label = present[int(rng.integers(len(present)))]
        share = self.counts[:, label] / self.counts[:, label].sum()
        brick = int(rng.choice(len(share), p=share))
        inside = np.argwhere(self._brick(brick)[1] == label)
        place = inside[rng.integers(len(inside))] + self._corners[brick]
        return int(place[0]), int(place[1]), int(place[2])

    @cached_property
    def _whole(self) -> tuple[Image, Mask]:
        image, mask = self._region([0, 0, 0], list(self.shape))
        image.flags.writeable = mask.flags.writeable = False
        return image, mask

    def _region(self, low: list[int], high: list[int]) -> tuple[Image, Mask]:
        size = [last - first for first, last in zip(low, high, strict=True)]
        image, mask = np.empty((self.channels, *size), np.float16), np.empty(size, np.uint8)
        counts = [-(-n // BRICK) for n in self.shape]
        ranges = [range(first // BRICK, (last - 1) // BRICK + 1) for first, last in zip(low, high, strict=True)]
        for i, j, k in product(*ranges):
            number = (i * counts[1] + j) * counts[2] + k
            part, labels = self._brick(number)
            corner = self._corners[number]
            source, target = [], []
            for axis in range(3):
                begin, end = max(low[axis], corner[axis]), min(high[axis], corner[axis] + labels.shape[axis])
                source.append(slice(begin - corner[axis], end - corner[axis]))
                target.append(slice(begin - low[axis], end - low[axis]))
            image[(slice(None), *target)] = part[(slice(None), *source)]
            mask[tuple(target)] = labels[tuple(source)]
        return image, mask

    def _brick(self, number: int) -> tuple[Image, Mask]:
        with self._lock:
            batch = self._reader.get_batch(number)
        corner = self._corners[number]
        size = [min(BRICK, n - first) for n, first in zip(self.shape, corner, strict=True)]
        image = np.frombuffer(batch.column("image")[0].as_buffer(), np.float16).reshape(self.channels, *size)
        labels = batch.column("mask")[0].as_buffer()
        return image, np.frombuffer(labels, np.uint8).reshape(size) if labels.size else np.zeros(size, np.uint8)


def write_case(target: Location, series: str, image: Image, mask: Mask | None, *, present: Iterable[str] = ()) -> None:
    """Write one case.

    Args:
        target: Its file.
        series: Pseudonym.
        image: ``(C, I, J, K)``.
        mask: ``(I, J, K)``, channel numbers; None where none is needed.
        present: What is in the image.
    """
    shape: Shape = (image.shape[1], image.shape[2], image.shape[3])
    labels = 1 if mask is None else int(mask.max()) + 1
    counts, batches = [], []
    for corner in _corners(shape):
        span = tuple(slice(first, first + BRICK) for first in corner)
        part = None if mask is None else np.ascontiguousarray(mask[span])
        counts.append([0] if part is None else label_counts(part, labels))
        voxels = np.ascontiguousarray(image[(slice(None), *span)]).tobytes()
        columns = [pa.array([data], pa.large_binary()) for data in (voxels, b"" if part is None else part.tobytes())]
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    facts = json.dumps({"series": series, "shape": [image.shape[0], *shape], "counts": counts, "present": sorted(present)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA.with_metadata({"case": facts})) as writer:
        for batch in batches:
            writer.write_batch(batch)
    target.write(sink.getvalue())


def read_case(source: Location) -> Case:
    """Open one case; its voxels are read when they are asked for.

    Raises:
        NotFoundError: If it isn't there.
        InputError: If it is damaged.
    """
    try:
        opened = pa.memory_map(source.path) if source.is_local else source.filesystem.open_input_file(source.path)
        reader = pa.ipc.open_file(opened)
        case = Case(reader, json.loads(reader.schema.metadata[b"case"]))
        if reader.num_record_batches != len(case.counts):
            raise ValueError("bricks are missing")
    except FileNotFoundError:
        raise NotFoundError(f"no prepared case {source.path}: run medray prepare again") from None
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"prepared case {source.path} is damaged ({error}): run medray prepare again") from None
    return case


def label_counts(mask: Mask, labels: int) -> list[int]:
    """Return how many voxels have each channel number below ``labels``; a comparison each is quicker than one histogram."""
    if labels > FEW_LABELS:
        return [int(count) for count in np.bincount(mask.ravel(), minlength=labels)]
    return [int(np.count_nonzero(mask == number)) for number in range(labels)]


def _corners(shape: Shape) -> list[tuple[int, int, int]]:
    """Return each brick's first voxel, K running fastest."""
    return [(i, j, k) for i, j, k in product(*(range(0, n, BRICK) for n in shape))]
