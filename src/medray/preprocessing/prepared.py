"""Prepared cases on disk: what a training worker maps into memory.

::

    PREPARED/prepared.json        plan, cohort id, splits; written last
    PREPARED/cases/<name>.arrow   one row: image float16 (C, I, J, K), mask uint8 (I, J, K), foreground int32 (N, 4)

Arrow IPC without compression: on a local disk the arrays are views of the page cache, shared by all workers of a host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.cohort.splits import Split
from medray.errors import InputError, NotFoundError
from medray.preprocessing.plan import Plan, read_plan
from medray.storage.location import Location, locate
from medray.types import Mask, Voxels

__all__ = ["Case", "CaseRow", "Prepared", "commit_prepared", "open_prepared", "read_case", "write_case"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A training case.

    Attributes:
        series: Pseudonym.
        image: ``(C, I, J, K)`` float16, normalised, read-only.
        mask: ``(I, J, K)`` channel numbers, read-only.
        foreground: ``(N, 4)``: see `medray.preprocessing.case.sample_foreground`.
    """

    series: str
    image: NDArray[np.float16]
    mask: Mask
    foreground: NDArray[np.int32]


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class CaseRow:
    """One case in ``prepared.json``."""

    series: str
    subject: str
    split: Split
    file: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared cohort.

    Attributes:
        root: Its folder.
        cohort: Id of the cohort version that it was prepared from.
        plan: What it was prepared by.
        cases: What it holds.
    """

    root: Location
    cohort: str
    plan: Plan
    cases: tuple[CaseRow, ...]

    def of(self, split: Split) -> list[CaseRow]:
        """Return the cases of a split."""
        return [case for case in self.cases if case.split == split]

    def subjects(self, split: Split) -> list[str]:
        """Return the subjects of a split, sorted."""
        return sorted({case.subject for case in self.of(split)})


def write_case(target: Location, case: Case) -> None:
    """Write one case."""
    arrays: dict[str, Voxels] = {"image": case.image, "mask": case.mask, "foreground": case.foreground}
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    columns = [pa.array([np.ascontiguousarray(array).tobytes()], pa.large_binary()) for array in arrays.values()]
    batch = pa.record_batch(columns, names=list(arrays))
    batch = batch.replace_schema_metadata({"series": case.series, "arrays": json.dumps(shapes)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    target.write(sink.getvalue())


def read_case(source: Location) -> Case:
    """Read one case: memory-mapped on a local disk, else fetched whole.

    Raises:
        NotFoundError: If it isn't there.
        InputError: If it is damaged.
    """
    try:
        opened = pa.memory_map(source.path) if source.is_local else pa.BufferReader(source.read())
        reader = pa.ipc.open_file(opened)
        batch, facts = reader.get_batch(0), reader.schema.metadata
        shapes: dict[str, Any] = json.loads(facts[b"arrays"])
        arrays = {
            name: np.frombuffer(batch.column(name)[0].as_buffer(), dtype=dtype).reshape(shape)
            for name, (dtype, shape) in shapes.items()
        }
    except FileNotFoundError:
        raise NotFoundError(f"no prepared case {source.path}: run medray prepare again") from None
    except (pa.ArrowInvalid, KeyError, ValueError, OSError) as error:
        raise InputError(f"prepared case {source.path} is damaged ({error}): run medray prepare again") from None
    for array in arrays.values():
        array.flags.writeable = False
    return Case(facts[b"series"].decode(), arrays["image"], arrays["mask"], arrays["foreground"])


def commit_prepared(root: Location, cohort: str, plan: Plan, cases: tuple[CaseRow, ...]) -> Prepared:
    """Write ``prepared.json``: its presence means that every case is there."""
    ordered = tuple(sorted(cases, key=lambda case: case.series))
    record = {
        "schema_version": SCHEMA_VERSION,
        "cohort": cohort,
        "plan": config.dump(plan),
        "cases": [config.dump(case) for case in ordered],
    }
    root.join("prepared.json").write(json.dumps(record, indent=1).encode())
    return Prepared(root, cohort, plan, ordered)


def open_prepared(root: str | Path | Location) -> Prepared:
    """Open a prepared cohort.

    Raises:
        NotFoundError: If there is no complete one.
        ConfigError: If its plan is of another version.
    """
    place = locate(root)
    file = place.join("prepared.json")
    if not file.exists():
        raise NotFoundError(f"no prepared cohort at {place.path}: run medray prepare COHORT PLAN {place.path}")
    try:
        record: Mapping[str, Any] = json.loads(file.read())
    except ValueError:
        raise InputError(f"{file.path} is damaged: run medray prepare again") from None
    plan = read_plan(record["plan"], what=f"the plan in {file.path}")
    cases = tuple(config.load(CaseRow, row, what="prepared.json") for row in record["cases"])
    return Prepared(place, str(record["cohort"]), plan, cases)
