"""De-identify one DICOM data set: a pure function, so that a thousand workers agree without talking.

Follows PS3.15 E.2: listed attributes as `medray.privacy.profile` says, at every depth; unlisted ones are kept, sequences among
them item by item. Three nets lie below the table, for what it can't name: attributes that no dictionary knows are removed,
unlisted dates are treated as dates, and a kept text that repeats the patient's name or an identifier is emptied.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydicom import DataElement, Dataset, Sequence
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from medray import __version__
from medray.errors import ImageError
from medray.privacy.profile import METHOD_CODES, OVERLAY_OR_CURVE_GROUPS, Action, Profile
from medray.privacy.pseudonym import Naming
from medray.privacy.traces import Traces, traces_of
from medray.privacy.words import cleaned

__all__ = ["Deidentified", "deidentify"]

STANDARD_UIDS = "1.2.840.10008."
DATE_VRS = ("DA", "DT")
TEXT_VRS = ("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR")
PATIENT_NAME, PATIENT_ID = 0x00100010, 0x00100020
IDENTIFIERS = (PATIENT_NAME, PATIENT_ID, 0x00080050, 0x00101000, 0x00101001, 0x00101005, 0x00200010, 0x00380010)
"""Attributes whose values must not turn up in any text: names, patient and visit ids, accession number."""
REFERENCE_VRS = ("UI", "IS", "US")
KEPT_META = (0x00020000, 0x00020001, 0x00020002, 0x00020010)
DUMMIES: Mapping[str, Any] = {
    "AS": "000Y", "DA": "19000101", "DT": "19000101000000", "TM": "000000", "DS": "0", "IS": "0",
    "FD": 0.0, "FL": 0.0, "SL": 0, "SS": 0, "UL": 0, "US": 0, "SV": 0, "UV": 0,
    "OB": b"\0\0", "OW": b"\0\0", "UN": b"", "OF": b"\0\0\0\0", "OD": b"\0" * 8, "OL": b"\0" * 4, "OV": b"\0" * 8,
}  # fmt: skip
DUMMY_TEXT = "ANONYMIZED"


@dataclass(frozen=True, slots=True, eq=False)
class Deidentified:
    """A data set and what was done to it.

    Attributes:
        dataset: A new data set.
        actions: How many attributes met each of PS3.15's actions.
    """

    dataset: Dataset
    actions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Work:
    profile: Profile
    naming: Naming
    patient: str
    subject: str
    traces: Traces
    actions: Counter[str]


def deidentify(
    dataset: Dataset, profile: Profile, naming: Naming, *, patient: str = "", clean_pixels: bool = False
) -> Deidentified:
    """Return a data set without its patient.

    Args:
        dataset: Any IOD; stays as it is. PixelData is carried over untouched: see `medray.privacy.pixels`.
        profile: With ``none``, the data set is only copied.
        naming: Pseudonyms for the patient and for UIDs, and the patient's shift of dates.
        patient: The patient's identifier as the caller groups by it; PatientID by default.
        clean_pixels: Whether burned-in text was looked for and blanked (`medray.privacy.pixels`), so that the object says so.

    Raises:
        ImageError: If an attribute can't be read, so that nobody could say what it holds.
    """
    if profile.identified:
        return Deidentified(_copied(dataset), {})
    identity = patient or str(dataset.get("PatientID") or dataset.get("StudyInstanceUID") or "")
    work = _Work(profile, naming, identity, naming.name("subject", identity), _traces(dataset), Counter())
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")  # they repeat the values that they are about
            result = _cleaned(dataset, work)
            _sign(result, profile, clean_pixels=clean_pixels)
            meta = getattr(dataset, "file_meta", None)
            if meta is not None:
                result.file_meta = _cleaned_meta(meta, work)
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on damaged values
        raise ImageError(
            "unreadable-dicom", f"an attribute can't be read ({type(error).__name__}): nobody can vouch for it"
        ) from None
    return Deidentified(result, dict(work.actions))


def _copied(dataset: Dataset) -> Dataset:
    result = Dataset()
    for element in dataset:
        result.add(element)
    return result


def _cleaned(dataset: Dataset, work: _Work) -> Dataset:
    result = Dataset()
    for element in dataset:
        action = _action(element, work.profile)
        kept = _applied(element, action, work)
        work.actions[action] += 1
        if kept is not None:
            result.add(kept)
    return result


def _action(element: DataElement, profile: Profile) -> Action:
    listed = profile.action(int(element.tag))
    if listed is not None:
        return listed
    if element.tag.group >> 8 in OVERLAY_OR_CURVE_GROUPS or not dictionary_has_tag(element.tag):
        return "X"
    if element.VR in DATE_VRS:
        return "C" if "dates" in profile.options else "X"
    return "K"


def _applied(element: DataElement, action: Action, work: _Work) -> DataElement | None:
    """Return the element after an action, or None where it goes."""
    if action == "X":
        return None
    if element.VR == "SQ":
        inside = [_cleaned(item, work) for item in element.value or []] if action in {"K", "U", "C"} else []
        return DataElement(element.tag, "SQ", Sequence([_reference(item) for item in inside] if action == "U" else inside))
    if action == "K":
        return _kept(element, work)
    if action == "C":
        return _cleaned_value(element, work)
    return _replaced(element, action, work)


def _reference(item: Dataset) -> Dataset:
    """Return what refers to another object: UIDs and numbers of frames (the table's U*)."""
    result = Dataset()
    for element in item:
        if element.VR in REFERENCE_VRS:
            result.add(element)
    return result


def _replaced(element: DataElement, action: Action, work: _Work) -> DataElement | None:
    """Return a pseudonym, a new UID, nothing, or a dummy in an element's place."""
    if int(element.tag) in {PATIENT_NAME, PATIENT_ID}:
        return DataElement(element.tag, element.VR, work.subject)
    if action == "Z":
        return DataElement(element.tag, element.VR, None)
    if element.VR == "UI":
        return DataElement(element.tag, "UI", _new_uid(element.value, work.naming))
    return DataElement(element.tag, element.VR, DUMMIES.get(element.VR, DUMMY_TEXT)) if action == "D" else None


def _kept(element: DataElement, work: _Work) -> DataElement:
    if element.VR in TEXT_VRS and work.traces.in_text(str(element.value or ""), term=element.VR == "CS"):
        return DataElement(element.tag, element.VR, None)
    return element


def _cleaned_value(element: DataElement, work: _Work) -> DataElement | None:
    """Shift a date, or keep only the harmless words of a text."""
    if element.VR in {*DATE_VRS, "TM"}:
        values = element.value if element.VM > 1 else [element.value]
        shifted = [_shifted(str(value or ""), element.VR, work) for value in values]
        return DataElement(element.tag, element.VR, shifted if element.VM > 1 else shifted[0])
    if element.VR in TEXT_VRS and element.VR not in {"AE", "PN", "UR"}:
        values = element.value if element.VM > 1 else [element.value]
        texts = [cleaned(str(value or "")) for value in values]
        return DataElement(element.tag, element.VR, texts if element.VM > 1 else texts[0])
    return None


def _shifted(value: str, vr: str, work: _Work) -> str:
    """Move a date by the patient's days; a time of day stays, for the shift is whole days."""
    if vr == "TM":
        return value if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", value) else ""
    match = re.fullmatch(r"(\d{8})(\d{0,6}(?:\.\d{1,6})?(?:[+-]\d{4})?)", value)
    if match is None or (vr == "DA" and match[2]):
        return ""
    try:
        day = datetime.strptime(match[1], "%Y%m%d") + timedelta(days=work.naming.shift_days(work.patient))
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}{match[2]}"


