"""What a disk or an object store did wrong, as one line for people.

A message names the bucket or says "the disk" and never an object: a source's names may be patients'. The libraries' own texts
hold them, so that only their codes are taken over.
"""

from __future__ import annotations

import os
import re

from medray.errors import StorageError

__all__ = ["disk_fault", "is_missing", "store_fault"]

CODES = (
    re.compile(r"AWS Error (?P<code>\w+) during (?P<during>\w+)"),
    re.compile(r"Azure Error: \[(?P<code>\w+)\](?P<during>)"),
    re.compile(r"google::cloud::Status\((?P<code>\w+):(?P<during>)"),
)
"""How `pyarrow.fs` quotes the codes of S3, Azure Blob Storage and Google Cloud Storage."""
REFUSED = frozenset(
    """
    ACCESS_DENIED SIGNATURE_DOES_NOT_MATCH INVALID_ACCESS_KEY_ID INVALID_CLIENT_TOKEN_ID EXPIRED_TOKEN
    AuthorizationFailure AuthenticationFailed AuthorizationPermissionMismatch InsufficientAccountPermissions
    NoAuthenticationInformation
    PERMISSION_DENIED UNAUTHENTICATED
    """.split()  # noqa: SIM905 - codes of three vendors, a line each
)
NO_BUCKET = frozenset(("NO_SUCH_BUCKET", "ContainerNotFound"))
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
"""By `pyarrow.fs.FileSystem.type_name`."""


def is_missing(error: OSError) -> bool:
    """Tell whether an error says that nothing is there; Google's listing says so in words alone."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) or str(error).startswith("No such file or directory")


def disk_fault(verb: str, error: OSError) -> StorageError:
    """Say what a local disk did wrong."""
    refused = error.errno in {1, 13}
    return StorageError(f"can't {verb} the disk: {os.strerror(error.errno or 5).lower()}", refused=refused)


def store_fault(verb: str, store: str, bucket: str, error: OSError) -> StorageError:
    """Say what an object store, or the network to it, did wrong.

    Args:
        verb: What was tried.
        store: `pyarrow.fs.FileSystem.type_name`.
        bucket: Where.
        error: What `pyarrow.fs` raised.
    """
    found = next((match for pattern in CODES if (match := pattern.search(str(error)))), None)
    code, during = (found["code"], found["during"]) if found else ("", "")
    if code in NO_BUCKET:
        return StorageError(f"there is no bucket {bucket}: create it first, or mend the URI")
    if code in REFUSED:
        hint = f"check the credentials in the environment ({CREDENTIALS.get(store, 'of its vendor')})"
        return StorageError(f"bucket {bucket} refuses to {verb} ({code.lower()}): {hint}", refused=True)
    what = f"{code.lower()} during {during}" if during else code.lower() or type(error).__name__
    return StorageError(f"can't {verb} bucket {bucket}: {what}; the server or the network fails, run again when it is back")
