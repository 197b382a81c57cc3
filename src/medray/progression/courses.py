"""What a model of progression says of a patient: each scan paired with the next, and the course of each label in between."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from medray.errors import InputError
from medray.formats.dicom_results import Finding, Measurement, tracking_uid, write_report
from medray.imaging.volume import Volume
from medray.inference.prediction import Prediction
from medray.progression.pair import ScanPair, pairs_in_turn
from medray.progression.visit import Visit, years_between
from medray.storage.location import Location
from medray.tasks.answer import Course

__all__ = ["Courses", "courses_of", "courses_report", "write_courses"]

HEAD = (
    "label", "earlier", "later", "years", "before_mm3", "after_mm3", "growth", "rate_per_year", "shrunk", "stable", "grown",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """A patient's scans and what the model says of each and the next.

    Attributes:
        visits: The scans, the earliest first.
        pairs: Each scan with the next.
        said: Of each pair.
    """

    visits: Sequence[Visit]
    pairs: Sequence[ScanPair]
    said: Sequence[Prediction]

    @property
    def years(self) -> list[float]:
        """Of each scan, from the first."""
        return [years_between(self.visits[0], visit) for visit in self.visits]

    def told(self) -> Iterator[tuple[int, str, Course]]:
        """Yield each pair's number, from 0, with each label and its course."""
        for at, said in enumerate(self.said):
            for label, course in said.answer.courses.items():
                yield at, label, course

    def brief(self) -> dict[str, Any]:
        """Return what a table of patients says: the most probable class of each label up to the last scan."""
        return {"courses": {label: course.kind for label, course in self.said[-1].answer.courses.items()}}

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        steps = [f"{at}-{at + 1}" for at in range(1, len(self.visits))]
        fits = [pair.alignment.pairs[0, 1] for pair in self.pairs]
        return {
            "time_points": [
                {"name": visit.name, "years": round(year, 4)} for visit, year in zip(self.visits, self.years, strict=True)
            ],
            "alignment": {
                step: {"likeness": fit.likeness, "inconsistent_mm": fit.inconsistent_mm}
                for step, fit in zip(steps, fits, strict=True)
            },
            "courses": {step: said.plain()["courses"] for step, said in zip(steps, self.said, strict=True)},
        }


def courses_of(predict: Callable[[Volume], Prediction], visits: Sequence[Visit]) -> Courses:
    """Pair a patient's scans in turn, and ask a model of progression about each pair.

    Args:
        predict: The model's.
        visits: Two or more, in any order.

    Raises:
        InputError: If there are fewer than two, two are of one day, or their modalities differ.
        ImageError: If two can't be aligned, or the model doesn't know their modality.
    """
    ordered, pairs = pairs_in_turn(visits)
    return Courses(ordered, pairs, [predict(pair.image) for pair in pairs])


def write_courses(target: Location, courses: Courses, model: str) -> None:
    """Write ``courses.json``, ``courses.csv`` and, for each scan after the first that is a DICOM series, ``report-N.dcm``.

    Args:
        target: The folder.
        courses: What is told.
        model: ``name/version`` of what says so.
    """
    target.join("courses.json").write(json.dumps({"model": model, **courses.plain()}, indent=1).encode())
    target.join("courses.csv").write(_table(courses).encode())
    for at, visit in enumerate(courses.visits[1:], start=1):
        if visit.series is not None:
            target.join(f"report-{at + 1}.dcm").write(courses_report(courses, at, model))


def courses_report(courses: Courses, at: int, model: str) -> bytes:
    """Write what became of each label up to a scan as a DICOM Structured Report by TID 1500.

    Args:
        courses: Of the patient.
        at: Which scan, 1 or more; it has to be a DICOM series.
        model: ``name/version``.

    Raises:
        InputError: If it is none.
    """
    source = courses.visits[at].series
    if source is None:
        raise InputError(f"{courses.visits[at].name} is no DICOM series, which a report could be about: ask for JSON")
    first = courses.visits[0].identity
    findings = [
        Finding(label, label, _measured(course), tracking_uid(first, label, "course"))
        for label, course in courses.said[at - 1].answer.courses.items()
    ]
    return write_report(findings, source, model)


def _measured(course: Course) -> list[Measurement]:
    found = [Measurement("volume", course.after_mm3 / 1000, "ml")]
    if course.before_mm3:
        found.append(Measurement("volume change", course.percent, "%"))
    return found


def _table(courses: Courses) -> str:
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(HEAD)
    steps = list(pairwise(courses.years))
    for at, label, course in courses.told():
        plain = course.plain()
        classes = plain.pop("probabilities")
        earlier, later = steps[at]
        table.writerow([label, at + 1, at + 2, round(later - earlier, 4), *plain.values(), *classes.values()])
    return rows.getvalue()