def _new_uid(value: Any, naming: Naming) -> Any:
    if value is None or value == "":
        return value
    if isinstance(value, str):
        return value if value.startswith(STANDARD_UIDS) else UID(naming.uid(value))
    return [_new_uid(str(part), naming) for part in value]


def _traces(dataset: Dataset) -> Traces:
    found = [dataset[tag] for tag in IDENTIFIERS if tag in dataset]
    values = [value for element in found for value in (element.value if element.VM > 1 else [element.value or ""])]
    return traces_of(map(str, values))


def _cleaned_meta(meta: FileMetaDataset, work: _Work) -> FileMetaDataset:
    """Keep what a reader needs to parse the file; application titles and private information go."""
    result = FileMetaDataset()
    for element in meta:
        if int(element.tag) in KEPT_META:
            result.add(element)
    if "MediaStorageSOPInstanceUID" in meta:
        uid = str(meta.MediaStorageSOPInstanceUID)
        result.MediaStorageSOPInstanceUID = uid if "uids" in work.profile.options else _new_uid(uid, work.naming)
    return result


def _sign(dataset: Dataset, profile: Profile, *, clean_pixels: bool) -> None:
    """Say in the object what was done to it (PS3.15 E.1.1, E.3.6)."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"medray {__version__}: PS3.15 {profile}"
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in profile.options else "REMOVED"
    if clean_pixels:
        dataset.BurnedInAnnotation = "NO"
    if "faces" in profile.options:
        dataset.RecognizableVisualFeatures = "NO"
    codes = []
    for word in ("basic", *(["pixels"] if clean_pixels else []), *sorted(profile.options)):
        code = Dataset()
        code.CodeValue, code.CodeMeaning = METHOD_CODES[word]
        code.CodingSchemeDesignator = "DCM"
        codes.append(code)
    dataset.DeidentificationMethodCodeSequence = Sequence(codes)
