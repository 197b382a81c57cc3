"""``ray job submit --working-dir . -- python jobs/predict.py --config predict.toml``: a model on every image below a place.

Keys: model, source (a cohort, folder or bucket), output; optional format, registry, runtime (torch or openvino), mixed,
records (a URI).
"""

from __future__ import annotations

from dataclasses import asdict

from medray.cli.job import run_job
from medray.inference.batch import predict_all
from medray.inference.written import Format
from medray.models.runtime import Runtime, RuntimeName
from medray.registry.registry import Registry


def step(
    model: str,
    source: str,
    output: str,
    format: Format = "nifti",  # noqa: A002 - a key of the config
    registry: str | None = None,
    runtime: RuntimeName = "torch",
    mixed: bool = False,
    records: str = "",
) -> dict[str, object]:
    """Predict and report."""
    by = Runtime(runtime, mixed)
    batch = predict_all(model, source, output, form=format, registry=Registry(registry), runtime=by, records=records)
    return {"output": output, **asdict(batch)}


if __name__ == "__main__":
    run_job(step)
