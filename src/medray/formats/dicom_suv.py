"""The factor that turns PET activity into standardized uptake values (PS3.3 C.8.9; QIBA's vendor-neutral recipe for SUVbw).

It follows from weight, dose, half-life and times, which de-identification may take away; the factor itself identifies nobody.
"""

from __future__ import annotations

from pydicom import Dataset

from medray.formats.dicom_file import reading, text

__all__ = ["suv_factor"]

DAY_S = 86_400


@reading()
def suv_factor(header: Dataset) -> float | None:
    """Return the factor from Bq/ml to SUV by body weight in g/ml; None where the header doesn't say enough.

    Only images decay-corrected to the series' start are covered, and none whose series was made after they were acquired: then
    its time is that of a later computation, and not what the correction is for.
    """
    infos = header.get("RadiopharmaceuticalInformationSequence") or []
    if text(header, "Units") != "BQML" or text(header, "DecayCorrection") != "START" or len(infos) != 1:
        return None
    try:
        weight_g = float(header.PatientWeight) * 1000.0
        dose_bq, half_life_s = float(infos[0].RadionuclideTotalDose), float(infos[0].RadionuclideHalfLife)
        started = text(infos[0], "RadiopharmaceuticalStartDateTime")[8:] or text(infos[0], "RadiopharmaceuticalStartTime")
        series_s = _seconds(text(header, "SeriesTime"))
        waited_s = (series_s - _seconds(started)) % DAY_S
        acquired_s = _seconds(text(header, "AcquisitionTime") or text(header, "SeriesTime"))
    except (AttributeError, TypeError, ValueError):
        return None
    if min(weight_g, dose_bq, half_life_s) <= 0 or 1 < (series_s - acquired_s) % DAY_S < DAY_S / 2:
        return None
    return float(weight_g / (dose_bq * 2.0 ** (-waited_s / half_life_s)))


def _seconds(time: str) -> float:
    """Return the seconds since midnight of a DICOM time, ``HHMMSS.FFFFFF``."""
    digits = time.partition("+")[0].partition("-")[0]
    return int(digits[:2]) * 3600 + int(digits[2:4] or 0) * 60 + float(digits[4:] or 0)
