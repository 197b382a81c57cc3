"""The size that a compressed frame gives itself, read before any decoder allocates for it.

Sources: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000).
"""

from __future__ import annotations

import struct

__all__ = ["frame_size"]

J2K_START = b"\xff\x4f\xff\x51"
JPEG_START = b"\xff\xd8"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Start of frame: JPEG's fifteen, and JPEG-LS's."""
MAX_HEADER_BYTES = 1 << 16


def frame_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns of a JPEG, JPEG-LS or JPEG 2000 frame; None for anything else or where it doesn't say."""
    head = frame[:MAX_HEADER_BYTES]
    start = head.find(J2K_START, 0, 512)  # a few writers keep the .jp2 boxes before it
    if start >= 0 and len(head) >= start + 24:
        columns, rows, left, top = struct.unpack_from(">4I", head, start + 8)
        return rows - top, columns - left
    return _jpeg_size(head) if head.startswith(JPEG_START) else None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(head):
        if head[position] != 0xFF:
            return None
        marker = head[position + 1]
        if marker == 0xFF:  # fill bytes
            position += 1
            continue
        if marker in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">2H", head, position + 5)
            return rows, columns
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None
