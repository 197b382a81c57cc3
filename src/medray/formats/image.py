"""One image from bytes or a path, whatever its format: NIfTI, a DICOM file, a zip or a folder of DICOM."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Literal

from medray.errors import ImageError, NotFoundError
from medray.formats.dicom import is_dicom, read_dicom_header, read_dicom_series
from medray.formats.nifti import is_nifti, read_nifti
from medray.imaging.volume import Volume

__all__ = ["Kind", "read_image", "read_image_path", "sniff"]

Kind = Literal["nifti", "dicom", "zip"]
HEAD_BYTES = 65536
MAX_INFLATED_BYTES = 8 * 2**30


def sniff(data: bytes) -> Kind | None:
    """Tell the format from the first bytes, never from a name."""
    if data.startswith(b"PK\x03\x04"):
        return "zip"
    if is_dicom(data[:HEAD_BYTES]):
        return "dicom"
    return "nifti" if is_nifti(data[:HEAD_BYTES]) else None


def read_image(data: bytes) -> Volume:
    """Read one image.

    Args:
        data: A NIfTI file, a DICOM file, or a zip with the DICOM files of one series.

    Raises:
        ImageError: If it is none of these, or can't be read.
    """
    kind = sniff(data)
    if kind == "nifti":
        return read_nifti(data)
    if kind == "dicom":
        return _one_series([data])
    if kind == "zip":
        return _one_series(_unzip(data))
    raise ImageError("unknown-format", "the content is no NIfTI, DICOM or zip of DICOM")


def read_image_path(path: Path) -> Volume:
    """Read one image from a file, or a DICOM series from a folder.

    Raises:
        NotFoundError: If there is nothing at the path.
        ImageError: If it can't be read.
    """
    if path.is_dir():
        return _one_series(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())
    if not path.is_file():
        raise NotFoundError(f"no file or folder {path}")
    return read_image(path.read_bytes())


def _one_series(files: Iterable[bytes]) -> Volume:
    found = [data for data in files if is_dicom(data)]
    if not found:
        raise ImageError("not-dicom", "no DICOM file was found")
    headers = [read_dicom_header(data) for data in found]
    if len({header.series for header in headers}) > 1:
        raise ImageError("several-series", "one series is needed; these files belong to several")
    unique = {header.instance or str(index): data for index, (header, data) in enumerate(zip(headers, found, strict=True))}
    return read_dicom_series(list(unique.values()))


def _unzip(data: bytes) -> list[bytes]:
    """Inflate every entry in memory: names are never used as paths, and sizes are bounded before and while reading."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry in entries) > MAX_INFLATED_BYTES:
                raise ImageError("too-large", f"the zip inflates to more than {MAX_INFLATED_BYTES >> 30} GiB")
            return [archive.open(entry).read(entry.file_size) for entry in entries]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ImageError("truncated", f"the zip is damaged or cut off ({type(error).__name__})") from None
