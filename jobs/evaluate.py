"""``ray job submit --working-dir . -- python jobs/evaluate.py --config evaluate.toml``: score a registered model.

Keys: model, root; optional split, registry.
"""

from __future__ import annotations

import medray
from medray.cli.job import run_job
from medray.cohort.splits import Split


def step(model: str, root: str, split: Split = "test", registry: str | None = None) -> dict[str, object]:
    """Evaluate and report."""
    found = medray.evaluate(model, medray.open_cohort(root), split=split, registry=medray.Registry(registry))
    return {"model": model, "split": split, **found.plain()}


if __name__ == "__main__":
    run_job(step)
