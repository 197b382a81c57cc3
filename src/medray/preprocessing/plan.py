"""The plan: everything that preprocessing, training and serving must agree on, made from a cohort's fingerprint.

In the spirit of nnU-Net (Isensee et al., Nature Methods 18 (2021) 203-211): the plan is data, frozen, and travels inside
the model's card. Each choice carries its reason. Serving has no options of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.cohort.cohort import Cohort
from medray.cohort.fingerprint import Fingerprint
from medray.errors import ConfigError, InputError
from medray.imaging.labels import LabelSchema
from medray.models.spec import NetworkSpec
from medray.preprocessing.intensity import Intensity

__all__ = ["Plan", "plan", "read_plan"]

SCHEMA_VERSION = 2
PATCH = 64
MAX_PATCHES_A_VOLUME = 16
"""A volume of more voxels than this many patches is made coarser, so that a patch sees enough of its surroundings."""
MAX_LABEL_WEIGHT = 4.0


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Plan:
    """A frozen recipe.

    Attributes:
        schema_version: Of this record.
        task: What is learned.
        labels: Names and values; channel 0 is background, channel c the schema's c-th label.
        cohort: Id of the cohort that it was made from.
        modalities: What the model has seen; another modality is refused.
        spacing_mm: Voxel spacing along L, P, S to which volumes are resampled.
        order: Spline order of image resampling: 0, 1 or 3.
        antialias: Smooth before making an axis coarser.
        labels_by: How label maps are resampled: each label's share linearly, or the nearest voxel.
        crop: Leave out a rim of one value all round, as skull-stripped and padded images have it.
        intensity: Normalisation.
        patch: Voxels of a patch along L, P, S.
        batch: Patches a step and worker.
        foreground_share: Share of training patches centred on a label.
        label_weights: Weight in the loss of background and of each label.
        overlap: Share that neighbouring patches have in common at prediction.
        network: Which and how large.
        val: Share of subjects for validation.
        test: Share of subjects for testing.
        reasons: Field name to why it is as it is.
    """

    schema_version: int = SCHEMA_VERSION
    task: Literal["segmentation"]
    labels: LabelSchema
    cohort: str
    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    order: Literal[0, 1, 3] = 3
    antialias: bool = True
    labels_by: Literal["linear", "nearest"] = "linear"
    crop: bool = True
    intensity: Intensity
    patch: tuple[int, int, int] = (PATCH, PATCH, PATCH)
    batch: int = Field(default=2, ge=1)
    foreground_share: float = Field(default=2 / 3, ge=0, le=1)
    label_weights: tuple[float, ...]
    overlap: float = Field(default=0.25, ge=0, lt=1)
    network: NetworkSpec = NetworkSpec()
    val: float = Field(default=0.12, gt=0, lt=0.5)
    test: float = Field(default=0.18, gt=0, lt=0.5)
    reasons: Mapping[str, str] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(side < 1 or side % self.network.divisor for side in self.patch):
            raise ConfigError(f"patch {self.patch} must be positive multiples of {self.network.divisor}, the network's divisor")
        if min(self.spacing_mm) <= 0:
            raise ConfigError(f"spacing_mm {self.spacing_mm} must be positive")
        if len(self.label_weights) != 1 + len(self.labels.names):
            raise ConfigError(f"label_weights needs {1 + len(self.labels.names)} numbers, background first")


def plan(cohort: Cohort, *, task: str = "segmentation", changes: Mapping[str, Any] | None = None) -> Plan:
    """Make a plan from a cohort's fingerprint.

    Args:
        cohort: An open cohort with label maps.
        task: ``"segmentation"``.
        changes: Fields to override; an override's reason is ``"set by hand"``.

    Raises:
        InputError: If the cohort has no series or no label maps.
        ConfigError: If a change has an unknown key or an impossible value.
    """
    fingerprint, labels = cohort.index.fingerprint, cohort.index.labels
    several = [row for row in cohort.rows if row.label and row.channels != 1]
    if several:
        raise InputError(f"{len(several)} labelled series have several channels, and segmentation takes one: leave them out")
    if fingerprint is None or labels is None or not fingerprint.label_share:
        raise InputError(f"cohort {cohort.index.id} has no labelled series: segmentation is learned from label maps")
    spacing, why_spacing = _spacing(fingerprint)
    weights, why_weights = _label_weights(fingerprint, labels)
    intensity, why_intensity = _intensity(fingerprint)
    settings: dict[str, Any] = {
        "task": task,
        "labels": config.dump(labels),
        "cohort": cohort.index.id,
        "modalities": sorted(fingerprint.modalities),
        "spacing_mm": spacing,
        "intensity": config.dump(intensity),
        "label_weights": weights,
        "network": config.dump(NetworkSpec()),
        "reasons": {
            "spacing_mm": why_spacing,
            "intensity": why_intensity,
            "label_weights": why_weights,
            "network": "a strided U-Net with batch norm learns fastest on CPUs and doesn't amplify noise in empty patches",
            "order": "cubic keeps fine structure; as matrix products it costs little more than linear",
            "antialias": "structure finer than the new voxels would turn into noise",
            "crop": "a rim of one value holds nothing to learn from",
            "patch": f"{PATCH} voxels a side hold the network's field of view and fit any machine's memory",
        },
    }
    changed = dict(changes or {})
    settings["reasons"] |= dict.fromkeys(changed, "set by hand")
    return config.load(Plan, config.merged(settings, changed), what="the plan")


def read_plan(data: Mapping[str, Any], *, what: str = "the plan") -> Plan:
    """Make a plan from plain data.

    Raises:
        ConfigError: If it is of another schema version, or a key is unknown or wrong.
    """
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{what} has schema version {version}; this medray reads {SCHEMA_VERSION}: make the plan again")
    return config.load(Plan, data, what=what)


def _spacing(fingerprint: Fingerprint) -> tuple[tuple[float, float, float], str]:
    median = np.array(fingerprint.spacing_mm)
    voxels = float(np.prod(np.array(fingerprint.extent_mm) / median))
    most = MAX_PATCHES_A_VOLUME * PATCH**3
    factor = max(1.0, (voxels / most) ** (1 / 3))
    spacing = [round(float(value * factor), 3) for value in median]
    why = "the median spacing"
    if factor > 1:
        why += f", coarser by {factor:.2f} so that a volume holds at most {MAX_PATCHES_A_VOLUME} patches of voxels"
    return (spacing[0], spacing[1], spacing[2]), why


def _intensity(fingerprint: Fingerprint) -> tuple[Intensity, str]:
    if set(fingerprint.modalities) == {"CT"}:
        low, _, high = fingerprint.percentiles
        window = Intensity(
            method="window-zscore", window=(low, high), centre=fingerprint.mean, width=max(fingerprint.deviation, 1e-6)
        )
        return window, "HU are absolute: clip to the foreground's 0.5 and 99.5 %, then z-score with the cohort's statistics"
    return Intensity(), "the unit is arbitrary: each volume is z-scored over its own foreground"


def _label_weights(fingerprint: Fingerprint, labels: LabelSchema) -> tuple[list[float], str]:
    shares = [max(fingerprint.label_share.get(name, 0.0), 1e-6) for name in labels.names]
    largest = max(shares)
    weights = [min(MAX_LABEL_WEIGHT, round(math.pow(largest / share, 0.25), 2)) for share in shares]
    return [1.0, *weights], f"the fourth root of how much rarer a label is than the largest, at most {MAX_LABEL_WEIGHT:g}"
