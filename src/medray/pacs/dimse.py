"""C-FIND and C-GET (PS3.4 Annex C): objects come in the syntaxes in which the PACS keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from medray.errors import ImageError, StorageError
from medray.pacs.pieces import write_pieces_into
from medray.pacs.remote import PacsAddress, RemoteSeries
from medray.pacs.spool import Spool

__all__ = ["DimsePacs"]

FIND, GET = StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet
PENDING, SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = (0xFF00, 0xFF01), 0x0000, 0xA700, 0xC000
TIMEOUT_S = 60.0
SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless, JPEG2000, JPEGLSLossless,
    JPEGLSNearLossless, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, ExplicitVRBigEndian,
)  # fmt: skip
CLASSES_AT_ONCE = 10
"""An association has at most 128 presentation contexts; each class needs one for each syntax."""


class DimsePacs:
    """A PACS that is asked over DIMSE.

    Args:
        address: Where it is and what is wanted.
    """

    def __init__(self, address: PacsAddress) -> None:
        self._address = address

    def find(self) -> Iterator[RemoteSeries]:
        """Yield the series that match.

        Raises:
            StorageError: If the PACS can't be reached, or refuses.
        """
        studies = self._query("STUDY", {"StudyInstanceUID": "", **self._address.study})
        for study in studies:
            keys = {"SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": "", **self._address.series}
            for found in self._query("SERIES", {"StudyInstanceUID": str(study.StudyInstanceUID), **keys}):
                count = found.get("NumberOfSeriesRelatedInstances") or 0
                yield RemoteSeries(str(study.StudyInstanceUID), str(found.SeriesInstanceUID), int(count))

    def retrieve(self, series: RemoteSeries, spool: Spool) -> int:
        """Fetch a series.

        Raises:
            StorageError: If the PACS fails or refuses; what came is in the spool.
        """
        keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.series, "SOPInstanceUID": "", "SOPClassUID": ""}
        classes = sorted({str(found.SOPClassUID) for found in self._query("IMAGE", keys)})
        arrived = 0
        for start in range(0, len(classes), CLASSES_AT_ONCE):
            arrived += self._get(series, classes[start : start + CLASSES_AT_ONCE], spool)
        return arrived

    def _get(self, series: RemoteSeries, classes: Sequence[str], spool: Spool) -> int:
        arrived: set[str] = set()
        write_pieces_into(spool.incoming)

        def store(event: Any) -> int:
            path = Path(event.dataset_path)
            try:
                arrived.add(spool.accept(path).header.instance)
            except ImageError:
                return CANNOT_UNDERSTAND
            except StorageError:
                return OUT_OF_RESOURCES
            finally:
                path.unlink(missing_ok=True)
            return SUCCESS

        # One context for each syntax: with several in one, the PACS picks a plain one and decodes what it has.
        contexts = [build_context(GET), *(build_context(name, syntax) for name in classes for syntax in SYNTAXES)]
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.StudyInstanceUID, wanted.SeriesInstanceUID = "SERIES", series.study, series.series
        with self._association(contexts, classes, [(evt.EVT_C_STORE, store)]) as association:
            for status, _ in association.send_c_get(wanted, GET):
                self._require(status, allowed=(SUCCESS, 0xB000, *PENDING))
        return len(arrived)

    def _query(self, level: str, keys: dict[str, str]) -> list[Dataset]:
        wanted = Dataset()
        if not "".join(keys.values()).isascii():  # without it, letters would go out as "?", which matches any (PS3.4 C.2.2.2.4)
            wanted.SpecificCharacterSet = "ISO_IR 192"
        wanted.QueryRetrieveLevel = level
        for key, value in keys.items():
            setattr(wanted, key, value)
        found = []
        with self._association([build_context(FIND)], (), []) as association:
            for status, identifier in association.send_c_find(wanted, FIND):
                self._require(status, allowed=(SUCCESS, *PENDING))
                if status.Status in PENDING and identifier is not None:
                    found.append(identifier)
        return found

    @contextmanager
    def _association(self, contexts: list[Any], classes: Sequence[str], handlers: list[Any]) -> Iterator[Any]:
        entity = AE(self._address.calling)
        entity.requested_contexts = contexts
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        association = entity.associate(
            self._address.host,
            self._address.port,
            ae_title=self._address.title,
            ext_neg=[build_role(name, scp_role=True) for name in classes],
            evt_handlers=handlers,
            tls_args=(_tls(), self._address.host) if self._address.scheme == "dimse+tls" else None,
        )
        if not association.is_established:
            how = "rejects the association: check the titles" if association.is_rejected else "can't be reached"
            raise StorageError(f"the PACS {self._address.title} at {self._address.host}:{self._address.port} {how}")
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def _require(self, status: Dataset, allowed: tuple[int, ...]) -> None:
        """Raise on a failure status; an empty one means that the PACS went away, or doesn't know the calling title."""
        if "Status" not in status:
            what = f"ends the association: does it know the calling title {self._address.calling}?"
        elif status.Status not in allowed:
            what = f"answers with status {status.Status:#06x}"
        else:
            return
        raise StorageError(f"the PACS {self._address.title} at {self._address.host}:{self._address.port} {what}")


def _tls() -> Any:
    import ssl  # noqa: PLC0415 - only where TLS is asked for

    return ssl.create_default_context()
