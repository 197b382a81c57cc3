"""``ray job submit --working-dir . -- python jobs/prepare.py --config prepare.toml``: plan a cohort and prepare it.

Keys: root, prepared; optional task, and a table ``plan`` of fields to override.
"""

from __future__ import annotations

from typing import Any

import medray
from medray.cli.job import run_job
from medray.preprocessing.plan import TaskName


def step(root: str, prepared: str, task: TaskName = "segmentation", plan: dict[str, Any] | None = None) -> dict[str, object]:
    """Prepare and report."""
    cohort = medray.open_cohort(root)
    made = medray.prepare(cohort, medray.plan(cohort, task=task, changes=plan), prepared)
    return {"cohort": cohort.index.id, "prepared": prepared, "cases": len(made.cases)}


if __name__ == "__main__":
    run_job(step)
