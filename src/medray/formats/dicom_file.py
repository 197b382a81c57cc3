"""One DICOM file to a data set, in silence and within bounds (PS3.5, PS3.10)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

from medray.errors import ImageError, MedrayError

__all__ = ["DEFLATED", "frame_count", "numbers", "parse", "reading", "silence", "starts_bare", "text", "without_meta"]

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # see `silence`

DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_BYTES = 4 << 30
"""Of an inflated data set."""


@contextmanager
def silence() -> Iterator[None]:
    """Keep pydicom quiet: its warnings repeat the values that they are about, and those may be a patient's."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reading() -> Iterator[None]:
    """Read in silence.

    Raises:
        ImageError: For whatever pydicom stumbles over: it decodes a value when it is asked for, so that damage shows anywhere.
    """
    with silence():
        try:
            yield
        except MedrayError:
            raise
        except Exception as error:  # noqa: BLE001
            raise ImageError("unreadable-dicom", f"the object is damaged ({type(error).__name__})") from None


def starts_bare(data: bytes) -> bool:
    """Tell whether bytes begin as a data set without a preamble: an element of group 2 or 8, in little endian."""
    group, element, length = data[:2], int.from_bytes(data[2:4], "little"), int.from_bytes(data[4:8], "little")
    explicit = data[4:6] in {b"UL", b"CS", b"UI", b"OB", b"DA", b"SH"}
    return (
        group in {b"\x02\x00", b"\x08\x00"} and element <= 0x0020 and (explicit or (group == b"\x08\x00" and 0 < length <= 64))
    )


def parse(data: bytes, **options: Any) -> Dataset:
    """Parse one file.

    Raises:
        ImageError: If it isn't DICOM, is damaged, or inflates to more than it may.
    """
    try:
        with silence():
            dataset = dcmread(BytesIO(_inflated(data)), force=starts_bare(data), **options)
            dataset.get("Modality")
            return dataset
    except InvalidDicomError:
        raise ImageError("not-dicom", "the file has no DICOM preamble; it isn't a DICOM file") from None
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on damaged files
        raise ImageError("unreadable-dicom", f"the file is damaged ({type(error).__name__})") from None


def without_meta(data: bytes) -> bytes:
    """Return what follows the file meta group, which each sender writes its own way (PS3.10 7.1)."""
    if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        return data
    return data[144 + int.from_bytes(data[140:144], "little") :]


def numbers(item: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    """Return a multi-valued attribute as floats.

    Raises:
        ImageError: If it is missing or isn't ``count`` numbers.
    """
    try:
        values = np.array([float(value) for value in item[keyword].value], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise ImageError("no-geometry", f"{keyword} is missing or isn't {count} numbers")
    return values


def text(item: Dataset, keyword: str) -> str:
    """Return an attribute as text; empty where it is missing or can't be read."""
    try:
        value = item.get(keyword)
    except Exception:  # noqa: BLE001 - a damaged value is read when it is asked for
        return ""
    return "" if value is None else str(value).strip()


def frame_count(dataset: Dataset) -> int:
    """Return NumberOfFrames, 1 where it is missing."""
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        raise ImageError("bad-frames", "NumberOfFrames isn't a number") from None


def _inflated(data: bytes) -> bytes:
    """Inflate a deflated data set here, where growth is bounded (PS3.5 A.5); anything else stays as it is."""
    if DEFLATED.encode() not in data[:1024]:
        return data
    meta = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=[]).file_meta
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return data
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    body = isal_zlib.decompressobj(wbits=-15).decompress(data[start:], MAX_BYTES)
    if len(body) >= MAX_BYTES:
        raise ImageError("too-large", f"the data set inflates to more than {MAX_BYTES >> 30} GiB")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = BytesIO()
    head.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(head, meta)
    return head.getvalue() + bytes(body)
