"""Voxels as a header declares them, taken out of bytes that may lie: cut off, too long, or inflating without end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from isal import isal_zlib

from medray.errors import ImageError
from medray.types import Voxels

__all__ = ["GZIP_MAGIC", "inflated", "native", "stored_array"]

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW, ZLIB_WINDOW = 31, 15
"""zlib's wbits for the two wrappings of a deflate stream."""
MEMBER_BYTES, MOST_EMPTY = 64 << 10, 1000
"""What the inflater gets at once, for it copies what a member doesn't need; and members without a byte in a row."""
MAX_BYTES = 16 << 30
MAX_AXIS = 65_536
DEFLATE_ERROR = cast("type[Exception]", isal_zlib.error)


def inflated(data: bytes, limit: int) -> bytes:
    """Inflate at most ``limit`` bytes of a gzip or zlib stream: what the header promises, so that no bomb fills the memory.

    Raises:
        ImageError: If the stream is damaged.
    """
    window = GZIP_WINDOW if data.startswith(GZIP_MAGIC) else ZLIB_WINDOW
    try:
        stream = isal_zlib.decompressobj(wbits=window)
        first = bytes(stream.decompress(data, limit))
        start = len(data) - len(stream.unused_data)
        if not stream.eof or len(first) >= limit or not data.startswith(GZIP_MAGIC, start):
            return first
        return b"".join([first, *_members(memoryview(data)[start:], limit - len(first))])
    except DEFLATE_ERROR as error:
        raise ImageError("truncated", f"the compressed stream is damaged or cut off ({error})") from None


def _members(data: memoryview, limit: int) -> Iterator[bytes]:
    """Inflate further members of a gzip file (RFC 1952 2.2): bgzip writes thousands, each of at most 64 KiB."""
    empty = 0
    while limit > 0 and bytes(data[:2]) == GZIP_MAGIC and empty < MOST_EMPTY:
        stream, made = isal_zlib.decompressobj(wbits=GZIP_WINDOW), 0
        while not stream.eof and len(data) and limit > made:
            window = data[:MEMBER_BYTES]
            part = bytes(stream.decompress(window, limit - made))
            data = data[len(window) - len(stream.unused_data) - len(stream.unconsumed_tail) :]
            made += len(part)
            yield part
        empty = 0 if made else empty + 1
        limit -= made


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
