"""A URI's filesystem: a path, ``s3://``, ``gs://`` or ``abfs://``, set up from the environment alone.

S3 takes what the AWS tools take: ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` (or any other source of the SDK's chain: a
profile, a container's or an instance's role), ``AWS_REGION``, and ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` for others.
Requests that a server throttles (503 SlowDown, 429) or that the network drops are sent again by the SDK, with growing pauses.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import ArrowException, ArrowInvalid, fs

from medray.errors import ConfigError

__all__ = ["filesystem_of"]

MAX_ATTEMPTS = 8
"""Of one request: with the SDK's doubling pauses that is about half a minute of throttling."""
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 120.0
SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss")


def filesystem_of(uri: str) -> tuple[fs.FileSystem, str]:
    """Return a URI's filesystem and its path there.

    Args:
        uri: A path, or a URI of one of the schemes above.

    Raises:
        ConfigError: If the scheme is unknown or the URI malformed.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"scheme {parts.scheme!r} is unknown: use a path or {', '.join(SCHEMES)}")
    if parts.scheme == "s3" and not parts.query and "@" not in parts.netloc:
        if not parts.netloc:
            raise ConfigError(f"{uri!r} names no bucket: write s3://bucket/folder")
        return _s3(_aws_environment()), f"{parts.netloc}{parts.path}".rstrip("/")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (ArrowInvalid, ArrowException, ValueError, OSError) as error:
        raise ConfigError(f"the {parts.scheme} URI can't be opened ({type(error).__name__}): check its form") from None
    return filesystem, path.rstrip("/")


def _aws_environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


@lru_cache(maxsize=8)
def _s3(environment: tuple[tuple[str, str], ...]) -> fs.S3FileSystem:
    """Open S3 once a process and environment: a client holds its own pool of connections."""
    given = dict(environment)
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
    region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION")
    options = {"endpoint_override": endpoint} if endpoint else {}
    if region or endpoint:  # another server's region is a word in the signature; AWS's own is asked for where it isn't set
        options["region"] = region or "us-east-1"
    return fs.S3FileSystem(
        **options,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        allow_delayed_open=True,  # a small object is one PUT; a large one becomes a multipart upload by itself
    )
