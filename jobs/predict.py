"""``ray job submit --working-dir . -- python jobs/predict.py --config predict.toml``: a model on every image below a place.

Keys: model, source (a cohort, folder or bucket), output; optional format.
"""

from __future__ import annotations

from dataclasses import asdict

from medray.cli.job import run_job
from medray.inference.batch import predict_all
from medray.inference.written import Format


def step(model: str, source: str, output: str, format: Format = "nifti") -> dict[str, object]:  # noqa: A002 - a key of the config
    """Predict and report."""
    return {"output": output, **asdict(predict_all(model, source, output, form=format))}


if __name__ == "__main__":
    run_job(step)
