"""``ray job submit --working-dir . -- python jobs/pairs.py --config pairs.toml``: a cohort of pairs from one of follow-ups.

Keys: source (a cohort with label maps), target (the new cohort); optional labels (that are followed) and apart_days, as of
`medray.progression.pairs.Pairing`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medray.cli.job import run_job
from medray.progression.pairs import pair_up


def step(source: str, target: str, labels: list[str] | None = None, apart_days: float = 0.0) -> dict[str, Any]:
    """Pair up."""
    return {"root": target, **asdict(pair_up(source, target, labels=labels or (), apart_days=apart_days))}


if __name__ == "__main__":
    run_job(step)
