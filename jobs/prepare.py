"""``ray job submit --working-dir . -- python jobs/prepare.py --config prepare.toml``: plan a cohort and prepare it.

Keys: root, prepared; optional task, synthetic (a cohort from jobs/synthesise.py to be trained on too), and a table ``plan`` of
fields to override.
"""

from __future__ import annotations

from typing import Any

import medray
from medray.cli.job import run_job
from medray.preprocessing.plan import TaskName


def step(
    root: str, prepared: str, task: TaskName = "segmentation", synthetic: str = "", plan: dict[str, Any] | None = None
) -> dict[str, object]:
    """Prepare and report."""
    cohort = medray.open_cohort(root)
    beside = medray.open_cohort(synthetic) if synthetic else None
    made = medray.prepare(cohort, medray.plan(cohort, task=task, changes=plan), prepared, synthetic=beside)
    return {"cohort": made.cohort, "prepared": prepared, "cases": len(made.cases)}


if __name__ == "__main__":
    run_job(step)
