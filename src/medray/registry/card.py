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
from medray.errors import ConfigError, InputError
from medray.models.bundle_card import BundleCard
from medray.preprocessing.plan import Plan
from medray.registry.about import INTENDED_USE, About, code_revision, environment

__all__ = ["ModelCard", "card_from_run"]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class ModelCard:
    """Travels with the weights as ``card.json``.

    Attributes:
        schema_version: Of this record.
        name: The model's name.
        intended_use: What it may be used for.
        population: Whom it was made for.
        limitations: Where it is known to fail.
        licence: Under which it may be used.
        contact: Who answers for it.
        created: UTC, ISO 8601.
        plan: Inputs, preprocessing, network and labels; None for a MONAI Bundle.
        bundle: What a MONAI Bundle is for; None for what medray has trained.
        scores: Split, or name of a set from beyond the cohort, to label to score: ``{"val": {"lesion": 0.5}, "test": {…}}``.
        subjects: Split to pseudonyms, so that nobody is tested on whom it was trained on.
        lineage: Cohort version, run folder, the version that training started from.
        revision: Of the code that made it; see `code_revision`.
        environment: Python, machine and packages that it was made with.
    """

    schema_version: int = 1
    name: str
    intended_use: str = INTENDED_USE
    population: str = ""
    limitations: str = ""
    licence: str = ""
    contact: str = ""
    created: str
    plan: Plan | None
    bundle: BundleCard | None = None
    scores: Mapping[str, Mapping[str, float]]
    subjects: Mapping[str, tuple[str, ...]]
    lineage: Mapping[str, str] = Field(default_factory=dict)
    revision: str = ""
    environment: Mapping[str, str] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.plan is None) == (self.bundle is None):
            raise ConfigError(f"the card of {self.name} needs a plan or a bundle, and not both")

    @property
    def about(self) -> Plan | BundleCard:
        """What the model is for."""
        if self.plan is not None:
            return self.plan
        assert self.bundle is not None  # noqa: S101 - one of them is there
        return self.bundle

    @property
    def targets(self) -> dict[str, int]:
        """What the model tells apart, each with the value that stands for it in one label map."""
        numbered = {name: number for number, name in enumerate(self.about.targets, start=1)}
        if self.about.task != "segmentation" or self.about.regions:
            return numbered
        return dict(self.bundle.targets) if self.bundle else {name: self.recipe().labels.names[name] for name in numbered}

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.bundle.shape) if self.bundle else 2 if 1 in self.recipe().patch else 3

    def recipe(self) -> Plan:
        """Return the plan.

        Raises:
            InputError: If the model is a MONAI Bundle, which has none.
        """
        if self.plan is None:
            raise InputError(f"{self.name} is a MONAI Bundle: it can be asked, and neither trained nor scored here")
        return self.plan


def card_from_run(
    run: Any,
    *,
    about: About | None = None,
    test: Mapping[str, float] | None = None,
    elsewhere: Mapping[str, Mapping[str, float]] | None = None,
    start: str = "",
    plan: Plan,
) -> ModelCard:
    """Write a card for a finished run.

    Args:
        run: A `medray.training.run.Run`.
        about: What a person says of the model.
        test: Scores on the test split, where they were measured.
        elsewhere: Name of a set from beyond the cohort to scores on it.
        start: The version whose weights it began with.
        plan: What the run trained by.
    """
    record = run.record
    scores = {"val": record["scores"]} | ({"test": dict(test)} if test else {}) | dict(elsewhere or {})
    begun = {"start": start or record["start"]} if record.get("start") else {}
    return ModelCard(
        name=run.name,
        **config.dump(about or About()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=plan,
        scores=scores,
        subjects={split: tuple(names) for split, names in record["subjects"].items()},
        lineage={"cohort": record["cohort"], "run": run.folder.path, **begun},
        revision=code_revision(),
        environment=environment(),
    )
