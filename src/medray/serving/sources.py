"""Images that a request refers to instead of carrying them: in a store, in a PACS, or in the cohort that is shown."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path

from medray.cohort.manifest import SeriesRow
from medray.errors import ImageError, InputError, NotFoundError
from medray.serving.auth import Refusal
from medray.serving.worklist import Worklist
from medray.storage.location import Location, locate

__all__ = ["Reference", "Sources", "parse_reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a request refers to: a URI, a series by its UIDs, or an image of the cohort.

    Attributes:
        uri: Of a file, or of a folder with the files of one DICOM series.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        image: Pseudonym of one of the cohort's series.
    """

    uri: str = ""
    study: str = ""
    series: str = ""
    image: str = ""


def parse_reference(body: bytes) -> Reference:
    """Read ``{"uri": …}``, ``{"study": …, "series": …}`` or ``{"image": …}``.

    Raises:
        InputError: If it is none of them.
    """
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    known = isinstance(said, dict) and set(said) in ({"uri"}, {"study", "series"}, {"image"})
    if known and all(isinstance(value, str) and value for value in said.values()):
        return Reference(**said)
    raise InputError('a reference is {"uri": "s3://…"}, {"study": "1.2…", "series": "1.2…"} or {"image": "…"}')


class Sources:
    """Fetches what may be referred to, and nothing else.

    Args:
        prefixes: URIs below which objects may be read.
        pacs: A DICOMweb service, as in ``dicomweb://host/path``; none where it is empty.
        cohort: The cohort that is shown; none where it is empty.
    """

    def __init__(self, prefixes: Sequence[str], pacs: str, cohort: str = "") -> None:
        self._prefixes = tuple(prefix.rstrip("/") for prefix in prefixes)
        self._pacs = pacs
        self._cohort = cohort

    @cached_property
    def _worklist(self) -> Worklist:
        return Worklist(self._cohort)

    def check(self, reference: Reference) -> None:
        """Refuse what may not be referred to.

        Raises:
            Refusal: 403.
        """
        if reference.uri:
            steps = reference.uri.replace("\\", "/").split("/")
            below = any(reference.uri.startswith(f"{prefix}/") for prefix in self._prefixes)
            if not below or ".." in steps or "%" in reference.uri:
                known = ", ".join(self._prefixes) or "none"
                why = f"this endpoint reads what lies below its sources ({known}), and the uri doesn't"
                raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", why)
        elif reference.image:
            if not self._cohort:
                raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "this endpoint shows no cohort to have an image of")
        elif not self._pacs:
            raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "this endpoint has no DICOMweb service to ask for a series")
        elif not all(part.isdigit() for uid in (reference.study, reference.series) for part in uid.split(".")):
            raise InputError("a UID has digits and dots")

    def series(self, uid: str) -> Reference:
        """Look a series up in the PACS.

        Args:
            uid: SeriesInstanceUID.

        Raises:
            NotFoundError: If the PACS has none.
            StorageError: If it fails.
        """
        from medray.pacs.dicomweb import DicomwebPacs  # noqa: PLC0415
        from medray.pacs.remote import parse_address  # noqa: PLC0415

        self.check(Reference(study=uid, series=uid))
        found = DicomwebPacs(parse_address(self._pacs)).locate(uid)
        if found is None:
            raise NotFoundError("the DICOMweb service has no such series")
        return Reference(study=found.study, series=found.series)

    def row(self, image: str) -> SeriesRow:
        """Return an image of the cohort, however a request named it.

        Raises:
            NotFoundError: If there is none.
        """
        return self._worklist.find(image)

    def fetch(self, reference: Reference, most_bytes: int) -> list[bytes]:
        """Return the files of an image.

        Args:
            reference: To what.
            most_bytes: Of all files together.

        Raises:
            NotFoundError: If there is nothing.
            ImageError: ``too-large``.
            StorageError: If the store or the PACS fails.
        """
        self.check(reference)
        if reference.image:
            return [self._worklist.nrrd(self._worklist.find(reference.image))]
        return self._at(reference.uri, most_bytes) if reference.uri else self._series(reference, most_bytes)

    def _at(self, uri: str, most_bytes: int) -> list[bytes]:
        place = locate(uri)
        if place.is_local and not any(_below(place, locate(prefix)) for prefix in self._prefixes):
            raise NotFoundError("there is no such object")  # a link that leads out of the sources
        if place.is_folder():
            entries = place.entries()
            if sum(entry.size for entry in entries) > most_bytes:
                raise _too_large(most_bytes)
            return [place.join(entry.name).read() for entry in entries]
        data = place.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise _too_large(most_bytes)
        return [data]

    def _series(self, reference: Reference, most_bytes: int) -> list[bytes]:
        from medray.pacs.dicomweb import DicomwebPacs  # noqa: PLC0415 - the gateway, which only checks, does without pydicom
        from medray.pacs.remote import RemoteSeries, parse_address  # noqa: PLC0415
        from medray.pacs.spool import Spool  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as folder:
            spool = Spool(Path(folder))
            DicomwebPacs(parse_address(self._pacs)).retrieve(RemoteSeries(reference.study, reference.series, 0), spool)
            files = sorted(spool.arriving.rglob("*.dcm"))
            if not files:
                raise NotFoundError("the DICOMweb service has no such series")
            if sum(file.stat().st_size for file in files) > most_bytes:
                raise _too_large(most_bytes)
            return [file.read_bytes() for file in files]


def _below(place: Location, source: Location) -> bool:
    return source.is_local and Path(place.path).resolve().is_relative_to(Path(source.path).resolve())


def _too_large(most_bytes: int) -> ImageError:
    return ImageError("too-large", f"the image has more than the {most_bytes >> 20} MB that a request may have")
