"""Whose predictions must not come back: ``ROOT/_erased/``, which is no model's name, a file an erasure.

What was said of a patient before they were erased may still be on its way from a node, or in the hands of who joins files.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from datetime import datetime

from pydantic.dataclasses import dataclass

from medray import config
from medray.errors import InputError, NotFoundError
from medray.monitoring.record import PredictionRecord
from medray.storage.location import Location

__all__ = ["ERASED", "Suppressed", "read_suppressed", "suppress"]

ERASED = "_erased"


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Suppressed:
    """Whom an erasure was of.

    Attributes:
        at: When, UTC, ISO 8601: what is predicted later is another matter.
        subjects: Pseudonyms of the patient.
        series: Of their series.
    """

    at: str
    subjects: frozenset[str]
    series: frozenset[str] = frozenset()

    def covers(self, record: PredictionRecord) -> bool:
        """Tell whether a record is of the patient, and from before."""
        return record.at <= datetime.fromisoformat(self.at) and self.has(record)

    def has(self, record: PredictionRecord) -> bool:
        """Tell whether a record is of the patient."""
        image = record.reference.removeprefix("image:") if record.reference.startswith("image:") else ""
        return record.subject in self.subjects or record.series in self.series or image in self.series


def read_suppressed(root: Location) -> list[Suppressed]:
    """Return who was erased from records.

    Raises:
        InputError: If one of the files is damaged: records wait where they are then.
    """
    folder = root.join(ERASED)
    try:
        names = [entry.name for entry in folder.entries()]
    except NotFoundError:
        return []
    return [_read(folder, name) for name in names]


def suppress(root: Location, at: datetime, subjects: Collection[str], series: Collection[str]) -> Suppressed:
    """Write down who is erased."""
    made = Suppressed(at=at.isoformat(), subjects=frozenset(subjects), series=frozenset(series))
    facts = {"at": made.at, "subjects": sorted(made.subjects), "series": sorted(made.series)}
    root.join(ERASED, f"{secrets.token_hex(8)}.json").write(json.dumps(facts, indent=1).encode())
    return made


def _read(folder: Location, name: str) -> Suppressed:
    try:
        return config.load(Suppressed, json.loads(folder.join(name).read()), what=f"{ERASED}/{name}")
    except ValueError:
        told = f"{folder.path}/{name} is damaged: get it from a backup, it says whose records must not come back"
        raise InputError(told) from None
