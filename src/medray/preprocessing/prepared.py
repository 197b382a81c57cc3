"""A prepared cohort on disk: which cases there are, of which split, made by which plan.

::

    PREPARED/prepared.json        plan, cohort id, splits; written last
    PREPARED/cases/<name>.arrow   see `medray.preprocessing.bricks`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as strict_dataclass

from medray import config
from medray.cohort.splits import Split
from medray.errors import InputError, NotFoundError
from medray.preprocessing.plan import Plan, read_plan
from medray.storage.location import Location, locate

__all__ = ["CaseRow", "Prepared", "commit_prepared", "open_prepared"]

SCHEMA_VERSION = 3


@strict_dataclass(frozen=True, kw_only=True, config=config.STRICT)
class CaseRow:
    """One case in ``prepared.json``; a synthetic one is only ever trained on."""

    series: str
    subject: str
    split: Split
    file: str
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared cohort.

    Attributes:
        root: Its folder.
        cohort: Id of the cohort version that it was prepared from, and after a plus that of the synthetic one.
        plan: What it was prepared by.
        cases: What it holds.
    """

    root: Location
    cohort: str
    plan: Plan
    cases: tuple[CaseRow, ...]

    def of(self, split: Split) -> list[CaseRow]:
        """Return the cases of a split."""
        return [case for case in self.cases if case.split == split]

    def subjects(self, split: Split) -> list[str]:
        """Return the subjects of a split, sorted."""
        return sorted({case.subject for case in self.of(split)})

    def check_splits(self) -> None:
        """Check that there is something to train and to validate on.

        Raises:
            InputError: If there isn't.
        """
        if not self.of("train") or not self.of("val"):
            raise InputError(f"{self.root.path} has no case to train on or none to validate on: prepare more subjects")


def commit_prepared(root: Location, cohort: str, plan: Plan, cases: tuple[CaseRow, ...]) -> Prepared:
    """Write ``prepared.json``: its presence means that every case is there."""
    ordered = tuple(sorted(cases, key=lambda case: case.series))
    record = {
        "schema_version": SCHEMA_VERSION,
        "cohort": cohort,
        "plan": config.dump(plan),
        "cases": [config.dump(case) for case in ordered],
    }
    root.join("prepared.json").write(json.dumps(record, indent=1).encode())
    return Prepared(root, cohort, plan, ordered)


def open_prepared(root: str | Path | Location) -> Prepared:
    """Open a prepared cohort.

    Raises:
        NotFoundError: If there is no complete one.
        ConfigError: If its plan is of another version.
    """
    place = locate(root)
    file = place.join("prepared.json")
    if not file.exists():
        raise NotFoundError(f"no prepared cohort at {place.path}: run medray prepare COHORT PLAN {place.path}")
    try:
        record: Mapping[str, Any] = json.loads(file.read())
    except ValueError:
        raise InputError(f"{file.path} is damaged: run medray prepare again") from None
    plan = read_plan(record["plan"], what=f"the plan in {file.path}")
    cases = tuple(config.load(CaseRow, row, what="prepared.json") for row in record["cases"])
    return Prepared(place, str(record["cohort"]), plan, cases)
