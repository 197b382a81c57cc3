"""``ray job submit --working-dir . -- python jobs/synthesise.py --config synthesise.toml``: a synthetic cohort and its gate.

Keys: model, prepared, target, count; optional seed, registry, and a table ``gate`` of what is asked of the images.
"""

from __future__ import annotations

from typing import Any

import medray
from medray.cli.job import run_job
from medray.config import load
from medray.preprocessing.prepared import open_prepared


def step(
    model: str,
    prepared: str,
    target: str,
    count: int,
    seed: int = 0,
    registry: str | None = None,
    gate: dict[str, Any] | None = None,
) -> dict[str, object]:
    """Synthesise and report."""
    asked = load(medray.Gate, gate or {}, what="the table gate")
    store = medray.Registry(registry)
    made = medray.synthesise(model, open_prepared(prepared), target, count=count, seed=seed, gate=asked, registry=store)
    found = made.judgement
    return {
        "cohort": made.cohort.index.id,
        "images": len(made.cohort.rows),
        "copies": len(found.copies),
        "passed": found.passed,
        "why": list(found.why),
    }


if __name__ == "__main__":
    run_job(step)
