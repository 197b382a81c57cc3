"""``ray job submit --working-dir . -- python jobs/fit.py --config fit.toml``: train and register the best epoch.

Keys: prepared, name; optional workers, cpus, gpu, runs, registry, promote (an alias), baseline (a cohort that
drift will be told by), and tables ``fit`` of FitConfig fields
and ``card`` of what a person says of the model (`medray.registry.about.About`).
"""

from __future__ import annotations

from typing import Any

import medray
from medray.cli.job import run_job
from medray.config import load
from medray.inference.reference import keep_baseline
from medray.preprocessing.prepared import open_prepared
from medray.registry.about import About
from medray.registry.card import card_from_run


def step(
    prepared: str,
    name: str,
    workers: int | tuple[int, int] = 1,
    cpus: int | None = None,
    gpu: bool | None = None,
    runs: str | None = None,
    registry: str | None = None,
    promote: str = "",
    baseline: str = "",
    fit: dict[str, Any] | None = None,
    card: dict[str, str] | None = None,
) -> dict[str, object]:
    """Fit, register and report."""
    opened = open_prepared(prepared)
    length = load(medray.FitConfig, fit or {}, what="the table fit")
    about = load(About, card or {}, what="the table card")
    run = medray.fit(opened, length, name=name, workers=workers, cpus=cpus, gpu=gpu, runs=runs)
    store = medray.Registry(registry)
    version = store.register(card_from_run(run, about=about, plan=opened.plan), run.model)
    if baseline:
        keep_baseline(str(version), medray.open_cohort(baseline), registry=store)
    if promote:
        store.promote(str(version), promote)
    return {
        "model": str(version),
        "run": run.folder.path,
        "best_epoch": run.record["best_epoch"],
        "scores": run.record["scores"],
    }


if __name__ == "__main__":
    run_job(step)
