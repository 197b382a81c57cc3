"""Codes by which DICOM results name what was found and measured.

Sources: PS3.16, DICOM's own codes (annex D), SNOMED CT and UCUM as pydicom has them; a private scheme for the rest.
"""

from __future__ import annotations

import re

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

__all__ = ["MEASURES", "PROCEDURES", "RESPONSES", "UNITS", "code_of"]

PRIVATE = "99MEDRAY"
"""The scheme of codes for names that SNOMED CT doesn't know as they are."""
PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
    "NM": codes.LN.NMUnspecifiedBodyRegion,
}
UNITS = {
    "ml": Code("ml", "UCUM", "milliliter"),
    "mm": codes.UCUM.Millimeter,
    "1": codes.UCUM.NoUnits,
    "%": codes.UCUM.Percent,
}
MEASURES = {
    "volume": codes.SCT.Volume,
    "diameter": codes.SCT.Diameter,
    "long axis": codes.SCT.LongAxis,
    "short axis": codes.SCT.ShortAxis,
    "probability": codes.DCM.Probability,
    "sum of diameters": Code("sum-of-diameters", PRIVATE, "Sum of target lesions' longest diameters"),
    "volume change": Code("volume-change", PRIVATE, "Volume change since the time point before"),
}
RESPONSES = {
    "CR": codes.DCM.TargetLesionCompleteResponse,
    "PR": codes.DCM.TargetLesionPartialResponse,
    "SD": codes.DCM.TargetLesionStableDisease,
    "PD": codes.DCM.TargetLesionProgressiveDisease,
}
"""CID 6144."""
BRITISH = {"GreyMatter": "GrayMatter", "Tumour": "Tumor"}


def code_of(name: str) -> Code:
    """Return the code of a name such as ``white-matter``: SNOMED CT's where it has one of that name, else a private one."""
    keyword = "".join(word.capitalize() for word in re.findall(r"[A-Za-z0-9]+", name))
    found = getattr(codes.SCT, BRITISH.get(keyword, keyword), None) if keyword else None
    return found or Code(re.sub(r"[^A-Za-z0-9]+", "-", name)[:16] or "label", PRIVATE, name[:64])
