"""NIfTI-1 and NIfTI-2 (https://nifti.nimh.nih.gov), single file, plain or gzip.

The affine is the sform where its code says so, else the qform, else the pixdim fallback, as in nibabel's
``get_best_affine``; RAS becomes LPS here and nowhere else. gzip is told by its magic number, never by the name.
"""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from typing import Any

import nibabel
import numpy as np
from isal import igzip
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medray.errors import ImageError
from medray.formats.raw import GZIP_MAGIC, byte_size, inflated, native, stored_array
from medray.imaging.geometry import RAS_TO_LPS, closest_lps
from medray.imaging.volume import Volume
from medray.types import Affine, Voxels

__all__ = ["is_nifti", "nifti_bytes", "read_nifti", "write_nifti"]

HEAD_BYTES = 348
UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""xyzt_units: metre, mm, micron."""
MAX_HEADER_BYTES = 4096
"""Enough for both headers; what extensions follow is never read."""
HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
MAGICS = (b"n+1\x00", b"n+2\x00", b"ni1\x00", b"ni2\x00")


def is_nifti(head: bytes) -> bool:
    """Tell from a file's first few hundred bytes whether it is NIfTI, plain or gzip."""
    plain = _inflate_head(head) if head.startswith(GZIP_MAGIC) else head
    return plain[344:348] in MAGICS or plain[4:8] in MAGICS


def read_nifti(data: bytes) -> Volume:
    """Read a NIfTI file.

    Args:
        data: The whole file, plain or gzip. Its free text and extensions are never read.

    Returns:
        Voxels in the file's own order and dtype when its scaling is the identity, else float32. A fourth axis, or RGB, is
        channels.

    Raises:
        ImageError: If the file is truncated, isn't NIfTI, has fewer than three or more than four axes, or its two affines
            contradict each other.
    """
    packed = data.startswith(GZIP_MAGIC)
    header = _header(inflated(data, MAX_HEADER_BYTES) if packed else data)
    try:
        shape, affine = _shape(header), RAS_TO_LPS @ _affine(header)
        dtype, offset = _dtype(header), int(header.get_data_offset())
        raw = inflated(data, max(0, offset) + byte_size(dtype, shape)) if packed else data
        voxels = _channels_first(_scaled(stored_array(raw, dtype, shape, offset), header))
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError("not-nifti", f"the header is damaged ({type(error).__name__})") from None
    return Volume(voxels, affine).checked_finite()


def nifti_bytes(data: bytes) -> int:
    """Return how many bytes of voxels a file's header promises; raises what `read_nifti` does."""
    header = _header(inflated(data, MAX_HEADER_BYTES) if data.startswith(GZIP_MAGIC) else data)
    return byte_size(_dtype(header), _shape(header))


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


def _inflate_head(head: bytes) -> bytes:
    try:
        return inflated(head, HEAD_BYTES)
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of extensions, which nobody reads
            header = kind.from_fileobj(BytesIO(raw), check=False)
    except (HeaderDataError, ImageFileError, WrapStructError, ValueError):
        raise ImageError("truncated", f"{len(raw)} bytes are fewer than the header announces") from None
    if bytes(header["magic"]).startswith((b"ni1", b"ni2")):
        raise ImageError("detached", "the voxels are in another file: write a single .nii, not .hdr and .img")
    return header


def _shape(header: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:  # a vector image: its components are the fifth axis
        shape = (*shape[:3], shape[4])
    if not 3 <= len(shape) <= 4 or any(n < 1 for n in shape):
        raise ImageError("not-3d", f"a 3-D image, alone or several on one grid, is needed; this file's shape is {shape}")
    return shape


def _affine(header: Any) -> Affine:
    """Return the sform where its code says so, else the qform, else the pixdim fallback.

    Raises:
        ImageError: If both are set and point different ways: one of them has left and right, or some axes, mixed up.
    """
    affine: Affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        other = np.asarray(header.get_qform(), dtype=np.float64)
        usable = np.isfinite(affine).all() and np.isfinite(other).all()
        if usable and min(abs(np.linalg.det(affine[:3, :3])), abs(np.linalg.det(other[:3, :3]))) > 0:
            mirrored = np.linalg.det(affine[:3, :3]) * np.linalg.det(other[:3, :3]) < 0
            if mirrored or closest_lps(affine) != closest_lps(other):
                raise ImageError(
                    "sform-qform", "sform and qform give the axes different directions: set one, or make them agree"
                )
    return np.diag([*[UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0]) @ affine


def _dtype(header: Any) -> Any:
    try:
        dtype = header.get_data_dtype()
    except HeaderDataError as error:
        raise ImageError("not-nifti", f"the data type is unknown ({error})") from None
    if dtype.kind not in "iuf" and dtype.names != ("R", "G", "B"):
        raise ImageError("unsupported-voxels", f"voxels of type {dtype} are not supported; write numbers")
    if dtype.itemsize == 16:
        raise ImageError("unsupported-voxels", f"voxels of type {dtype} are not supported; write 32-bit floats")
    return dtype


def _channels_first(stored: Voxels) -> Voxels:
    return np.moveaxis(stored, 3, 0) if stored.ndim == 4 else stored[np.newaxis]


def _scaled(stored: Voxels, header: Any) -> Voxels:
    if stored.dtype.names:
        return np.stack([stored[name] for name in stored.dtype.names], axis=-1)
    slope, intercept = header.get_slope_inter()
    slope = 1.0 if slope is None else slope
    intercept = intercept or 0.0
    if (slope, intercept) != (1.0, 0.0):
        return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return native(stored)
