"""Volumes and label maps as Arrow rows in Parquet: bytes + dtype + shape, readable by any Parquet reader.

A shard's name is the hash of what it holds, so that equal content is stored once, a second run finds what the first one
wrote, and a changed byte can be told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medray.cohort.parquet import parquet_table
from medray.errors import InputError
from medray.imaging.volume import Volume
from medray.storage.location import Location
from medray.types import Voxels

__all__ = ["Shard", "content_hash", "read_shard", "shard_location", "write_shard"]

SCHEMA = pa.schema(
    [
        ("voxels", pa.large_binary()),
        ("dtype", pa.string()),
        ("shape", pa.list_(pa.int32(), 4)),
        ("affine", pa.list_(pa.float64(), 16)),
        ("meta", pa.string()),
    ]
)
HASH_LETTERS = 32


class Shard(NamedTuple):
    """A shard that is there.

    Attributes:
        digest: The content hash, which names it.
        checksum: The store's own checksum (ETag) of its bytes; empty on a disk.
    """

    digest: str
    checksum: str


def content_hash(volume: Volume) -> str:
    """Return a hash of voxels, dtype, shape, affine and meta that no container format changes."""
    voxels = np.ascontiguousarray(volume.voxels)
    head = json.dumps([voxels.dtype.str, voxels.shape, volume.affine.ravel().tolist(), _meta_json(volume.meta)])
    digest = hashlib.sha256(head.encode())
    digest.update(voxels.data)
    return digest.hexdigest()[:HASH_LETTERS]


def write_shard(folder: Location, volume: Volume) -> Shard:
    """Write one volume as ``part-<hash>.parquet`` unless it is already there.

    Args:
        folder: ``volumes`` or ``labels`` of a cohort.
        volume: Any; a label map is a volume with one uint8 channel.

    Returns:
        The content hash, and the store's own checksum.
    """
    contiguous = volume.with_voxels(np.ascontiguousarray(volume.voxels))
    digest = content_hash(contiguous)
    target = shard_location(folder, digest)
    if target.exists():
        return Shard(digest, target.checksum())
    row: dict[str, Any] = {
        "voxels": _one_binary(contiguous.voxels),
        "dtype": [contiguous.voxels.dtype.str],
        "shape": [list(contiguous.voxels.shape)],
        "affine": [contiguous.affine.ravel().tolist()],
        "meta": [_meta_json(volume.meta)],
    }
    sink = pa.BufferOutputStream()
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table(row, schema=SCHEMA), sink, **options)
    return Shard(digest, target.write(sink.getvalue()))


def shard_location(folder: Location, digest: str) -> Location:
    """Return where a shard lies."""
    return folder.join(f"part-{digest}.parquet")


def read_shard(folder: Location, digest: str) -> Volume:
    """Read a volume; its voxels are a read-only view of the Arrow buffer.

    Raises:
        NotFoundError: If the shard isn't there.
        InputError: If it can't be read as a shard.
    """
    data = shard_location(folder, digest).read()
    try:
        table = parquet_table(data)
        row = {name: table.column(name)[0] for name in SCHEMA.names}
    except (pa.ArrowInvalid, OSError, KeyError, IndexError) as error:
        raise InputError(f"shard {digest} is damaged ({str(error).splitlines()[0]}); ingest its source again") from None
    voxels = np.frombuffer(row["voxels"].as_buffer(), dtype=row["dtype"].as_py()).reshape(row["shape"].as_py())
    voxels.flags.writeable = False
    affine: NDArray[np.float64] = np.array(row["affine"].as_py()).reshape(4, 4)
    return Volume(voxels, affine, json.loads(row["meta"].as_py()))


def _one_binary(voxels: Voxels) -> pa.Array:
    """Wrap an array's bytes as a column of one value, without a copy."""
    offsets = np.array([0, voxels.nbytes], dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(voxels)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)


def _meta_json(meta: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(meta.items())))
