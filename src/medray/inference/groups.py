"""Which groups of patients and scanners an image belongs to, as far as its cohort kept that."""

from __future__ import annotations

import json
from typing import Any

from medray.imaging.volume import Volume

__all__ = ["groups_of"]

AGE_BANDS = ((18, "under 18"), (40, "18 to 39"), (65, "40 to 64"), (1000, "65 and over"))
A_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}
TAGS = {"sex": "00100040", "site": "00080080", "manufacturer": "00080070"}


def groups_of(volume: Volume) -> dict[str, str]:
    """Return kind of group to group: modality and, where the header is kept and has them, sex, age, site, manufacturer.

    What de-identification took away is not there: ages and sexes need the profile ``+patient``, sites ``+institution``,
    manufacturers ``+device``.
    """
    groups = {"modality": volume.meta.get("modality", "")}
    header: dict[str, Any] = json.loads(volume.meta.get("dicom", "{}"))
    groups |= {kind: _first(header, tag) for kind, tag in TAGS.items()}
    groups["age"] = _age_band(_first(header, "00101010"))
    return {kind: group for kind, group in groups.items() if group}


def _first(header: dict[str, Any], tag: str) -> str:
    values = header.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip()


def _age_band(age: str) -> str:
    """Sort a DICOM age string (PS3.5 6.2, AS) into a band."""
    if len(age) != 4 or not age[:3].isdigit() or age[3] not in A_YEAR:
        return ""
    years = int(age[:3]) // A_YEAR[age[3]]
    return next(name for above, name in AGE_BANDS if years < above)
