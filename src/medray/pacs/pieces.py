"""How pynetdicom takes an object in: in silence, and piece by piece into a file of the spool."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from pynetdicom import _config, dimse_messages

__all__ = ["write_pieces_into"]


def write_pieces_into(folder: Path) -> None:
    """Have objects that arrive written into a folder, whatever their size, from now on and in this whole process.

    Not into the system's temporary folder, where pynetdicom leaves them: that may be another disk, whence nothing can be
    renamed into a spool, and nobody sweeps it, so that a crash would leave identifiers there.
    """
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    dimse_messages.NamedTemporaryFile = partial(tempfile.NamedTemporaryFile, dir=folder)
