"""The rows of a cohort's manifest and quarantine, and the tables that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from medray import config
from medray.cohort.fingerprint import SeriesStatistics
from medray.cohort.parquet import parquet_table
from medray.errors import InputError
from medray.storage.location import Location

__all__ = ["QUARANTINE_SCHEMA", "SERIES_SCHEMA", "QuarantineRow", "SeriesRow", "read_table", "write_table"]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class SeriesRow:
    """One series of a manifest.

    Attributes:
        subject: Pseudonym of the patient.
        study: Pseudonym of the study.
        series: Pseudonym of the series; the row's key.
        time_point: 0 for the subject's first study, 1 for the next one.
        when: What orders studies, sealed: only the pseudonym key's holder can open it.
        modality: DICOM modality; ``"OT"`` where the source doesn't say.
        plane: Of a DICOM stack: rows, columns and direction cosines of its slices, by which it is known again; else empty.
        channels: Of the volume: 1, or time points, echoes, frames and colour samples.
        shape: Voxels along L, P, S.
        spacing_mm: Voxel spacing along L, P, S.
        source_hash: Hash of the source's bytes.
        intake: What tells this reading of these very files from any other, so that a rerun needn't do it again.
        instances: How many DICOM objects it was read from, or 1.
        volume: Content hash of the volume, which names its shard.
        volume_checksum: The store's own checksum (ETag) of the volume's shard; empty on a disk.
        label: Content hash of the label map, or empty.
        label_checksum: The store's own checksum of the label's shard.
        findings: What is seen in the image, from a table of labels.
        statistics: For the fingerprint.
        synthetic: The generator that made it, as name/version; empty for what was acquired.
    """

    subject: str
    study: str
    series: str
    time_point: int
    when: str
    modality: str
    plane: tuple[float, ...]
    channels: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    source_hash: str
    intake: str
    instances: int
    volume: str
    volume_checksum: str
    label: str
    label_checksum: str
    findings: tuple[str, ...]
    statistics: SeriesStatistics
    synthetic: str = ""

    @property
    def origin(self) -> str:
        """Pseudonym of the DICOM series that the row is a part of; means nothing for a file."""
        return self.series.rpartition("-")[0]

    @property
    def present(self) -> frozenset[str]:
        """What is known to be in the image: findings from a table, and labels that some voxel of the label map has."""
        return frozenset(self.findings) | {name for name, count in self.statistics.label_voxels.items() if count}


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class QuarantineRow:
    """One thing that could not be taken in.

    Attributes:
        source: Pseudonym of the file or series; ``medray cohort quarantine --source`` finds the file again.
        reason: A slug.
        detail: A sentence without patient data.
        intake: What tells this attempt from any other; empty for what was refused at first sight.
    """

    source: str
    reason: str
    detail: str
    intake: str = ""


NAME_LETTERS = 16
STATISTICS = pa.struct(
    [
        ("percentiles", pa.list_(pa.float64(), 3)),
        ("mean", pa.float64()),
        ("deviation", pa.float64()),
        ("label_voxels", pa.map_(pa.string(), pa.int64())),
    ]
)
SERIES_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("study", pa.string()),
        ("series", pa.string()),
        ("time_point", pa.int32()),
        ("when", pa.string()),
        ("modality", pa.string()),
        ("plane", pa.list_(pa.float64())),
        ("channels", pa.int32()),
        ("shape", pa.list_(pa.int32(), 3)),
        ("spacing_mm", pa.list_(pa.float64(), 3)),
        ("source_hash", pa.string()),
        ("intake", pa.string()),
        ("instances", pa.int32()),
        ("volume", pa.string()),
        ("volume_checksum", pa.string()),
        ("label", pa.string()),
        ("label_checksum", pa.string()),
        ("findings", pa.list_(pa.string())),
        ("statistics", STATISTICS),
        ("synthetic", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "reason", "detail", "intake")])


def write_table(root: Location, stem: str, rows: Iterable[Any], schema: pa.Schema) -> tuple[str, str]:
    """Write rows as ``STEM-<hash>.parquet`` unless that is there, and return the file's name and SHA-256."""
    plain = [config.dump(row) for row in rows]
    for row in plain:
        if "statistics" in row:
            row["statistics"]["label_voxels"] = list(row["statistics"]["label_voxels"].items())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(plain, schema=schema), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    name = f"{stem}-{digest[:NAME_LETTERS]}.parquet"
    if not root.join(name).exists():
        root.join(name).write(data)
    return name, digest


def read_table(source: Location) -> list[dict[str, Any]]:
    """Read rows as plain data.

    Raises:
        InputError: If it is damaged.
    """
    data = source.read()
    try:
        rows: list[dict[str, Any]] = parquet_table(data).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.path} is damaged ({type(error).__name__}): ingest again, or go back to a version") from None
    for row in rows:
        if "statistics" in row:
            row["statistics"]["label_voxels"] = dict(row["statistics"]["label_voxels"])
    return rows
