"""``ray job submit --working-dir . -- python jobs/choose.py --config choose.toml``: which images to label next.

Keys: models (one, or several for their disagreement), source (a cohort), output (the queue's file); optional by (uncertainty,
diversity or both), method (entropy or disagreement), count, project, registry, runtime (torch or openvino) and mixed.
"""

from __future__ import annotations

from typing import Any

from medray.annotation.queue import write_queue
from medray.annotation.selection import By
from medray.cli.job import run_job
from medray.inference.uncertainty import Method
from medray.models.runtime import Runtime, RuntimeName
from medray.registry.registry import Registry


def step(
    models: list[str],
    source: str,
    output: str,
    by: By = "both",
    method: Method = "entropy",
    count: int = 50,
    project: str = "",
    registry: str | None = None,
    runtime: RuntimeName = "torch",
    mixed: bool = False,
) -> dict[str, object]:
    """Score and choose."""
    how: dict[str, Any] = {"by": by, "method": method, "count": count, "project": project}
    done = write_queue(models, source, output, registry=Registry(registry), runtime=Runtime(runtime, mixed), **how)
    return {"output": output, **done}


if __name__ == "__main__":
    run_job(step)
