"""A model's card: what it is for, what it was made by, how good it was, where it came from.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, doi:10.1145/3287560.3287596.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.preprocessing.plan import Plan

__all__ = ["ModelCard", "card_from_run"]

INTENDED_USE = "Research. Not a medical device: not cleared for diagnosis or treatment."


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class ModelCard:
    """Travels with the weights as ``card.json``.

    Attributes:
        schema_version: Of this record.
        name: The model's name.
        intended_use: What it may be used for.
        created: UTC, ISO 8601.
        plan: Inputs, preprocessing, network and labels.
        scores: Split, or name of a set from beyond the cohort, to label to score: ``{"val": {"lesion": 0.5}, "test": {…}}``.
        subjects: Split to pseudonyms, so that nobody is tested on whom it was trained on.
        lineage: Cohort version, run folder, versions of medray, Ray and torch.
    """

    schema_version: int = 1
    name: str
    intended_use: str = INTENDED_USE
    created: str
    plan: Plan
    scores: Mapping[str, Mapping[str, float]]
    subjects: Mapping[str, tuple[str, ...]]
    lineage: Mapping[str, str] = Field(default_factory=dict)


def card_from_run(
    run: Any, *, test: Mapping[str, float] | None = None, elsewhere: Mapping[str, Mapping[str, float]] | None = None, plan: Plan
) -> ModelCard:
    """Write a card for a finished run.

    Args:
        run: A `medray.training.run.Run`.
        test: Scores on the test split, where they were measured.
        elsewhere: Name of a set from beyond the cohort to scores on it.
        plan: What the run trained by.
    """
    record = run.record
    scores = {"val": record["scores"]} | ({"test": dict(test)} if test else {}) | dict(elsewhere or {})
    return ModelCard(
        name=run.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=plan,
        scores=scores,
        subjects={split: tuple(names) for split, names in record["subjects"].items()},
        lineage={"cohort": record["cohort"], "run": run.folder.path, **record["versions"]},
    )
