"""`Rollout`: which versions of a model get which requests, as its aliases and one tag say."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.registry.version import ModelVersion

__all__ = ["CANARY_TAG", "CHALLENGER", "CHAMPION", "SHADOW", "Canary", "Rollout", "rollout_of"]

CHAMPION, CHALLENGER, SHADOW = "champion", "challenger", "shadow"
CANARY_TAG = "medray.canary"
"""Of a registered model in MLflow: `Canary` as JSON, for as long as its challenger answers requests."""


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Canary:
    """How much a challenger answers, and what takes it back.

    Attributes:
        share: Of the requests for the model that the challenger answers, 0 to 1. Those with the header
            ``X-Medray-Canary: always`` are among them, and those with ``never`` are not, whatever it is.
        compared: Share of all requests that the other version answers, too, unseen, so that the two can be compared.
        errors: Share of requests that the champion can answer and the challenger may fail at.
        slower: How many times the champion's time the challenger may take.
        agreement: The least mean agreement of the two, 0 to 1, over images and targets: Dice of masks, 1 less the difference of
            probabilities. Half of it is asked for of each target alone.
        since: When it began; set by the registry, so that a version that was taken back may be tried again.
    """

    share: float = Field(default=0.1, ge=0, le=1)
    compared: float = Field(default=1.0, ge=0, le=1)
    errors: float = Field(default=0.02, ge=0, lt=1)
    slower: float = Field(default=1.25, gt=1)
    agreement: float = Field(default=0.93, ge=0, lt=1)
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What is in use of a model.

    Attributes:
        champion: Answers requests.
        challenger: Answers `canary`'s share of them.
        shadow: Answers a copy of them, and nobody sees it.
        canary: What the challenger may do; None without one.
    """

    champion: ModelVersion
    challenger: ModelVersion | None = None
    shadow: ModelVersion | None = None
    canary: Canary | None = None

    @property
    def alone(self) -> bool:
        """Whether nothing but the champion is in use."""
        return self.challenger is None and self.shadow is None


def rollout_of(champion: ModelVersion, known: Mapping[str, ModelVersion], tags: Mapping[str, str]) -> Rollout:
    """Read aliases and tags.

    Args:
        champion: Answers what names no version.
        known: Alias to version.
        tags: Of the registered model. Without `CANARY_TAG` a challenger answers nothing.
    """
    told = tags.get(CANARY_TAG)
    canary = config.load(Canary, json.loads(told), what=f"the tag {CANARY_TAG} of {champion.name}") if told else None
    challenger = known.get(CHALLENGER) if canary else None
    shadow = known.get(SHADOW)

    def other(version: ModelVersion | None) -> ModelVersion | None:
        return None if version is None or version.version == champion.version else version

    challenger = other(challenger)
    return Rollout(champion=champion, challenger=challenger, shadow=other(shadow), canary=canary if challenger else None)
