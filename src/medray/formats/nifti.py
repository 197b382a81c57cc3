"""NIfTI-1 and NIfTI-2 (https://nifti.nimh.nih.gov), single file, plain or gzip.

The affine is the sform where its code says so, else the qform, else the pixdim fallback, as in nibabel's
``get_best_affine``; RAS becomes LPS here and nowhere else. gzip is told by its magic number, never by the name.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, cast

import nibabel
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medray.errors import ImageError
from medray.imaging.geometry import RAS_TO_LPS
from medray.imaging.volume import Volume
from medray.types import Voxels

__all__ = ["is_nifti", "read_nifti", "write_nifti"]

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = 31
"""zlib's wbits for a gzip stream."""
HEAD_BYTES = 348
MAX_HEADER_BYTES = 4096
"""Enough for both headers; what extensions follow is never read."""
DEFLATE_ERROR = cast("type[Exception]", isal_zlib.error)
HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
MAGICS = (b"n+1\x00", b"n+2\x00", b"ni1\x00", b"ni2\x00")


def is_nifti(head: bytes) -> bool:
    """Tell from a file's first few hundred bytes whether it is NIfTI, plain or gzip."""
    plain = _inflate_head(head) if head.startswith(GZIP_MAGIC) else head
    return plain[344:348] in MAGICS or plain[4:8] in MAGICS


def read_nifti(data: bytes) -> Volume:
    """Read a 3-D NIfTI file.

    Args:
        data: The whole file, plain or gzip.

    Returns:
        One channel, voxels in the file's own order and dtype when its scaling is the identity, else float32.

    Raises:
        ImageError: If the file is truncated, isn't NIfTI, isn't 3-D, or has an unusable affine.
    """
    packed = data.startswith(GZIP_MAGIC)
    header = _header(_inflate(data, MAX_HEADER_BYTES) if packed else data)
    try:
        shape, affine = _spatial_shape(header), RAS_TO_LPS @ header.get_best_affine()
        end = int(header.get_data_offset()) + int(np.prod(shape, dtype=np.int64)) * header.get_data_dtype().itemsize
        raw = _inflate(data, end) if packed else data
        voxels = _scaled(_stored(raw, header, shape), header)
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError("not-nifti", f"the header is damaged ({type(error).__name__})") from None
    return Volume(voxels[np.newaxis], affine).checked_finite()


def write_nifti(volume: Volume, *, level: int = 1) -> bytes:
    """Write one channel as a gzip NIfTI-1 file with sform and qform set.

    Args:
        volume: One channel ``(1, I, J, K)``; int64 and float64 are refused, as viewers do.
        level: isal's deflate level, 0 to 3; 1 is twenty times as fast as zlib's 6 for 5 % more bytes.

    Raises:
        ImageError: If there is more than one channel or the dtype has no NIfTI-1 counterpart.
    """
    voxels = volume.voxels
    if voxels.shape[0] != 1 or voxels.dtype in (np.int64, np.uint64, np.float64, np.bool_):
        raise ImageError("not-writable", f"NIfTI takes one channel of up to 32 bits; got {voxels.shape[0]} of {voxels.dtype}")
    image = nibabel.Nifti1Image(voxels[0], RAS_TO_LPS @ volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    plain = BytesIO()
    image.to_stream(plain)
    return bytes(igzip.compress(plain.getvalue(), compresslevel=level, mtime=0))


def _inflate(data: bytes, limit: int) -> bytes:
    """Inflate at most ``limit`` bytes: what the header promises, so that a small file can't fill the memory."""
    try:
        return bytes(isal_zlib.decompressobj(wbits=GZIP_WINDOW).decompress(data, limit))
    except DEFLATE_ERROR as error:
        raise ImageError("truncated", f"the gzip stream is damaged or cut off ({error})") from None


def _inflate_head(head: bytes) -> bytes:
    try:
        return _inflate(head, HEAD_BYTES)
    except ImageError:
        return b""


def _header(raw: bytes) -> Any:
    if len(raw) < 348:
        raise ImageError("truncated", f"{len(raw)} bytes are fewer than a NIfTI header")
    sizes = {struct.unpack(order + "i", raw[:4])[0] for order in "<>"}
    kind = next((HEADER_BYTES[size] for size in sizes if size in HEADER_BYTES), None)
    if kind is None:
        raise ImageError("not-nifti", "the first bytes are no NIfTI header")
    try:
        return kind.from_fileobj(BytesIO(raw), check=False)
    except (HeaderDataError, ImageFileError, WrapStructError, ValueError):
        raise ImageError("truncated", f"{len(raw)} bytes are fewer than the header announces") from None


def _spatial_shape(header: Any) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 3 or any(n < 1 for n in shape) or any(n != 1 for n in shape[3:]):
        raise ImageError("not-3d", f"a single 3-D image is needed; this file's shape is {shape}")
    return shape[0], shape[1], shape[2]


def _stored(raw: bytes, header: Any, shape: tuple[int, int, int]) -> Voxels:
    try:
        dtype = header.get_data_dtype()
    except HeaderDataError as error:
        raise ImageError("not-nifti", f"the data type is unknown ({error})") from None
    if dtype.kind not in "iuf":
        raise ImageError("unsupported-voxels", f"voxels of type {dtype} are not supported; write numbers")
    offset, count = int(header.get_data_offset()), int(np.prod(shape, dtype=np.int64))
    if offset < 0:
        raise ImageError("not-nifti", f"the header puts voxels at byte {offset}")
    if len(raw) < offset + count * dtype.itemsize:
        raise ImageError(
            "truncated", f"the header promises {count * dtype.itemsize} bytes of voxels; {max(0, len(raw) - offset)} are there"
        )
    flat = np.frombuffer(raw, dtype, count, offset)
    return flat.astype(dtype.newbyteorder("="), copy=False).reshape(shape, order="F")


def _scaled(stored: Voxels, header: Any) -> Voxels:
    slope, intercept = header.get_slope_inter()
    slope = 1.0 if slope is None else slope
    intercept = intercept or 0.0
    if (slope, intercept) != (1.0, 0.0):
        return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return stored.astype(np.float32) if stored.dtype.itemsize == 8 or stored.dtype == np.float16 else stored
