"""Read Parquet in the thread that asks."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["parquet_table"]


def parquet_table(data: bytes | pa.Buffer) -> pa.Table:
    """Read a whole file's bytes.

    Arrow's own threads may still hold them when a short process ends, want the interpreter to let them go, and end in
    ``std::terminate`` because there is none any more (apache/arrow#34314): one ``medray plan`` in twenty on a busy machine.

    Raises:
        ArrowInvalid: If they are no Parquet.
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
