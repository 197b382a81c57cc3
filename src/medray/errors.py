"""Every error that medray raises on purpose, as one tree.

    MedrayError
    ├── InputError (ValueError)          something handed in can't be used; a command exits with 2
    │   ├── ConfigError                  a setting: unknown key, wrong type, wrong value
    │   ├── ImageError                   a file or a volume; carries the quarantine reason
    │   ├── LabelError                   a label map that its schema doesn't explain
    │   └── ConflictError                not in a state in which it may be changed
    │       └── OutdatedError            somebody else changed it meanwhile
    ├── NotFoundError (LookupError)      a cohort, a model or a file that isn't there
    ├── StorageError (RuntimeError)      a disk, a network or a server that fails or refuses
    ├── ModelError (RuntimeError)        a model that fails on an image that it should have an answer to
    └── ResourceError (RuntimeError)     the machine or the cluster has too little of something

Messages are for people: one line with the offending value and what to do, and never patient data.
All arguments go to ``Exception.__init__``, so that every error survives the trip between processes.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConflictError",
    "ImageError",
    "InputError",
    "LabelError",
    "MedrayError",
    "ModelError",
    "NotFoundError",
    "OutdatedError",
    "ResourceError",
    "StorageError",
]


class MedrayError(Exception):
    """The root: catch this to catch all of medray's own errors."""


class InputError(MedrayError, ValueError):
    """Something that was handed in can't be used."""


class ConfigError(InputError):
    """A setting has an unknown key, a wrong type or a wrong value."""


class ImageError(InputError):
    """A file or a volume can't be used as an image.

    Args:
        reason: A short slug for the quarantine table, such as ``"missing-slices"``.
        detail: One sentence for a person, without patient data.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class LabelError(ImageError):
    """A label map has values that its schema doesn't name, or lies on another grid."""


class ConflictError(InputError):
    """What was to be changed isn't in a state in which it may be."""


class OutdatedError(ConflictError):
    """What was to be changed isn't any more as it was seen: somebody else changed it meanwhile."""


class NotFoundError(MedrayError, LookupError):
    """A cohort, a model, a version or a file isn't there."""


class StorageError(MedrayError, RuntimeError):
    """A disk, a network or a server fails or refuses: nothing is wrong with the data, so nothing may be quarantined for it.

    Args:
        message: One line that names no object.
        refused: Whether the store answered and said no.
    """

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message, refused)
        self.refused = refused

    def __str__(self) -> str:
        return str(self.args[0])


class ModelError(MedrayError, RuntimeError):
    """A model failed on an image that it should have had an answer to."""


class ResourceError(MedrayError, RuntimeError):
    """The machine or the cluster has too little memory, disk or CPU for what was asked."""
