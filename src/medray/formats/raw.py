"""Voxels as a header declares them, taken out of bytes that may lie: cut off, too long, or inflating without end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from isal import isal_zlib

from medray.errors import ImageError
from medray.types import Voxels

__all__ = ["GZIP_MAGIC", "inflated", "native", "stored_array"]

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW, ZLIB_WINDOW = 31, 15
"""zlib's wbits for the two wrappings of a deflate stream."""
MAX_BYTES = 16 << 30
MAX_AXIS = 65_536
DEFLATE_ERROR = cast("type[Exception]", isal_zlib.error)


def inflated(data: bytes, limit: int) -> bytes:
    """Inflate at most ``limit`` bytes of a gzip or zlib stream: what the header promises, so that no bomb fills the memory.

    Raises:
        ImageError: If the stream is damaged.
    """
    window = GZIP_WINDOW if data.startswith(GZIP_MAGIC) else ZLIB_WINDOW
    parts: list[bytes] = []
    try:
        while data and limit > 0:  # a gzip file is one member after the other (RFC 1952 2.2): bgzip writes thousands
            stream = isal_zlib.decompressobj(wbits=window)
            parts.append(bytes(stream.decompress(data, limit)))
            limit -= len(parts[-1])
            data = stream.unused_data if stream.eof and stream.unused_data.startswith(GZIP_MAGIC) else b""
    except DEFLATE_ERROR as error:
        raise ImageError("truncated", f"the compressed stream is damaged or cut off ({error})") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def stored_array(raw: bytes, dtype: np.dtype[np.generic], shape: Sequence[int], offset: int = 0) -> Voxels:
    """View bytes as an array in Fortran order, in the machine's byte order.

    Raises:
        ImageError: If the shape is absurd or the bytes are fewer than it needs.
    """
    size = byte_size(dtype, shape)
    if offset < 0:
        raise ImageError("bad-header", f"the header puts voxels at byte {offset}")
    if len(raw) < offset + size:
        raise ImageError("truncated", f"the header promises {size} bytes of voxels; {max(0, len(raw) - offset)} are there")
    flat = np.frombuffer(raw, dtype, size // dtype.itemsize, offset)
    return flat.astype(dtype.newbyteorder("="), copy=False).reshape(tuple(shape), order="F")


def byte_size(dtype: np.dtype[np.generic], shape: Sequence[int]) -> int:
    """Return how many bytes an array of that shape has.

    Raises:
        ImageError: If an axis is empty or absurd, or the whole is more than a scan can be.
    """
    if any(not 1 <= int(n) <= MAX_AXIS for n in shape):
        raise ImageError("bad-shape", f"the header's shape {tuple(int(n) for n in shape)} is not one of an image")
    size = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if size > MAX_BYTES:
        raise ImageError("too-large", f"the header promises more than {MAX_BYTES >> 30} GiB of voxels")
    return size


def native(voxels: Voxels) -> Voxels:
    """Return voxels of a type that a shard holds: 64-bit and half floats become float32, 64-bit integers too."""
    if voxels.dtype.kind not in "iuf":
        raise ImageError("unsupported-voxels", f"voxels of type {voxels.dtype} are not supported; write numbers")
    return voxels.astype(np.float32) if voxels.dtype.itemsize == 8 or voxels.dtype == np.float16 else voxels
