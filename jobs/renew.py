"""``ray job submit --working-dir . -- python jobs/renew.py --config renew.toml``: renew a model if there is an occasion.

Keys: name, root (a cohort), prepared (a folder); optional records, registry, workers, runs, and tables ``rule`` of
`medray.renewal.occasion.RenewalRule` and ``fit`` of FitConfig fields. Where there is no occasion it is done in seconds.
"""

from __future__ import annotations

from typing import Any

import medray
from medray.cli.job import run_job
from medray.config import load
from medray.monitoring.records import records_root
from medray.renewal.occasion import RenewalRule
from medray.renewal.renew import renew
from medray.storage.location import locate


def step(
    name: str,
    root: str,
    prepared: str,
    records: str = "",
    registry: str | None = None,
    workers: int | tuple[int, int] = 1,
    runs: str | None = None,
    rule: dict[str, Any] | None = None,
    fit: dict[str, Any] | None = None,
) -> dict[str, object]:
    """Renew and report."""
    asked = load(RenewalRule, rule or {}, what="the table rule")
    length = load(medray.FitConfig, fit or {}, what="the table fit")
    places = (locate(root), locate(prepared), records_root(records))
    found = renew(name, *places, asked, length, registry=medray.Registry(registry), workers=workers, runs=runs)
    return found.plain()


if __name__ == "__main__":
    run_job(step)
