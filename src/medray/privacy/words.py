"""Words that a description may keep: technique, anatomy, plane, contrast. Everything else in a free text may be a name."""

from __future__ import annotations

import re

__all__ = ["cleaned"]

MAX_DIGITS = 2
"""Longer numbers may be identifiers or dates."""
WORDS = frozenset(
    """
    2d 3d 4d abd abdomen abdominal acr adc ap angio angiography ankle anterior aorta arm art arterial asl axial b0 b1000
    bold bone brain breast bw c-spine calcium cardiac carotid cbct cbf cbv cerebral cervical chest ciss clavicle coil
    colon contrast cor coronal cow cranial ct cta ctp cube cxr delayed diffusion dixon dti dwi dual dynamic echo elbow
    enhanced epi ep2d ex extremity face fast fat fatsat feet femur fgre fl2d fl3d flair flash foot fov fs fse gad gated
    gd gradient gre hand haste head heart hip hires hr hrct humerus iac in inversion ir iso isotropic kidney kidneys
    knee l-spine lat lateral le left leg liver localizer loc low lower ls lumbar lung lungs lt mag mammo mammogram
    mandible map mc medial mip mpr mprage mr mra mri mrcp mrv mt nasal neck non noncontrast o oblique opp orbit orbits
    pa pancreas par parallel pc pd pdw pelvis perf perfusion pet phase pituitary portal post posterior pre precontrast
    postcontrast prone prostate proton radius recon ref renal resting rib ribs right routine rt sag sagittal scan scout
    se sella shoulder sinus sinuses skull slice small soft space spgr spin spine spl spleen stir std supine survey svs
    swi t1 t1w t1rho t2 t2w t2* t-spine tb temporal ter thick thin thoracic thorax thyroid tibia tirm tissue tof
    topogram tra trace trans transverse trauma tse turbo ulna upper us vein venous vertebra vibe view vol volume w w/
    w/o water wb whole with without wo wrist xr
    """.split()  # noqa: SIM905 - a list of three hundred quotes is no easier to read
)


def cleaned(text: str) -> str:
    """Return a description with only the words above, in their order and spelling, and numbers of at most two digits."""
    words = re.findall(r"[A-Za-z0-9*/-]+", text.replace("_", " "))
    return " ".join(word for word in words if word.lower() in WORDS or (word.isdigit() and len(word) <= MAX_DIGITS))
