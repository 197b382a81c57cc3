"""``multipart/related`` bodies of DICOMweb (PS3.18 8.6, RFC 2387): parts go straight to files, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from medray.errors import ImageError

__all__ = ["PartWriter", "boundary_of"]


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a Content-Type names.

    Raises:
        ImageError: If it isn't ``multipart/related`` of ``application/dicom``.
    """
    message = Message()
    message["content-type"] = content_type
    kind = str(message.get_param("type", "application/dicom")).strip().lower()
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/related" or kind != "application/dicom" or not boundary:
        raise ImageError("media-type", 'send multipart/related; type="application/dicom"; boundary=…')
    return boundary.encode("latin-1", "replace")


class PartWriter:
    """Takes a body in pieces and writes each part to a file of its own.

    Args:
        boundary: See `boundary_of`.
        new_file: Gives a fresh path for each part.
        on_part: Called with each finished part's path.
    """

    def __init__(self, boundary: bytes, new_file: Callable[[], Path], on_part: Callable[[Path], None]) -> None:
        self._new_file = new_file
        self._on_part = on_part
        self._path: Path | None = None
        self._stream: BinaryIO | None = None
        self._ended = False
        callbacks = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            ImageError: If the body isn't as its boundary says.
        """
        if self._ended:
            return
        try:
            self._parser.write(data)
        except MultipartParseError:
            self.discard()
            raise ImageError("multipart", "the body isn't multipart as its boundary says") from None

    def close(self) -> None:
        """End the body.

        Raises:
            ImageError: If its last boundary is missing: it was cut off.
        """
        self.discard()
        if not self._ended:
            raise ImageError("truncated", "the body ends before its last boundary")

    def discard(self) -> None:
        """Delete a part that was not finished."""
        if self._stream is not None and self._path is not None:
            self._stream.close()
            self._path.unlink(missing_ok=True)
            self._stream = None

    def _begin(self) -> None:
        self._path = self._new_file()
        self._stream = self._path.open("wb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._stream is not None:
            self._stream.write(data[start:end])

    def _end(self) -> None:
        if self._stream is not None and self._path is not None:
            self._stream.close()
            self._stream = None
            self._on_part(self._path)

    def _finish(self) -> None:
        self._ended = True
