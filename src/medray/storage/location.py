"""`Location`: a place that a URI names, with whole-object reads and atomic whole-object writes.

Credentials, region and endpoint come from the environment, as `pyarrow.fs` reads them. An object store's PUT is atomic;
on a local disk a write goes to a temporary name beside its target, is flushed, and is renamed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowException, ArrowInvalid, fs

from medray.errors import ConfigError, NotFoundError

__all__ = ["Location", "locate"]

TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True, slots=True)
class Location:
    """A file or a folder on some filesystem.

    Attributes:
        filesystem: Where it lives.
        path: Its path there, without a scheme.
    """

    filesystem: fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether other programs of this machine can open `path`."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, *parts: str) -> Location:
        """Return a place below this one."""
        return Location(self.filesystem, "/".join([self.path.rstrip("/"), *parts]))

    def exists(self) -> bool:
        """Tell whether there is a file or a folder."""
        return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def read(self, size: int | None = None) -> bytes:
        """Return the file's bytes, or its first ``size``.

        Raises:
            NotFoundError: If it isn't there or isn't a file.
        """
        try:
            with self.filesystem.open_input_stream(self.path, compression=None) as stream:
                return bytes(stream.read(size))
        except FileNotFoundError:
            raise NotFoundError(f"no file {self.path}") from None
        except OSError as error:
            if self.filesystem.get_file_info(self.path).type == fs.FileType.Directory:
                raise NotFoundError(f"{self.path} is a folder, not a file") from error
            raise

    def write(self, data: bytes) -> None:
        """Write a whole file: afterwards it holds ``data`` or, after a crash, what it held before."""
        parent, _, name = self.path.rpartition("/")
        if not self.is_local:
            with self.filesystem.open_output_stream(self.path, compression=None) as stream:
                stream.write(data)
            return
        Path(parent or "/").mkdir(parents=True, exist_ok=True)
        temporary = Path(parent) / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{name}"
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield every file below, sorted, as its path relative to here and its size; hidden ones are left out.

        Raises:
            NotFoundError: If there is no such folder.
        """
        selector = fs.FileSelector(self.path, recursive=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"no folder {self.path}") from None
        start = len(self.path.rstrip("/")) + 1
        for info in sorted(found, key=lambda info: info.path):
            name = info.path[start:]
            if info.type == fs.FileType.File and not any(part.startswith(".") for part in name.split("/")):
                yield name, int(info.size)


def locate(uri: str | Path | Location) -> Location:
    """Open a path or a URI.

    Raises:
        ConfigError: If the scheme is unknown or the URI malformed.
    """
    if isinstance(uri, Location):
        return uri
    text = str(uri)
    if "://" not in text:
        return Location(fs.LocalFileSystem(), str(Path(text).expanduser().absolute()))
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (ArrowInvalid, ArrowException, ValueError, OSError) as error:
        raise ConfigError(f"{text!r} can't be opened: {str(error).splitlines()[0]}") from None
    return Location(filesystem, path)
