"""A URI's filesystem: a path, ``s3://``, ``gs://`` or ``abfs://``, set up from the environment alone.

S3 takes what the AWS tools take: ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` (or any other source of the SDK's chain: a
profile, a container's or an instance's role), ``AWS_REGION``, and ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` for others.
Google takes its application default credentials (``GOOGLE_APPLICATION_CREDENTIALS``, a workload's identity), or
``STORAGE_EMULATOR_HOST`` for a server that asks for none.
Azure takes ``AZURE_STORAGE_ACCOUNT_NAME`` (or the account in ``abfs://container@account.dfs.core.windows.net/``) and
``AZURE_STORAGE_ACCOUNT_KEY``, ``AZURE_STORAGE_SAS_TOKEN``, or what its SDK finds (``AZURE_CLIENT_ID`` and such, a managed
identity); ``AZURE_STORAGE_ENDPOINT`` for another server.
Requests that a server throttles (503 SlowDown, 429) or that the network drops are sent again by the SDKs, with growing pauses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pyarrow import ArrowException, fs

from medray.errors import ConfigError

__all__ = ["filesystem_of"]

MAX_ATTEMPTS = 8
"""Of one request: with the SDK's doubling pauses that is about half a minute of throttling."""
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 120.0
RETRY_TIME = timedelta(seconds=60)
VENDORS: Mapping[str, str | tuple[str, ...]] = {"s3": "AWS_", "gs": ("GOOGLE_", "STORAGE_EMULATOR_"), "abfs": "AZURE_"}
"""Schemes of object stores, and the beginnings of the variables that set them up."""
SCHEMES = ("file", *VENDORS, "gcs", "abfss")
AZURE_DOMAINS = (".dfs.core.windows.net", ".blob.core.windows.net")


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
    vendor = {"gcs": "gs", "abfss": "abfs"}.get(parts.scheme, parts.scheme)
    try:
        if vendor == "file" or parts.query or (vendor != "abfs" and parts.username):  # pyarrow's own form, options and all
            filesystem, path = fs.FileSystem.from_uri(uri)
            return filesystem, path.rstrip("/")
        bucket = parts.netloc.partition("@")[0]
        if not bucket:
            raise ConfigError(f"{uri!r} names no bucket: write {parts.scheme}://bucket/folder")
        return _opened(vendor, _account(parts), _environment(vendor)), f"{bucket}{parts.path}".rstrip("/")
    except ConfigError:
        raise
    except (ArrowException, ValueError, OSError) as error:
        raise ConfigError(f"the {parts.scheme} URI can't be opened ({type(error).__name__}): check its form") from None


def _account(parts: SplitResult) -> str:
    """Return the account that an Azure URI names: ``container@account.dfs.core.windows.net``."""
    account = parts.netloc.partition("@")[2]
    for domain in AZURE_DOMAINS:
        account = account.removesuffix(domain)
    return account


def _environment(vendor: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(VENDORS[vendor])))


@lru_cache(maxsize=8)
def _opened(vendor: str, account: str, environment: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    """Open a store once a process and environment: a client holds its own pool of connections."""
    given = dict(environment)
    if vendor == "s3":
        return _s3(given)
    return _gcs(given) if vendor == "gs" else _azure(account, given)


def _s3(given: Mapping[str, str]) -> fs.S3FileSystem:
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


def _gcs(given: Mapping[str, str]) -> fs.GcsFileSystem:
    options: dict[str, Any] = {"retry_time_limit": RETRY_TIME}
    emulator = given.get("STORAGE_EMULATOR_HOST", "")
    if emulator:
        scheme, _, host = emulator.rpartition("://")
        options |= {"anonymous": True, "scheme": scheme or "http", "endpoint_override": host.rstrip("/")}
    return fs.GcsFileSystem(**options)


def _azure(account: str, given: Mapping[str, str]) -> fs.AzureFileSystem:
    account = account or given.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    if not account:
        raise ConfigError(
            "an abfs URI needs an account: set AZURE_STORAGE_ACCOUNT_NAME, or write abfs://container@account/folder"
        )
    options = {
        "account_key": given.get("AZURE_STORAGE_ACCOUNT_KEY"),
        "sas_token": given.get("AZURE_STORAGE_SAS_TOKEN"),
    }
    endpoint = given.get("AZURE_STORAGE_ENDPOINT", "")
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        for service in ("blob", "dfs"):
            options |= {f"{service}_storage_authority": host.rstrip("/"), f"{service}_storage_scheme": scheme or "https"}
    return fs.AzureFileSystem(account, **{name: value for name, value in options.items() if value})
