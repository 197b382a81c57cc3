"""What a plan tells apart, and how much each of it counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medray.cohort.fingerprint import Fingerprint
from medray.cohort.manifest import SeriesRow
from medray.errors import ConfigError, InputError
from medray.imaging.labels import LabelSchema
from medray.imaging.transitions import Transitions
from medray.preprocessing.plan import TaskName

__all__ = ["SMALL_SHARE", "Choice", "listed", "targets_of"]

MAX_TARGET_WEIGHT = 4.0
SMALL_SHARE = 0.05
"""A label with less of the labelled voxels is a thing that one puts a box around."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings of a plan and why they are so."""

    settings: Mapping[str, Any]
    reasons: Mapping[str, str]


def targets_of(
    rows: Sequence[SeriesRow], fingerprint: Fingerprint, task: TaskName, labels: LabelSchema, changed: Mapping[str, Any]
) -> Choice:
    """Choose what is told apart, and how much each target counts."""
    if task == "diagnosis":
        return _findings(rows, labels, changed)
    if task == "progression":
        return _transitions(rows, fingerprint, labels)
    regions = changed.get("regions") or {}
    if not isinstance(regions, Mapping):
        raise ConfigError(f'regions = {regions!r}: give each target its labels, such as regions.whole=["core", "rim"]')
    shown = frozenset[str]().union(*(row.present for row in rows))
    names, why = tuple(regions) or tuple(name for name in labels.names if name in shown), "every label of the cohort"
    if not regions and len(names) < len(labels.names):
        why += " that some scan shows"
    if task == "detection":
        small = tuple(name for name in names if fingerprint.label_share.get(name, 0.0) < SMALL_SHARE)
        names = small or names
        why = f"labels with less than {SMALL_SHARE:.0%} of the labelled voxels: a box around the others says little"
    names = listed(changed, "targets", names)
    for name in names:
        parts = regions.get(name, [name])
        if set(parts) <= set(labels.names) and not shown & set(parts):
            raise InputError(f"no scan of the cohort shows {name!r}: leave it out of the targets, or ingest scans that do")
    settings: dict[str, Any] = {"targets": names, "target_weights": [1.0] * len(names)}
    reasons = {"targets": why}
    if task == "segmentation" and not regions:
        settings["target_weights"], reasons["target_weights"] = _rarer(names, fingerprint)
    return Choice(settings, reasons)


def _rarer(names: Sequence[str], fingerprint: Fingerprint) -> tuple[list[float], str]:
    """Return the weights of background and labels, and why they are so."""
    shares = [max(fingerprint.label_share.get(name, 0.0), 1e-6) for name in names]
    weights = [min(MAX_TARGET_WEIGHT, round(math.pow(max(shares) / share, 0.25), 2)) for share in shares]
    return [1.0, *weights], f"the fourth root of how much rarer a label is than the largest, at most {MAX_TARGET_WEIGHT:g}"


def _transitions(rows: Sequence[SeriesRow], fingerprint: Fingerprint, labels: LabelSchema) -> Choice:
    """Choose all transitions of a cohort of pairs."""
    names = tuple(Transitions.of(labels).schema.names)
    if not any(row.present for row in rows):
        raise InputError("no pair of the cohort shows a label at either time point: there is nothing to follow")
    weights, why = _rarer(names, fingerprint)
    reasons = {"targets": "whatever a voxel may have been and become", "target_weights": why}
    return Choice({"targets": names, "target_weights": weights}, reasons)


def _findings(rows: Sequence[SeriesRow], labels: LabelSchema, changed: Mapping[str, Any]) -> Choice:
    """Choose the findings that some images have and others don't."""
    counts = Counter(name for row in rows for name in row.present)
    told = sorted(name for name, count in counts.items() if count < len(rows))
    names = listed(changed, "targets", told)
    missing = [name for name in names if not 0 < counts.get(name, 0) < len(rows)]
    if not names or missing:
        what = f"finding {missing[0]!r}" if missing else "no finding"
        raise InputError(f"{what} is in some of the {len(rows)} series and not in others: nothing to tell apart")
    exclusive = len(names) > 1 and all(len(row.present & set(names)) == 1 for row in rows)
    mapped = all(name in labels.names for name in names) and all(row.label for row in rows)
    located = bool(changed.get("located", mapped))
    rarer = [round(min(MAX_TARGET_WEIGHT, (len(rows) - counts[name]) / counts[name]), 2) for name in names]
    reasons = {
        "targets": "what some images have and others don't",
        "exclusive": "every image has exactly one of the targets"
        if exclusive
        else "an image may have several targets, or none",
        "located": "the targets are labels, whose maps say where they are"
        if located
        else "no label map says where targets are",
        "target_weights": "a place with a finding counts as much as all without"
        if located
        else f"images without it for one with it, at most {MAX_TARGET_WEIGHT:g}",
    }
    weights = [1.0] * len(names) if located else rarer
    settings = {"targets": names, "exclusive": exclusive, "located": located, "target_weights": weights}
    return Choice(settings, reasons)


def listed(changed: Mapping[str, Any], key: str, otherwise: Sequence[Any]) -> tuple[Any, ...]:
    """Return a changed field that is a list."""
    value = changed.get(key, otherwise)
    if not isinstance(value, list | tuple) or (
        key == "spacing_mm" and (len(value) != 3 or not all(isinstance(n, int | float) and n > 0 for n in value))
    ):
        raise ConfigError(f"{key} = {value!r}: give a list, such as {key}={list(otherwise)}".replace("'", '"'))
    return tuple(value)
