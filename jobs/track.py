"""``ray job submit --working-dir . -- python jobs/track.py --config track.toml``: what changed in every patient of a cohort.

Keys: source (a cohort), output; optional model (without, the cohort's label maps), registry, runtime (torch or openvino), mixed
and a table ``tracking`` with lesions, repeatability, warp and apart_days, as of `medray.progression.history.Tracking`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medray.cli.job import run_job
from medray.models.runtime import Runtime, RuntimeName
from medray.progression.cohort import track_all
from medray.registry.registry import Registry


def step(
    source: str,
    output: str,
    model: str = "",
    registry: str | None = None,
    runtime: RuntimeName = "torch",
    mixed: bool = False,
    tracking: dict[str, Any] | None = None,
) -> dict[str, object]:
    """Track and report."""
    by, how = Runtime(runtime, mixed), tracking or {}
    return {"output": output, **asdict(track_all(model, source, output, registry=Registry(registry), runtime=by, **how))}


if __name__ == "__main__":
    run_job(step)
