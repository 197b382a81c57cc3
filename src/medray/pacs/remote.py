"""A series in a PACS, and the two questions that an ingestion has: what is there, and give it to me."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from medray.errors import ConfigError
from medray.pacs.spool import Spool

__all__ = ["STUDY_KEYS", "Pacs", "PacsAddress", "RemoteSeries", "is_pacs", "parse_address"]

STUDY_KEYS = (
    "PatientID",
    "PatientName",
    "StudyDate",
    "StudyInstanceUID",
    "AccessionNumber",
    "ModalitiesInStudy",
    "StudyDescription",
)
SERIES_KEYS = ("Modality", "SeriesInstanceUID", "SeriesDescription", "BodyPartExamined")
SCHEMES = ("dicomweb", "dicomweb+http", "dimse", "dimse+tls")


def is_pacs(source: str) -> bool:
    """Tell whether a source is a PACS and not a folder."""
    return source.startswith(tuple(f"{scheme}:" for scheme in SCHEMES))


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A series that a PACS says it has. Holds identifiers.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        instances: NumberOfSeriesRelatedInstances; 0 where the PACS doesn't say.
    """

    study: str
    series: str
    instances: int


@dataclass(frozen=True, slots=True)
class PacsAddress:
    """Where a PACS is and what is wanted of it.

    Attributes:
        scheme: ``dicomweb`` (https), ``dicomweb+http``, ``dimse`` or ``dimse+tls``.
        host: Its host.
        port: Its port; 0 for the scheme's own.
        path: Of the DICOMweb service.
        title: Called application entity title.
        calling: Calling application entity title.
        study: Matching keys of studies, as in PS3.4 C.6.2.
        series: Matching keys of series.
    """

    scheme: str
    host: str
    port: int
    path: str
    title: str
    calling: str
    study: Mapping[str, str]
    series: Mapping[str, str]


class Pacs(Protocol):
    """Answers queries and hands out objects."""

    def find(self) -> Iterator[RemoteSeries]:
        """Yield the series that match, study by study."""
        ...

    def retrieve(self, series: RemoteSeries, spool: Spool) -> int:
        """Fetch a series into the spool in the syntaxes in which it is stored, and return how many objects came."""
        ...


def parse_address(uri: str) -> PacsAddress:
    """Read ``dicomweb://host/path?PatientID=…`` or ``dimse://CALLED@host:port/?StudyDate=…&calling=TITLE``.

    Raises:
        ConfigError: If it is none, or has an unknown matching key.
    """
    parts = urlsplit(uri)
    try:
        port = parts.port or 0
    except ValueError:
        port = -1
    if parts.scheme not in SCHEMES or not parts.hostname or port < 0:
        raise ConfigError("a PACS is written as dicomweb://host/path?key=value or dimse://AET@host:port/?key=value")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    calling = given.pop("calling", "MEDRAY")
    unknown = sorted(set(given) - {*STUDY_KEYS, *SERIES_KEYS})
    if unknown:
        raise ConfigError(f"matching key {unknown[0]!r} is unknown: use {', '.join((*STUDY_KEYS, *SERIES_KEYS))}, or calling")
    if parts.scheme.startswith("dimse") and not (parts.username and port):
        raise ConfigError("dimse:// needs the called title and the port: dimse://AET@host:port/?key=value")
    study = {key: value for key, value in given.items() if key in STUDY_KEYS}
    series = {key: value for key, value in given.items() if key in SERIES_KEYS}
    return PacsAddress(
        parts.scheme, parts.hostname, port, parts.path.rstrip("/"), unquote(parts.username or ""), calling, study, series
    )
