"""One image from bytes or a path, whatever its format: NIfTI, NRRD, MetaImage, PNG, JPEG, or DICOM as file, zip or folder."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal

from medray.errors import ImageError, InputError, NotFoundError
from medray.formats.dicom import is_dicom, read_dicom_series
from medray.formats.dicom_header import DicomHeader, read_dicom_file_header
from medray.formats.metaimage import is_metaimage, read_metaimage
from medray.formats.nifti import is_nifti, nifti_bytes, read_nifti
from medray.formats.nrrd import is_nrrd, nrrd_bytes, read_nrrd
from medray.formats.picture import is_picture, read_picture
from medray.imaging.volume import Volume

__all__ = [
    "FILE_FORMATS",
    "HEAD_BYTES",
    "Format",
    "declared_bytes",
    "dicom_files",
    "files_at",
    "one_dicom_file",
    "read_file",
    "read_image",
    "read_image_files",
    "read_image_path",
    "sniff",
    "unzip",
]

Format = Literal["nifti", "nrrd", "metaimage", "picture", "dicom", "zip"]
ZIP = b"PK\x03\x04"
HEAD_BYTES = 65536
MAX_INFLATED_BYTES = 8 * 2**30

FILE_FORMATS: dict[Format, tuple[Callable[[bytes], bool], Callable[[bytes], Volume]]] = {
    "nifti": (is_nifti, read_nifti),
    "nrrd": (is_nrrd, read_nrrd),
    "metaimage": (is_metaimage, read_metaimage),
    "picture": (is_picture, read_picture),
}
"""Formats that keep an image in one file: how to know one, and how to read it."""


DECLARED: dict[Format, Callable[[bytes], int]] = {"nifti": nifti_bytes, "nrrd": nrrd_bytes}
"""How many bytes of voxels a header promises, of formats that say so in one place."""


def sniff(data: bytes) -> Format | None:
    """Tell the format from the first bytes, never from a name."""
    if data.startswith(ZIP):
        return "zip"
    head = data[:HEAD_BYTES]
    if is_dicom(head):
        return "dicom"
    return next((name for name, (known, _) in FILE_FORMATS.items() if known(head)), None)


def read_file(data: bytes) -> Volume:
    """Read an image that one file keeps.

    Raises:
        ImageError: If it is of none of `FILE_FORMATS`, or can't be read.
    """
    kind = sniff(data)
    if kind is None or kind not in FILE_FORMATS:
        raise ImageError("unknown-format", f"the content is none of {', '.join(FILE_FORMATS)}")
    return FILE_FORMATS[kind][1](data)


def read_image(data: bytes) -> Volume:
    """Read one image.

    Args:
        data: One file, or a zip with the DICOM files of one series.

    Raises:
        ImageError: If its format is unknown, or it can't be read.
    """
    kind = sniff(data)
    if kind == "dicom":
        return _one_series([data])
    if kind == "zip":
        return _one_series(unzip(data))
    if kind is None:
        raise ImageError("unknown-format", f"the content is none of DICOM, a zip of DICOM, {', '.join(FILE_FORMATS)}")
    return read_file(data)


def dicom_files(files: Iterable[bytes]) -> list[bytes]:
    """Return the DICOM files of an image, zips unpacked.

    Raises:
        InputError: If a file is neither DICOM nor a zip of it.
    """
    return [found for data in files for found in _dicom_in(data)]


def _dicom_in(data: bytes) -> list[bytes]:
    kind = sniff(data)
    found = [data] if kind == "dicom" else [item for item in unzip(data) if is_dicom(item)] if kind == "zip" else []
    if not found:
        raise InputError("a DICOM result refers to a DICOM series, and the image isn't one: ask for nifti, nrrd or json")
    return found


def one_dicom_file(data: bytes) -> bytes | None:
    """Return a DICOM file of an image: itself, or the first of a zip; None where it is something else.

    Raises:
        ImageError: If the zip is damaged.
    """
    if not data.startswith(ZIP):  # which needs nothing inflated, as sniffing at all formats does
        return data if is_dicom(data[:HEAD_BYTES]) else None
    with _opened(data) as archive:
        return next((found for entry in _entries(archive) if is_dicom(found := _entry(archive, entry))), None)


def files_at(path: Path) -> list[bytes]:
    """Return an image's files: the one at the path or, of a folder, the DICOM files in it.

    Raises:
        NotFoundError: If there is nothing at the path.
    """
    if path.is_dir():
        return [data for file in sorted(path.rglob("*")) if file.is_file() and is_dicom(data := file.read_bytes())]
    if not path.is_file():
        raise NotFoundError(f"no file or folder {path}")
    return [path.read_bytes()]


def declared_bytes(data: bytes) -> int:
    """Return about how many bytes an image takes when it is read, as far as its headers tell; nothing is inflated.

    Raises:
        ImageError: If a header can't be read.
    """
    kind = sniff(data)
    if kind == "zip":
        with _opened(data) as archive:
            return sum(entry.file_size for entry in _entries(archive))
    return DECLARED[kind](data) if kind in DECLARED else len(data)


def read_image_files(files: Sequence[bytes]) -> Volume:
    """Read one image from its files: one of any format, or those of one DICOM series; raises what `read_image` does."""
    return read_image(files[0]) if len(files) == 1 else _one_series(files)


def read_image_path(path: Path) -> Volume:
    """Read one image from a file, or a DICOM series from a folder; raises what `files_at` and `read_image` do."""
    return read_image_files(files_at(path))


def unzip(data: bytes) -> list[bytes]:
    """Inflate every entry in memory: names are never used as paths, and sizes are bounded before and while reading.

    Raises:
        ImageError: If the zip is damaged, encrypted or inflates to more than it may.
    """
    with _opened(data) as archive:
        return [_entry(archive, entry) for entry in _entries(archive)]


@contextmanager
def _opened(data: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            yield archive
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged zip raises whatever its module stumbles over
        raise ImageError("truncated", f"the zip is damaged or cut off ({type(error).__name__})") from None


def _entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if sum(entry.file_size for entry in entries) > MAX_INFLATED_BYTES:
        raise ImageError("too-large", f"the zip inflates to more than {MAX_INFLATED_BYTES >> 30} GiB")
    return entries


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        return stream.read(entry.file_size)


def _one_series(files: Iterable[bytes]) -> Volume:
    found = [data for data in files if is_dicom(data)]
    if not found:
        raise ImageError("not-dicom", "no DICOM file was found")
    headers = [read_dicom_file_header(data) for data in found]
    if len({header.series for header in headers}) > 1:
        raise ImageError("several-series", "one series is needed; these files belong to several")
    unique = {_instance(header, index): data for index, (header, data) in enumerate(zip(headers, found, strict=True))}
    return read_dicom_series([partial(bytes, data) for data in unique.values()]).volume


def _instance(header: DicomHeader, index: int) -> str:
    return header.instance or str(index)
