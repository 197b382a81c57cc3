"""`Location`: a place that a URI names, with whole-object reads and atomic whole-object writes.

The PUT and the multipart upload of S3 and Google are atomic; on a local disk a write goes to a temporary name beside its
target, is flushed, and is renamed; on Azure it is copied. What the network, the server or the disk does wrong becomes a
`StorageError`, whose message names the bucket or the folder and never an object: a source's names may be patients'.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from medray.errors import NotFoundError, StorageError
from medray.storage.faults import disk_fault, is_missing, store_fault
from medray.storage.filesystems import filesystem_of

__all__ = ["Entry", "Location", "file_name", "locate"]

TEMPORARY_PREFIX = ".tmp-"
AZURE = "abfs"


HARMLESS = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,120}")


def file_name(name: str) -> str:
    """Return a name under which a file may be kept: itself where it is harmless, else its hash.

    An identifier that a source chose may hold slashes and dots, which lead elsewhere.
    """
    return name if HARMLESS.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a listing.

    Attributes:
        name: Its path relative to the folder that was listed.
        size: Bytes.
        modified_ns: When it or, on a disk, its facts were last written, in ns since 1970; 0 where the store doesn't say.
            (A tool can set a file's time of writing back, as ``cp -p`` does, and not the time of that change itself.)
    """

    name: str
    size: int
    modified_ns: int


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
        """Return a place below this one.

        Raises:
            StorageError: If it would be elsewhere.
        """
        if any(".." in part.split("/") for part in parts):
            raise StorageError("a name with .. in it leads out of its folder: rename what has it")
        return Location(self.filesystem, "/".join([self.path.rstrip("/"), *parts]))

    def exists(self) -> bool:
        """Tell whether there is a file or a folder."""
        with self._told_plainly("look at"):
            return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def is_folder(self) -> bool:
        """Tell whether there is a folder."""
        with self._told_plainly("look at"):
            return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def modified_ns(self) -> int:
        """Return when a file was last written, by the store's own clock; 0 when there is none."""
        with self._told_plainly("look at"):
            return int(self.filesystem.get_file_info(self.path).mtime_ns or 0)

    def read(self, size: int | None = None) -> bytes:
        """Return the file's bytes, or its first ``size``.

        An object that is replaced by one of another length meanwhile may come cut off, or as a `StorageError`: the length is
        asked for first. Only ``cohort.json`` is ever replaced, and read again then.

        Raises:
            NotFoundError: If it isn't there or isn't a file.
            StorageError: If the disk, the network or the server fails, or refuses.
        """
        with self._told_plainly("read"):
            if self.is_local:  # names need not be UTF-8 on a disk, and pyarrow's must
                with Path(self.path).open("rb") as file:
                    return file.read(-1 if size is None else size)
            # One request: a stream makes many, and may mix two versions of an object.
            with self.filesystem.open_input_file(self.path) as file:
                length = file.size()
                return bytes(file.read_at(length if size is None else min(size, length), 0))

    def write(self, data: bytes) -> str:
        """Write a whole file: afterwards it holds ``data`` or, after a crash, what it held before.

        Returns:
            The checksum that an object store computed of what arrived (its ETag); empty on a local disk.

        Raises:
            StorageError: If it can't be written.
        """
        with self._told_plainly("write"):
            if self.is_local:
                _write_local(Path(self.path), data)
                return ""
            if self.filesystem.type_name == AZURE:
                self._write_aside(data)
            else:
                _put(self.filesystem, self.path, data)
        return self.checksum()

    def _write_aside(self, data: bytes) -> None:
        """Write elsewhere and copy: pyarrow empties an Azure blob before it writes it, and the server copies in one step.

        Elsewhere is a folder of its own, for two clients that delete blobs of one folder at a time wait seven seconds for each
        other.
        """
        folder, _, name = self.path.rpartition("/")
        aside = f"{folder}/{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            _put(self.filesystem, f"{aside}/{name}", data)
            self.filesystem.copy_file(f"{aside}/{name}", self.path)
        finally:
            with suppress(FileNotFoundError):  # nothing was written
                self.filesystem.delete_dir(aside)

    def checksum(self) -> str:
        """Return the store's own checksum of a file, its ETag; empty on a local disk.

        Raises:
            NotFoundError: If it isn't there.
        """
        if self.is_local:
            return ""
        with self._told_plainly("look at"), self.filesystem.open_input_stream(self.path, compression=None) as stream:
            told = stream.metadata() or {}
        etag = next((value for name, value in told.items() if str(name).lower() == "etag"), b"")
        return bytes(etag).decode().strip('"')

    def remove(self) -> None:
        """Delete a file; one that isn't there is fine."""
        with self._told_plainly("delete in"):
            try:
                self.filesystem.delete_file(self.path)
            except FileNotFoundError:
                return

    def entries(self) -> list[Entry]:
        """List every file below, sorted by name; hidden ones are left out.

        A folder that can't be listed is an entry itself, of no bytes: whoever reads it learns that it is forbidden.

        Raises:
            NotFoundError: If there is no such folder.
            StorageError: If it can't be listed at all.
        """
        if self.is_local:
            return _local_entries(Path(self.path))
        start = len(self.path.rstrip("/")) + 1
        named = [Entry(info.path[start:], int(info.size), int(info.mtime_ns or 0)) for info in self._below()]
        return sorted((entry for entry in named if not _hidden(entry.name)), key=lambda entry: entry.name)

    def sweep(self, *, older_s: float = 3600.0) -> None:
        """Delete what writes that were killed have left, where they leave anything; young ones may still be at work."""
        if self.is_local:
            _sweep_local(Path(self.path), older_s)
        elif self.filesystem.type_name == AZURE:
            written = [info for info in self._below(missing_ok=True) if TEMPORARY_PREFIX in info.path]
            old = [info.path for info in written if time.time() - (info.mtime_ns or 0) / 1e9 > older_s]
            with self._told_plainly("delete in"):
                for folder in {path.rpartition("/")[0] for path in old}:
                    self.filesystem.delete_dir(folder)

    def _below(self, *, missing_ok: bool = False) -> list[fs.FileInfo]:
        with self._told_plainly("list"):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True, allow_not_found=missing_ok))
        return [info for info in found if info.type == fs.FileType.File]

    @contextmanager
    def _told_plainly(self, verb: str) -> Iterator[None]:
        """Turn what a filesystem raises into one of medray's errors."""
        try:
            yield
        except IsADirectoryError:
            raise NotFoundError(f"{self.path} is a folder, not a file") from None
        except OSError as error:
            if is_missing(error):
                raise NotFoundError(f"no file or folder {self.path}") from None
            if not self.is_local:
                bucket = self.path.partition("/")[0]
                raise store_fault(verb, self.filesystem.type_name, bucket, error) from None
            raise disk_fault(verb, error) from None


