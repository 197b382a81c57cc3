"""Multipart bodies: forms (RFC 7578) taken apart and put together, DICOM parts (PS3.18 8.6.1.2) as a zip."""

from __future__ import annotations

import io
import json
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from medray.errors import ImageError, InputError

__all__ = ["FORM", "RELATED", "Part", "compose", "json_of", "media_type_of", "parts_of", "zip_of"]

MOST_PARTS = 100_000
RELATED = "multipart/related"
FORM = ("multipart/form-data", RELATED)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a body.

    Attributes:
        name: Of the form's field; empty outside of forms.
        data: Its bytes.
        filename: As its sender says: may name a patient; empty for a plain field.
        media_type: As its sender says.
    """

    name: str
    data: bytes
    filename: str = ""
    media_type: str = ""


class _Reader:
    """Gathers parts as the parser comes across them."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.whole = False
        self._data: list[bytes] = []
        self._words: list[bytes] = [b"", b""]
        self._headers: dict[str, str] = {}

    def begin(self) -> None:
        if len(self.parts) >= MOST_PARTS:
            raise ImageError("multipart", f"a body may have at most {MOST_PARTS} parts")
        self._data, self._headers, self._words = [], {}, [b"", b""]

    def field(self, data: bytes, start: int, end: int) -> None:
        self._words[0] += data[start:end]

    def value(self, data: bytes, start: int, end: int) -> None:
        self._words[1] += data[start:end]

    def header(self) -> None:
        name, value = (word.decode("utf-8", "replace") for word in self._words)
        self._headers[name.lower()], self._words = value, [b"", b""]

    def take(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def end(self) -> None:
        said = Message()
        said["content-disposition"] = self._headers.get("content-disposition", "form-data")
        name = said.get_param("name", "", "content-disposition")
        media_type = self._headers.get("content-type", "").partition(";")[0].strip().lower()
        self.parts.append(Part(str(name), b"".join(self._data), said.get_filename("") or "", media_type))

    def finish(self) -> None:
        self.whole = True


def media_type_of(content_type: str) -> str:
    """Return a Content-Type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def parts_of(body: bytes, content_type: str) -> list[Part]:
    """Take a multipart body apart.

    Raises:
        ImageError: If it isn't as its Content-Type says, or was cut off.
    """
    said = Message()
    said["content-type"] = content_type
    boundary = said.get_boundary()
    if media_type_of(content_type) not in FORM or not boundary:
        raise ImageError("multipart", "send multipart/form-data or multipart/related with a boundary")
    reader = _Reader()
    callbacks = {
        "on_part_begin": reader.begin,
        "on_part_data": reader.take,
        "on_part_end": reader.end,
        "on_header_field": reader.field,
        "on_header_value": reader.value,
        "on_header_end": reader.header,
        "on_end": reader.finish,
    }
    try:
        MultipartParser(boundary.encode("latin-1", "replace"), callbacks).write(body)  # type: ignore[arg-type]
    except FormParserError:
        raise ImageError("multipart", "the body isn't multipart as its boundary says") from None
    if not reader.whole:
        raise ImageError("truncated", "the body ends before its last boundary")
    return reader.parts


def zip_of(files: Sequence[bytes]) -> bytes:
    """Return one file as it is, and several as a zip, not compressed."""
    if len(files) == 1:
        return files[0]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number:06d}", data)
    return packed.getvalue()


def compose(parts: Sequence[Part], kind: str = "multipart/form-data") -> tuple[bytes, str]:
    """Return a multipart body and its Content-Type.

    Args:
        parts: In order.
        kind: The Content-Type without its boundary.
    """
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for part in parts:
        file = f'; filename="{part.filename}"' if part.filename else ""
        named = f'Content-Disposition: form-data; name="{part.name}"{file}\r\n' if part.name else ""
        typed = f"Content-Type: {part.media_type}\r\n" if part.media_type else ""
        head = f"--{boundary}\r\n{named}{typed}\r\n"
        pieces += [head.encode(), part.data, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"{kind}; boundary={boundary}"


def _no_number(word: str) -> Any:
    """Refuse NaN and infinities, which are no JSON and can't be answered in it."""
    raise ValueError(word)


def json_of(data: bytes, what: str) -> Mapping[str, Any]:
    """Read a JSON object; nothing at all is an empty one.

    Raises:
        InputError: If it is none.
    """
    try:
        said = json.loads(data or b"{}", parse_constant=_no_number)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise InputError(f"{what} must be a JSON object")
    return said
