"""QIDO-RS and WADO-RS (PS3.18 10.6, 10.4): queries by dicomweb-client, objects as the bytes that the server has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient

from medray.errors import ImageError, StorageError
from medray.pacs.multipart import PartWriter, boundary_of
from medray.pacs.remote import PacsAddress, RemoteSeries
from medray.pacs.spool import Spool

__all__ = ["DicomwebPacs"]

PAGE = 200
TIMEOUT_S = (10, 120)
ATTEMPTS, PAUSE_MS = 5, 1000
"""Of one request that finds the service busy or away: pauses double, half a minute in all."""
CHUNK_BYTES = 1 << 18
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
DICOM_JSON = "application/dicom+json"
CONFLICT, DUPLICATE = 409, 0x0111
"""The status when objects were refused, and the reason for those that are there already (PS3.4 Table B.2-1)."""
STUDY, SERIES, COUNT = "0020000D", "0020000E", "00201209"


class DicomwebPacs:
    """A DICOMweb service. ``MEDRAY_DICOMWEB_TOKEN`` is sent as a bearer token; user and password come from ``~/.netrc``.

    Args:
        address: Where it is and what is wanted.
    """

    def __init__(self, address: PacsAddress) -> None:
        self._address = address
        protocol = "http" if address.scheme == "dicomweb+http" else "https"
        port = f":{address.port}" if address.port else ""
        self._url = f"{protocol}://{address.host}{port}{address.path}"
        self._session = requests.Session()
        if os.environ.get("MEDRAY_DICOMWEB_TOKEN"):
            self._session.headers["Authorization"] = f"Bearer {os.environ['MEDRAY_DICOMWEB_TOKEN']}"
        self._client = DICOMwebClient(self._url, session=self._session, timeout=TIMEOUT_S)
        self._client.set_http_retry_params(max_attempts=ATTEMPTS, wait_exponential_multiplier=PAUSE_MS)

    def find(self) -> Iterator[RemoteSeries]:
        """Yield the series that match.

        Raises:
            StorageError: If the service can't be reached, or refuses.
        """
        known: set[str] = set()
        while True:
            page = {_value(study, STUDY) for study in self._search_studies(len(known))} - known
            for study in sorted(page):
                yield from self._series_of(study)
            if not page:  # a server may give fewer than were asked for, or the same ones again
                return
            known |= page

    def retrieve(self, series: RemoteSeries, spool: Spool) -> int:
        """Fetch a series.

        Raises:
            StorageError: If the service fails, or sends something that isn't the series.
        """
        arrived = 0

        def take(path: Path) -> None:
            nonlocal arrived
            try:
                spool.accept(path)
                arrived += 1
            except ImageError:  # one that can't be read costs itself; the series is then short of it
                return
            finally:
                path.unlink(missing_ok=True)

        url = f"{self._url}/studies/{series.study}/series/{series.series}"
        try:
            with self._session.get(url, headers={"Accept": AS_STORED}, stream=True, timeout=TIMEOUT_S) as reply:
                reply.raise_for_status()
                writer = PartWriter(boundary_of(reply.headers.get("Content-Type", "")), spool.new_file, take)
                for piece in reply.iter_content(CHUNK_BYTES):
                    writer.feed(piece)
                writer.close()
        except (requests.RequestException, ImageError) as error:
            raise self._error(error) from None
        return arrived

    def locate(self, uid: str) -> RemoteSeries | None:
        """Return the series of a SeriesInstanceUID, or None where the service has none.

        Raises:
            StorageError: If the service can't be reached, or refuses.
        """
        try:
            found = self._client.search_for_series(
                limit=1, search_filters={"SeriesInstanceUID": uid}, fields=["StudyInstanceUID", "SeriesInstanceUID"]
            )
        except requests.RequestException as error:
            raise self._error(error) from None
        mine = [item for item in found if _value(item, SERIES) == uid]
        return RemoteSeries(_value(mine[0], STUDY), uid, 0) if mine else None

    def store(self, body: bytes, content_type: str) -> None:
        """Store objects (STOW-RS, PS3.18 10.5); those that the service has already count as stored.

        Args:
            body: ``multipart/related`` of DICOM objects.
            content_type: Its Content-Type, with the boundary.

        Raises:
            StorageError: If the service fails, or refuses an object.
        """
        headers = {"Content-Type": content_type, "Accept": DICOM_JSON}
        try:
            reply = self._session.post(f"{self._url}/studies", data=body, headers=headers, timeout=TIMEOUT_S)
            if reply.status_code != CONFLICT or any(reason != DUPLICATE for reason in _refused(reply)):
                reply.raise_for_status()
        except requests.RequestException as error:
            raise self._error(error) from None
        if reply.ok and any(reason != DUPLICATE for reason in _refused(reply)):
            raise StorageError(f"the DICOMweb service at {self._address.host} refuses an object", refused=True)

    def through(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes | None) -> requests.Response:
        """Pass a request on, and return the reply with its body still to be read.

        Raises:
            StorageError: If the service can't be reached.
        """
        try:
            url = f"{self._url}/{path}{f'?{query}' if query else ''}"
            return self._session.request(method, url, headers=headers, data=body, stream=True, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            raise self._error(error) from None

    def _search_studies(self, offset: int) -> list[dict[str, Any]]:
        try:
            filters, fields = dict(self._address.study), ["StudyInstanceUID"]
            page: list[dict[str, Any]] = self._client.search_for_studies(
                limit=PAGE, offset=offset, search_filters=filters, fields=fields
            )
        except requests.RequestException as error:
            raise self._error(error) from None
        return page

    def _series_of(self, study: str) -> list[RemoteSeries]:
        found: list[dict[str, Any]] = []
        try:
            while True:
                filters, fields = dict(self._address.series), ["NumberOfSeriesRelatedInstances"]
                page = self._client.search_for_series(
                    study, limit=PAGE, offset=len(found), search_filters=filters, fields=fields
                )
                known = {_value(item, SERIES) for item in found}
                fresh = [item for item in page if _value(item, SERIES) not in known]
                if not fresh:
                    break
                found += fresh
        except requests.RequestException as error:
            raise self._error(error) from None
        return [RemoteSeries(study, _value(item, SERIES), int(_value(item, COUNT) or 0)) for item in found]

    def _error(self, error: Exception) -> StorageError:
        """Say what failed without the URL, whose query may name a patient."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = f"HTTP {status}" if status else getattr(error, "reason", "") or type(error).__name__
        hint = ": check MEDRAY_DICOMWEB_TOKEN or ~/.netrc" if status in {401, 403} else ""
        return StorageError(f"the DICOMweb service at {self._address.host} fails ({what}){hint}", status in {401, 403})


def _refused(reply: requests.Response) -> list[int]:
    """Return the failure reasons of a Store Instances Response (PS3.18 I.2)."""
    try:
        failed = reply.json().get("00081198", {}).get("Value", [])
        return [int((item.get("00081197", {}).get("Value") or [0])[0]) for item in failed]
    except (ValueError, AttributeError):
        return []


def _value(item: dict[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])
