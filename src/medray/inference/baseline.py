"""A version's reference, by which drift is told: a file beside it, of the same columns as prediction records."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from medray.audit import Event, open_trail
from medray.cohort.parquet import parquet_table
from medray.monitoring.record import PredictionRecord, records_of, table_of
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion

__all__ = ["keep_reference", "read_reference", "without_patient"]

REFERENCE = "reference.parquet"


def read_reference(version: ModelVersion, registry: Registry) -> list[PredictionRecord] | None:
    """Return what is kept beside a version, or None."""
    data = registry.beside(version).kept(REFERENCE)
    return None if data is None else records_of(parquet_table(data))


def keep_reference(
    model: str, reference: Sequence[PredictionRecord], *, why: str = "", registry: Registry | None = None
) -> ModelVersion:
    """Keep a reference beside a version, instead of an older one."""
    store = registry or Registry()
    version = store.resolve(model)
    sink = pa.BufferOutputStream()
    pq.write_table(table_of(reference), sink, compression="zstd")
    open_trail().record([Event("model.reference", str(version), detail=f"{len(reference)} studies: {why}".rstrip(": "))])
    store.beside(version).keep(REFERENCE, sink.getvalue().to_pybytes())
    return version


def without_patient(subjects: Collection[str], series: Collection[str], registry: Registry) -> list[str]:
    """Take a patient out of every version's reference, and return the versions whose reference had them."""
    changed = []
    for version in [version for name in registry.names() for version in registry.versions(name)]:
        found = read_reference(version, registry) or []
        left = [one for one in found if one.subject not in subjects and one.series not in series]
        if len(left) < len(found):
            keep_reference(str(version), left, why="a patient was erased", registry=registry)
            changed.append(str(version))
    return changed
