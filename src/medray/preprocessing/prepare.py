"""`prepare`: the Ray Data graph from a cohort's volumes to training cases on the plan's grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort
from medray.cohort.manifest import SeriesRow
from medray.cohort.splits import Split, split_subjects
from medray.engine import stream
from medray.errors import InputError
from medray.imaging.labels import LabelSchema
from medray.preprocessing.bricks import write_case
from medray.preprocessing.case import prepare_image, prepare_mask
from medray.preprocessing.plan import Plan, learnable
from medray.preprocessing.prepared import CaseRow, Prepared, commit_prepared
from medray.storage.location import Location, locate

__all__ = ["PEOPLE", "Preparation", "prepare", "prepare_case"]

PEOPLE = "people"
"""In a synthetic cohort's lineage: whose images it was made from, pseudonyms with spaces between."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """From where to where, by which plan.

    Attributes:
        cohort: Open cohort.
        plan: The recipe.
        target: The prepared folder.
    """

    cohort: Cohort
    plan: Plan
    target: Location


def prepare(
    cohort: Cohort,
    plan: Plan,
    target: str | Path,
    *,
    synthetic: Cohort | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Prepared:
    """Prepare every series of a cohort that the plan's task can learn from.

    Args:
        cohort: An open cohort.
        plan: Usually made from that same cohort; its labels must be the cohort's.
        target: A folder, a path or a URI; whole or absent after a crash.
        synthetic: From `medray.synthesise`, to be trained on too; nobody is validated or tested on it.
        on_progress: Called with ``("prepare", done, total)``.

    Raises:
        InputError: If labels differ, there are fewer than three subjects to learn from, the gate refused the synthetic ones, or
            these were made from subjects that the plan holds out.
        ImageError: If a series can't be prepared; the cohort was checked at ingestion, so this is a plan's fault.
    """
    if (cohort.index.labels or LabelSchema({})) != plan.labels:
        raise InputError(f"the plan's labels {dict(plan.labels.names)} are not those of cohort {cohort.index.id}")
    rows = learnable(cohort.rows, plan.task, located=plan.located)
    splits = split_subjects((row.subject for row in rows), val=plan.val, test=plan.test)
    made = _admitted(synthetic, plan, splits) if synthetic else []
    open_trail().record([Event("cohort.prepare", cohort.index.id, detail=f"{len(rows)} series read")])
    work = Preparation(cohort, plan, locate(target))
    other = Preparation(synthetic or cohort, plan, work.target)
    files = {}
    for done, (series, file) in enumerate(
        stream([*rows, *made], lambda row: prepare_case(other if row.synthetic else work, row)), start=1
    ):
        files[series] = file
        on_progress("prepare", done, len(rows) + len(made))
    cases = [_case_row(row, splits[row.subject], files[row.series]) for row in rows]
    cases += [_case_row(row, "train", files[row.series]) for row in made]
    name = f"{cohort.index.id}+{synthetic.index.id}" if synthetic else cohort.index.id
    return commit_prepared(work.target, name, plan, tuple(cases))


def _admitted(synthetic: Cohort, plan: Plan, splits: Mapping[str, Split]) -> list[SeriesRow]:
    """Return the series of a synthetic cohort that passed its gate and shows nothing of held-out people."""
    verdict = synthetic.index.lineage.get("gate", "")
    if verdict != "passed":
        why = f"its gate refused it: {verdict}" if verdict else "it has passed no gate: is it from medray synthesise?"
        raise InputError(f"cohort {synthetic.index.id} can't be trained on: {why}")
    if synthetic.index.labels != plan.labels:
        raise InputError(f"the plan's labels {dict(plan.labels.names)} are not those of cohort {synthetic.index.id}")
    known = [subject for subject in synthetic.index.lineage.get(PEOPLE, "").split() if splits.get(subject, "train") != "train"]
    if known:
        raise InputError(
            f"cohort {synthetic.index.id} was made from {len(known)} subjects that this plan validates or tests on: "
            "make both from plans with the same val and test"
        )
    return [row for row in synthetic.rows if row.synthetic]


def prepare_case(work: Preparation, row: SeriesRow) -> tuple[str, str]:
    """Prepare one series and return its name and its file, relative to the target."""
    volume = work.cohort.volume(row)
    prepared = prepare_image(volume, work.plan)
    mask = prepare_mask(work.cohort.mask(row), volume, work.plan, prepared) if work.plan.maps else None
    file = _case_file(work.plan, row)
    write_case(work.target.join(file), row.series, prepared.voxels.astype(np.float16), mask, present=row.present)
    return row.series, file


def _case_file(plan: Plan, row: SeriesRow) -> str:
    """Name a case by all that it follows from, so that another plan in the same folder overwrites nothing."""
    facts = json.dumps([config.dump(plan), row.volume, row.label, sorted(row.present)], sort_keys=True)
    return f"cases/{hashlib.sha256(facts.encode()).hexdigest()[:32]}.arrow"


def _case_row(row: SeriesRow, split: Split, file: str) -> CaseRow:
    return CaseRow(series=row.series, subject=row.subject, split=split, file=file, synthetic=bool(row.synthetic))
