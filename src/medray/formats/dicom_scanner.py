"""What made a DICOM series, and whose it is: what a record of a prediction keeps, as pseudonyms."""

from __future__ import annotations

from dataclasses import dataclass

from medray.formats.dicom_file import parse, reading, text

__all__ = ["Scanner", "scanner_of"]

KEYWORDS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "site": "InstitutionName",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
}


@dataclass(frozen=True, slots=True)
class Scanner:
    """As the header says it; empty where it doesn't.

    Attributes:
        patient: PatientID.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        site: InstitutionName.
        manufacturer: Manufacturer.
        model: ManufacturerModelName.
    """

    patient: str
    study: str
    series: str
    site: str
    manufacturer: str
    model: str


@reading()
def scanner_of(data: bytes) -> Scanner:
    """Read one file's header.

    Raises:
        ImageError: If it isn't DICOM.
    """
    dataset = parse(data, stop_before_pixels=True, specific_tags=list(KEYWORDS.values()))
    return Scanner(**{name: text(dataset, keyword).strip() for name, keyword in KEYWORDS.items()})
