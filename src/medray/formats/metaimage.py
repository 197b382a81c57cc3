"""MetaImage with its data attached, ``.mha`` (https://itk.org/Wiki/MetaIO/Documentation), raw or zlib. Its world is LPS."""

from __future__ import annotations

import numpy as np

from medray.errors import ImageError
from medray.formats.raw import byte_size, inflated, native, stored_array
from medray.imaging.volume import Volume

__all__ = ["is_metaimage", "read_metaimage"]

MAX_HEADER_BYTES = 1 << 16
LAST_KEY = b"ElementDataFile"
DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def is_metaimage(head: bytes) -> bool:
    """Tell from a file's first bytes whether it is a MetaImage."""
    return head.startswith((b"ObjectType", b"NDims")) and b"DimSize" in head


def read_metaimage(data: bytes) -> Volume:
    """Read a 3-D image.

    Args:
        data: The whole file.

    Returns:
        ``(C, I, J, K)`` in the file's own voxel order.

    Raises:
        ImageError: If it isn't a MetaImage, keeps its data elsewhere, or isn't 3-D.
    """
    fields, start = _header(data)
    if fields["ElementDataFile"] != "LOCAL":
        raise ImageError("detached", "the voxels are in another file: attach them (.mha, not .mhd)")
    if fields.get("BinaryData", "True").lower() == "false":
        raise ImageError("unsupported-encoding", "voxels as text are not supported: write them binary")
    try:
        shape = [int(word) for word in fields["DimSize"].split()]
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        big = "true" in (fields.get(key, "").lower() for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
        dtype = np.dtype((">" if big else "<") + DTYPES[fields["ElementType"]])
        affine = _affine(fields)
    except (KeyError, ValueError):
        raise ImageError("bad-header", "DimSize, ElementType or the geometry is missing or not understood") from None
    if len(shape) != 3:
        raise ImageError("not-3d", f"a 3-D image is needed; this file's shape is {tuple(shape)}")
    body = data[start:]
    if fields.get("CompressedData", "").lower() == "true":
        body = inflated(body, byte_size(dtype, [channels, *shape]))
    voxels = native(stored_array(body, dtype, [channels, *shape]))
    return Volume(voxels, affine).checked_finite()


def _header(data: bytes) -> tuple[dict[str, str], int]:
    last = data.find(LAST_KEY, 0, MAX_HEADER_BYTES)
    end = data.find(b"\n", last, MAX_HEADER_BYTES)
    if not is_metaimage(data[:MAX_HEADER_BYTES]) or last < 0 or end < 0:
        raise ImageError("not-metaimage", "the file has no MetaImage header that ends with ElementDataFile")
    pairs = [line.partition("=") for line in data[:end].decode("latin-1").splitlines()]
    return {name.strip(): value.strip() for name, sign, value in pairs if sign}, end + 1


def _affine(fields: dict[str, str]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    def numbers(*keys: str, default: str) -> list[float]:
        found = next((fields[key] for key in keys if key in fields), default)
        return [float(word) for word in found.split()]

    affine = np.eye(4)
    # The file lists the direction of each axis in turn, so that its rows are the affine's columns.
    directions = np.array(numbers("TransformMatrix", "Rotation", "Orientation", default="1 0 0 0 1 0 0 0 1")).reshape(3, 3)
    spacing = np.array(numbers("ElementSpacing", "ElementSize", default="1 1 1"))
    affine[:3, :3] = directions.T * spacing
    affine[:3, 3] = numbers("Offset", "Origin", "Position", default="0 0 0")
    return affine
