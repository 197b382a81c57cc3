"""The patients of a cohort who were scanned more than once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from medray.cohort.addition import naming_of
from medray.cohort.cohort import Cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.order import order_told
from medray.errors import ImageError
from medray.privacy.pseudonym import Naming
from medray.progression.when import day_of_text, series_of

__all__ = ["Patient", "patients_of"]


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient.

    Attributes:
        name: Pseudonym.
        rows: A series of each time point.
        found: The day of each, counted from any; None where it isn't known.
        ordered: Whether what is said of them tells in which order they were made.
        stamp: Changes when a series or what is done with it does.
    """

    name: str
    rows: tuple[SeriesRow, ...]
    found: tuple[float | None, ...]
    ordered: bool
    stamp: str

    def days(self, apart_days: float) -> list[float]:
        """Return the day of each time point: those that are known or, where none is, days as far apart as was said.

        Raises:
            ImageError: If some aren't known, or none is and nothing was said.
        """
        known = [day for day in self.found if day is not None]
        if len(known) == len(self.found):
            return known
        if known:
            why = f"of this patient's {len(self.found)} studies {len(known)} have a date: all must, or none"
            raise ImageError("undated", why)
        if not apart_days:
            why = "this patient's studies have no dates: say how many days they are apart (apart_days), if that is known"
            raise ImageError("undated", why)
        if not self.ordered:
            why = "nothing says in which order this patient's studies were made: number the sessions' names, or date them"
            raise ImageError("undated", why)
        return [at * apart_days for at in range(len(self.found))]


def patients_of(cohort: Cohort, facts: Sequence[str], *, labelled: bool) -> tuple[list[Patient], int]:
    """Return those who were scanned more than once, and how many weren't.

    Args:
        cohort: With its pseudonym key at hand, which opens the dates.
        facts: What is done with them, for their stamps.
        labelled: Whether series without a label map are left out.

    Raises:
        ConfigError: If the key is missing.
    """
    of_one: dict[str, list[SeriesRow]] = defaultdict(list)
    for row in cohort.rows:
        if not row.synthetic and row.channels == 1 and (row.label or not labelled):
            of_one[row.subject].append(row)
    names = naming_of(cohort)
    chosen = {subject: series_of(rows) for subject, rows in sorted(of_one.items())}
    patients = [_patient(subject, rows, names, facts) for subject, rows in chosen.items()]
    made = [patient for patient in patients if len(patient.rows) > 1]
    return made, len(patients) - len(made)


def _patient(subject: str, rows: Sequence[SeriesRow], names: Naming, facts: Sequence[str]) -> Patient:
    """Make a patient; of several studies of one day the last stands for it."""
    said = [names.unseal(row.when) for row in rows]
    days = list(map(day_of_text, said))
    of_day = {day: row for day, row in zip(days, rows, strict=True) if day is not None}
    if all(day is not None for day in days):
        days, rows = [*sorted(of_day)], [of_day[day] for day in sorted(of_day)]
    return Patient(subject, tuple(rows), tuple(days), order_told(said), _stamp(facts, rows))


def _stamp(facts: Sequence[str], rows: Sequence[SeriesRow]) -> str:
    return hashlib.sha256("\n".join([*facts, *(f"{row.volume} {row.label}" for row in rows)]).encode()).hexdigest()[:32]
