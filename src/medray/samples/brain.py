"""`write_brain_cohort`: a folder of brain MR scans as hospitals and researchers have them, with their truth.

Anatomy is real (one template), variation is simulated: shape, contrast, bias field, noise, spacing, orientation and
lesions. Every second subject comes as a DICOM series, the others as NIfTI in BIDS folders
(https://bids-specification.readthedocs.io, derivatives' ``dseg`` and its ``dseg.tsv``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from medray.errors import ConfigError
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import BRAIN_LABELS, Scan, scan_subject
from medray.samples.source import new_source, write_names
from medray.samples.subject import COURSES, Subject, followed_up, make_subject

__all__ = ["Illness", "write_brain_cohort"]

Facts: TypeAlias = dict[str, dict[str, Any]]
"""Scan name to what is true of it."""
FORMATS = ("nifti", "dicom")


@dataclass(frozen=True, slots=True)
class Illness:
    """Who has lesions, and what these do.

    Attributes:
        healthy: Share of people without lesions, at their first scan.
        courses: What lesions do, that people take in turn: see `medray.samples.subject.followed_up`.

    Raises:
        ConfigError: If the share is none, or a course unknown.
    """

    healthy: float = 0.0
    courses: tuple[str, ...] = ("mixed",)

    def __post_init__(self) -> None:
        if not 0 <= self.healthy <= 1:
            raise ConfigError(f"healthy={self.healthy} is a share from 0 to 1")
        if not self.courses or set(self.courses) - set(COURSES):
            raise ConfigError(f"courses {', '.join(self.courses)}: take some of {', '.join(COURSES)}")


ILL = Illness()


def write_brain_cohort(
    folder: Path | str,
    *,
    subjects: int = 12,
    followups: int = 0,
    illness: Illness = ILL,
    seed: int = 0,
    formats: tuple[str, ...] = FORMATS,
    over: Callable[[Callable[[int], Facts], Sequence[int]], Iterable[Facts]] = map,
    on_scan: Callable[[str], None] = lambda name: None,
) -> Path:
    """Write a cohort of simulated subjects.

    Args:
        folder: A new or empty folder.
        subjects: How many people.
        followups: How many later scans of each, with known lesion growth.
        illness: Who has lesions, and what these do.
        seed: Equal seeds give equal files.
        formats: Formats that subjects take in turn: ``"nifti"``, ``"dicom"``.
        over: How to map a function over subject numbers: ``map``, or something that does it in parallel.
        on_scan: Called with each scan's name when it is written.

    Returns:
        The folder. ``truth.json`` in it holds each scan's lesion volumes in ml, exact ellipsoids.

    Raises:
        ConfigError: If the folder has files, or a format or a number is unknown.
        NotFoundError: If the ``samples`` extra isn't installed.
    """
    if subjects < 1 or followups < 0 or not formats or set(formats) - set(FORMATS):
        raise ConfigError(f"subjects={subjects}, followups={followups}, formats={formats}: need ≥ 1, ≥ 0 and {FORMATS}")
    root = new_source(folder)
    truth: Facts = {}
    drawing = Drawing(followups, illness, seed)
    for facts in over(partial(_write_subject, root, drawing, formats), range(subjects)):
        truth |= facts
        for name in facts:
            on_scan(name)
    write_names(root, BRAIN_LABELS)
    (root / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return root


@dataclass(frozen=True, slots=True)
class Drawing:
    """What people are drawn by: see `write_brain_cohort`."""

    followups: int
    illness: Illness
    seed: int


def _write_subject(root: Path, drawing: Drawing, formats: tuple[str, ...], number: int) -> Facts:
    truth = {}
    for name, state, scan in _scans(number, drawing):
        _write(root, name, scan, formats[number % len(formats)])
        truth[name] = _truth(state, scan)
    return truth


def _scans(number: int, drawing: Drawing) -> Iterator[tuple[str, Subject, Scan]]:
    """Yield each scan of a subject; a subject's draws depend on nothing but the seed and its number."""
    rng = np.random.default_rng([drawing.seed, number])
    ill = np.random.default_rng([drawing.seed, number, 1]).random() >= drawing.illness.healthy
    subject = make_subject(load_anatomy(), rng, lesions=int(rng.integers(1, 6)) * ill)
    courses = drawing.illness.courses
    for session in range(drawing.followups + 1):
        if session:
            subject = followed_up(subject, rng, courses[number % len(courses)])
        yield f"sub-{number + 1:03d}_ses-{session + 1:02d}", subject, scan_subject(subject, rng)


def _write(root: Path, name: str, scan: Scan, form: str) -> None:
    patient, session = name.split("_")
    folder = root / patient / session / ("anat" if form == "nifti" else "dicom")
    folder.mkdir(parents=True)
    mask = Volume(scan.mask[np.newaxis], scan.image.affine)
    (folder.parent / "anat").mkdir(exist_ok=True)
    (folder.parent / "anat" / f"{name}_dseg.nii.gz").write_bytes(write_nifti(mask))
    if form == "nifti":
        (folder / f"{name}_T1w.nii.gz").write_bytes(write_nifti(scan.image))
        return
    day = f"2020{int(session.removeprefix('ses-')):02d}01"
    identity = SeriesIdentity(patient=patient, study=session, series=name, date=day)
    for number, data in enumerate(write_dicom_series(scan.image, identity), start=1):
        (folder / f"IM{number:04d}.dcm").write_bytes(data)


def _truth(subject: Subject, scan: Scan) -> dict[str, Any]:
    return {
        "lesions_ml": [round(lesion.volume_ml, 5) for lesion in subject.lesions],
        "lesion_total_ml": round(sum(lesion.volume_ml for lesion in subject.lesions), 5),
        "mask_ml": BRAIN_LABELS.volumes_ml(scan.mask, scan.image.voxel_ml),
    }
