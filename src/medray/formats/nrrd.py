"""NRRD with its data attached (https://teem.sourceforge.net/nrrd/format.html), raw or gzip.

Spatial axes are those with a direction; one other axis, wherever it stands, is channels. RAS and LAS spaces become LPS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medray.errors import ImageError
from medray.formats.raw import byte_size, inflated, native, stored_array
from medray.imaging.volume import Volume

__all__ = ["is_nrrd", "nrrd_bytes", "read_nrrd", "write_nrrd"]

MAGIC = b"NRRD000"
MAX_HEADER_BYTES = 1 << 20
TYPES = {
    "int8": ("signed char", "int8", "int8_t"),
    "uint8": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "uint16": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "int32": ("int", "signed int", "int32", "int32_t"),
    "uint32": ("uint", "unsigned int", "uint32", "uint32_t"),
    "int64": ("longlong", "long long", "int64", "int64_t"),
    "uint64": ("ulonglong", "unsigned long long", "uint64", "uint64_t"),
    "float32": ("float",),
    "float64": ("double",),
}
DTYPES = {name: np.dtype(dtype) for dtype, names in TYPES.items() for name in names}
TO_LPS = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip


def is_nrrd(head: bytes) -> bool:
    """Tell from a file's first bytes whether it is NRRD."""
    return head.startswith(MAGIC)


def read_nrrd(data: bytes) -> Volume:
    """Read an image.

    Args:
        data: The whole file.

    Returns:
        ``(C, I, J, K)`` in the file's own voxel order.

    Raises:
        ImageError: If it isn't NRRD, keeps its data elsewhere, or has no geometry.
    """
    fields, start = _header(data)
    if "data file" in fields or "datafile" in fields:
        raise ImageError("detached", "the voxels are in another file: attach them (.nrrd, not .nhdr)")
    skips = [fields.get(key, "0") for key in ("byte skip", "line skip", "byteskip", "lineskip")]
    if any(skip not in {"0", ""} for skip in skips):
        raise ImageError("unsupported-encoding", "byte skip and line skip are not supported: write the file without")
    if any(unit.strip('"') not in {"mm", ""} for unit in fields.get("space units", "").split()):
        raise ImageError("bad-header", "space units other than mm are not supported")
    shape, dtype, encoding = _layout(fields)
    if encoding not in {"raw", "gzip", "gz"}:
        raise ImageError("unsupported-encoding", f"the encoding {encoding[:12]!r} is not supported: use raw or gzip")
    body = data[start:] if encoding == "raw" else inflated(data[start:], byte_size(dtype, shape))
    voxels = native(stored_array(body, dtype, shape))
    directions = _directions(fields, len(shape))
    spatial = [axis for axis, direction in enumerate(directions) if direction is not None]
    others = [axis for axis in range(len(shape)) if axis not in spatial]
    if len(spatial) != 3 or len(others) > 1:
        raise ImageError("no-geometry", f"three axes with directions and at most one without are needed; got {len(spatial)}")
    ordered = voxels.transpose(*others, *spatial)
    return Volume(ordered if others else ordered[np.newaxis], _affine(fields, directions, spatial)).checked_finite()


def nrrd_bytes(data: bytes) -> int:
    """Return how many bytes of voxels a file's header promises; raises what `read_nrrd` does."""
    shape, dtype, _ = _layout(_header(data)[0])
    return byte_size(dtype, shape)


def write_nrrd(volume: Volume, *, level: int | None = 1, facts: Mapping[str, str] | None = None) -> bytes:
    """Write a volume as one NRRD, axes I, J, K, then channels if there are several.

    Args:
        volume: What to write.
        level: Of gzip, 0 to 3; None writes raw voxels.
        facts: Key/value pairs of the header.
    """
    voxels = volume.voxels if volume.voxels.shape[0] > 1 else volume.voxels[0]
    ordered = np.moveaxis(voxels, 0, -1) if voxels.ndim == 4 else voxels
    vectors = ["({:.17g},{:.17g},{:.17g})".format(*column) for column in volume.affine[:3, :3].T]
    names = {dtype: names[-1] for dtype, names in TYPES.items()}
    lines = [
        "NRRD0004",
        f"type: {names[str(ordered.dtype.newbyteorder('='))]}",
        f"dimension: {ordered.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, ordered.shape))}",
        f"space directions: {' '.join([*vectors, *(['none'] if ordered.ndim == 4 else [])])}",
        "endian: little",
        f"encoding: {'raw' if level is None else 'gzip'}",
        "space origin: ({:.17g},{:.17g},{:.17g})".format(*volume.affine[:3, 3]),
        *(f"{key}:={value}" for key, value in (facts or {}).items()),
    ]
    body = np.asfortranarray(ordered, dtype=ordered.dtype.newbyteorder("<")).tobytes(order="F")
    return "\n".join(lines).encode() + b"\n\n" + (body if level is None else _deflated(body, level))


def _deflated(body: bytes, level: int) -> bytes:
    from isal import igzip  # noqa: PLC0415 - only writing needs it

    return bytes(igzip.compress(body, compresslevel=level, mtime=0))


def _header(data: bytes) -> tuple[dict[str, str], int]:
    end = re.search(rb"\r?\n\r?\n", data[:MAX_HEADER_BYTES])
    if not is_nrrd(data) or end is None:
        raise ImageError("not-nrrd", "the file has no NRRD header with an empty line after it")
    fields = {}
    for line in data[: end.start()].decode("latin-1").splitlines()[1:]:
        name, sign, value = line.partition(":")
        if sign and not line.startswith("#") and not value.startswith("="):
            fields[name.strip().lower()] = value.strip()
    return fields, end.end()


def _layout(fields: dict[str, str]) -> tuple[list[int], np.dtype[np.generic], str]:
    try:
        shape = [int(word) for word in fields["sizes"].split()]
        dtype = DTYPES[fields["type"].lower()]
        if dtype.itemsize > 1:
            dtype = dtype.newbyteorder(">" if fields["endian"].lower() == "big" else "<")
        return shape, dtype, fields["encoding"].lower()
    except (KeyError, ValueError):
        raise ImageError("bad-header", "type, sizes, endian or encoding is missing or not understood") from None


def _directions(fields: dict[str, str], count: int) -> list[NDArray[np.float64] | None]:
    words = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    if len(words) != count:
        raise ImageError("no-geometry", "space directions are missing or not one an axis")
    return [None if word == "none" else _vector(word) for word in words]


def _vector(word: str) -> NDArray[np.float64]:
    try:
        vector = np.array([float(part) for part in word.strip("() ").split(",")])
    except ValueError:
        vector = np.empty(0)
    if vector.shape != (3,):
        raise ImageError("no-geometry", "a direction or the origin isn't three numbers")
    return vector


def _affine(fields: dict[str, str], directions: list[NDArray[np.float64] | None], spatial: list[int]) -> NDArray[np.float64]:
    signs = TO_LPS.get(fields.get("space", "").lower())
    if signs is None:
        raise ImageError("no-geometry", "the space is missing or none of LPS, RAS and LAS")
    affine = np.eye(4)
    for column, axis in enumerate(spatial):
        affine[:3, column] = directions[axis]
    affine[:3, 3] = _vector(fields.get("space origin", ""))
    affine[:3] *= np.array(signs, dtype=np.float64)[:, np.newaxis]
    return affine
