"""`PredictionRecord`: what is kept of one prediction. No voxel, no name, nothing that isn't a number, a hash or a pseudonym."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medray.monitoring.drift import Sample

__all__ = ["SCHEMA", "PredictionRecord", "Role", "records_of", "sample_of", "table_of"]

Role = Literal["champion", "challenger", "shadow"]
UNKNOWN = {"OT": ""}
"""DICOM's "other" is what a file says that says nothing of its modality."""
NUMBERS, WORDS = pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRecord:
    """One prediction.

    Attributes:
        id: Its own; a reply carries it as ``X-Medray-Prediction``.
        at: When, in UTC.
        model: The model's name.
        version: Its number.
        task: What was asked.
        role: Why this version answered; a shadow's answer nobody saw.
        beside: Of a copy: id of the prediction whose image it is, too.
        status: HTTP's.
        reason: Of a refusal: its slug.
        input_sha256: Of the image's bytes, as they came: of several files of their hashes, sorted. Empty where the process
            ended before it was taken.
        input_bytes: How many.
        reference: Where the image was, where the request said so: a URI, ``study/series``, or an image of the cohort, all as
            pseudonyms but for the URI, which is kept where it lies below an allowed source.
        subject: Pseudonym of the patient, of DICOM where there is a key.
        study: Of the study.
        series: Of the series.
        plan_sha256: Of the model's plan, by which the image was prepared.
        runtime: What ran the network: ``torch``, ``openvino``; with ``+bf16`` where it may run in bfloat16.
        machine: Kind of processor, for who replays it elsewhere.
        device: ``cpu``, or the GPU's name.
        software: What ran it, with versions, such as ``medray 0.1.0, torch 2.13.0``.
        threads: Cores that the network might use.
        together: How many images went through the network at once.
        output_sha256: Of the answer: a mask's voxels, or what was said.
        numbers: Of image and answer: see `medray.inference.seen`. Empty where there was no time to look.
        groups: Such as modality, site and manufacturer.
        latencies: Stage to milliseconds.
        agreement: Of a copy: target to how far it agrees with the prediction beside it, 0 to 1.
        embedding: What the network's deepest layer made of the image.
    """

    id: str
    at: datetime
    model: str
    version: int
    task: str
    role: Role = "champion"
    beside: str = ""
    status: int = 200
    reason: str = ""
    input_sha256: str = ""
    input_bytes: int = 0
    reference: str = ""
    subject: str = ""
    study: str = ""
    series: str = ""
    plan_sha256: str = ""
    runtime: str = "torch"
    machine: str = ""
    device: str = ""
    software: str = ""
    threads: int = 0
    together: int = 1
    output_sha256: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    latencies: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, float] = field(default_factory=dict)
    embedding: tuple[float, ...] = ()

    @property
    def total_ms(self) -> float:
        """How long the answer took, waiting included."""
        return sum(self.latencies.values())


KINDS: dict[str, pa.DataType] = {
    "str": pa.string(),
    "Role": pa.string(),
    "int": pa.int64(),
    "datetime": pa.timestamp("us", tz="UTC"),
    "Mapping[str, float]": NUMBERS,
    "Mapping[str, str]": WORDS,
    "tuple[float, ...]": pa.list_(pa.float32()),
}
SCHEMA = pa.schema([(one.name, KINDS[str(one.type)]) for one in fields(PredictionRecord)])
"""Of the Parquet files: a column a field."""
MAPS = [one.name for one in fields(PredictionRecord) if str(one.type).startswith("Mapping")]


def table_of(records: Iterable[PredictionRecord]) -> pa.Table:
    """Return records as a table."""
    rows = [{one.name: getattr(record, one.name) for one in fields(record)} for record in records]
    for row in rows:
        for name in MAPS:
            row[name] = list(row[name].items())
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def records_of(table: pa.Table) -> list[PredictionRecord]:
    """Return a table's records; columns that an older medray didn't write are left as they are by default."""
    known = {one.name for one in fields(PredictionRecord)} & set(table.column_names)
    return [PredictionRecord(**_row(row, known)) for row in table.to_pylist()]


def _row(row: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    found = {name: row[name] for name in known if row[name] is not None}
    return (
        found | {name: dict(found[name]) for name in MAPS if name in found} | {"embedding": tuple(found.get("embedding", ()))}
    )


def sample_of(records: Iterable[PredictionRecord]) -> Sample:
    """Return what drift is told by, of those records that were looked at."""
    rows = [record for record in records if record.numbers]
    names = sorted({name for row in rows for name in row.numbers})
    kinds = sorted({kind for row in rows for kind in row.groups})
    numbers = {name: np.array([row.numbers.get(name, np.nan) for row in rows], np.float64) for name in names}
    labels = {kind: [UNKNOWN.get(row.groups.get(kind, ""), row.groups.get(kind, "")) for row in rows] for kind in kinds}
    return Sample(len(rows), numbers, labels, _embeddings(rows))


def _embeddings(rows: list[PredictionRecord]) -> NDArray[np.float32] | None:
    width = max((len(row.embedding) for row in rows), default=0)
    if not width:
        return None
    nothing = (np.nan,) * width
    return np.array([row.embedding if len(row.embedding) == width else nothing for row in rows], np.float32)