def locate(uri: str | Path | Location) -> Location:
    """Open a path or a URI.

    Raises:
        ConfigError: If the scheme is unknown or the URI malformed.
    """
    return uri if isinstance(uri, Location) else Location(*filesystem_of(str(uri)))


def _local_entries(folder: Path) -> list[Entry]:
    if not folder.is_dir():
        raise NotFoundError(f"no file or folder {folder}")
    closed: list[Path] = []
    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = [name for name in folders if not _hidden(name)]
        found += [Path(place, name) for name in names if not _hidden(name)]
    if folder in closed:
        raise StorageError(f"can't list the disk: {folder} may not be read", refused=True)
    entries = [_local_entry(folder, path) for path in found] + [Entry(_name(folder, path), 0, 0) for path in closed]
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.name)


def _local_entry(folder: Path, path: Path) -> Entry | None:
    """Describe a file; None for a device or a pipe."""
    try:
        facts = path.stat()
    except OSError:  # it is listed, so that reading it tells what is wrong with it
        return Entry(_name(folder, path), 0, 0)
    if not stat.S_ISREG(facts.st_mode):
        return None
    return Entry(_name(folder, path), facts.st_size, max(facts.st_mtime_ns, facts.st_ctime_ns))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _sweep_local(folder: Path, older_s: float) -> None:
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime > older_s:
                path.unlink(missing_ok=True)
        except OSError:
            continue


def _put(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    stream = filesystem.open_output_stream(path, compression=None)
    stream.write(data)
    stream.close()  # not in a with-block: leaving that after an error would complete a torn object


def _write_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{target.name}"
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
