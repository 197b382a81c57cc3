"""`plan`: a plan from a cohort's fingerprint, each choice with its reason."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medray import config
from medray.cohort.cohort import Cohort
from medray.cohort.fingerprint import Fingerprint, combine
from medray.cohort.manifest import SeriesRow
from medray.errors import ConfigError, InputError
from medray.imaging.labels import LabelSchema
from medray.models.spec import COMPARER, FEATURES, GENERATOR, NetworkSpec
from medray.preprocessing.budget import PATCH, Memory, memory_at_hand, room_for
from medray.preprocessing.intensity import Intensity
from medray.preprocessing.plan import Plan, TaskName, learnable
from medray.preprocessing.targets import Choice, listed, targets_of
from medray.types import Shape, Triple

__all__ = ["plan"]

TASKS: tuple[TaskName, ...] = ("segmentation", "diagnosis", "detection", "synthesis", "progression")
PICTURE = 256
DEEP = (32, 64, 128, 256, 320, 320)
"""nnU-Net's channels."""
MAX_PATCHES_A_VOLUME = 16
"""A volume of more voxels than this many patches is made coarser, so that a patch sees enough of its surroundings."""
GPU_PATCH = 128
"""Side of a patch that a small GPU holds, at least."""
MAX_WHOLE_VOXELS = 2 * PATCH**3
"""A diagnosis that no label map locates looks at whole images; larger ones are made coarser."""
MOST_WHOLE_VOXELS = 4 * MAX_WHOLE_VOXELS
"""Of the largest image, while the median one is held to the number above."""
SIDES = {"left", "right", "l", "r", "lh", "rh"}


def plan(
    cohort: Cohort, *, task: str = "segmentation", changes: Mapping[str, Any] | None = None, memory: Memory | None = None
) -> Plan:
    """Make a plan from a cohort's fingerprint.

    Args:
        cohort: An open cohort with label maps or, for a diagnosis, a table of findings.
        task: ``"segmentation"``, ``"diagnosis"``, ``"detection"``, ``"synthesis"`` or ``"progression"``.
        changes: Fields to override; an override's reason is ``"set by hand"``. Choices that follow from a changed field
            (weights from targets, the patch from spacing and network) follow from the change.
        memory: What a worker trains with: this machine's GPU or RAM by default. A GPU gets a deeper network and patches and
            batches that fill it.

    Raises:
        InputError: If there is nothing in the cohort that the task could learn from.
        ConfigError: If the task or a change is unknown, or has an impossible value.
    """
    chosen = next((name for name in TASKS if name == task), None)
    if chosen is None:
        raise ConfigError(f"task {task!r} is unknown: use one of {', '.join(TASKS)}")
    changed = dict(changes or {})
    rows = learnable(cohort.rows, chosen, located=bool(changed.get("located")))
    if not rows or (chosen != "diagnosis" and cohort.index.labels is None):
        what = "a table of findings or label maps" if chosen == "diagnosis" else "label maps"
        raise InputError(f"cohort {cohort.index.id} has no labelled series: a {task} is learned from {what}")
    fingerprint, labels = combine(rows), cohort.index.labels or LabelSchema({})
    settings: dict[str, Any] = {
        "task": task,
        "labels": config.dump(labels),
        "cohort": cohort.index.id,
        "channels": _channels(rows, task),
        "modalities": sorted(fingerprint.modalities),
    }
    reasons = dict(REASONS)
    targets = targets_of(rows, fingerprint, chosen, labels, changed)
    whole = chosen == "diagnosis" and not targets.settings["located"]
    memory = memory or memory_at_hand()
    network, why_network = _network(chosen, whole=whole, gpu=memory.gpu)
    shape = _geometry(rows, fingerprint, network, changed, whole=whole, memory=memory)
    reasons["network"] = why_network
    for part in (targets, shape, _intensity(fingerprint), _alike([*labels.names, *targets.settings["targets"]])):
        settings |= part.settings
        reasons |= part.reasons
    reasons |= dict.fromkeys(changed, "set by hand")
    return config.load(Plan, config.merged({**settings, "reasons": reasons}, changed), what="the plan")


REASONS = {
    "order": "cubic keeps fine structure; as matrix products it costs little more than linear",
    "antialias": "structure finer than the new voxels would turn into noise",
    "crop": "a rim of one value holds nothing to learn from",
}


def _channels(rows: Sequence[SeriesRow], task: str) -> int:
    counts = Counter(row.channels for row in rows)
    if len(counts) > 1:
        found = ", ".join(f"{count} series with {channels}" for channels, count in sorted(counts.items()))
        raise InputError(f"a {task} takes images of one number of channels; there are {found}: leave some out")
    return next(iter(counts))


def _geometry(
    rows: Sequence[SeriesRow],
    fingerprint: Fingerprint,
    spec: dict[str, Any],
    changed: Mapping[str, Any],
    *,
    whole: bool,
    memory: Memory,
) -> Choice:
    """Choose spacing, network, patch and batch, for patches or for whole images; the network is ``spec`` unless changed."""
    flat = all(row.shape[2] == 1 for row in rows)
    spacing, why_spacing = _spacing(fingerprint, PATCH if not memory.gpu else GPU_PATCH, flat=flat, whole=whole)
    change = changed.get("network", {})
    if isinstance(change, Mapping) and "features" not in change and change.get("name") in FEATURES:
        spec["features"] = FEATURES[change["name"]]
    spec = config.merged({"network": spec}, {"network": change})["network"]
    network = config.load(NetworkSpec, spec, what="the network")
    used = listed(changed, "spacing_mm", spacing)
    settings: dict[str, Any] = {"spacing_mm": spacing, "network": spec}
    reasons = {"spacing_mm": why_spacing}
    if whole:
        patch = _whole(rows, used, network.divisor, flat=flat)
        reasons["patch"] = "the largest image of the cohort fits"
        while math.prod(patch) > MOST_WHOLE_VOXELS:
            longest = int(np.argmax(patch))
            i, j, k = (side - network.divisor * (axis == longest) for axis, side in enumerate(patch))
            patch = i, j, k
            reasons["patch"] = f"at most {MOST_WHOLE_VOXELS} voxels: parts of the few images that are larger"
        settings |= {"patch": patch, "batch": 4, "foreground_share": 0.0}
        reasons["batch"] = "an image is one example: several a step make its mean steady"
        return Choice(settings, reasons)
    if flat:
        i, j, _ = _whole(rows, used, network.divisor, flat=True)
        side = -(-PICTURE // network.divisor) * network.divisor
        settings |= {"patch": (min(side, i), min(side, j), 1), "batch": 8}
        reasons["patch"] = f"the pictures' size, at most {PICTURE} pixels a side"
        return Choice(settings, reasons)
    image = [mm / side for mm, side in zip(fingerprint.extent_mm, used, strict=True)]
    room = room_for(network, memory, image, patch=_set_patch(changed, network))
    settings |= {"patch": room.patch, "batch": room.batch}
    reasons |= {"patch": room.why_patch, "batch": room.why_batch}
    return Choice(settings, reasons)


def _set_patch(changed: Mapping[str, Any], network: NetworkSpec) -> Shape | None:
    """Return the patch that was set by hand, where it is one that the plan will take."""
    patch = changed.get("patch")
    fits = isinstance(patch, list | tuple) and len(patch) == 3 and all(type(side) is int for side in patch)
    return tuple(patch) if patch and fits and network.fits(tuple(patch)) else None


def _spacing(fingerprint: Fingerprint, patch: int, *, flat: bool, whole: bool) -> tuple[Triple, str]:
    median, axes = np.array(fingerprint.spacing_mm), 2 if flat else 3
    voxels = float(np.prod((np.array(fingerprint.extent_mm) / median)[:axes]))
    most, what = MAX_PATCHES_A_VOLUME * patch**3, f"at most {MAX_PATCHES_A_VOLUME} patches of {patch}³ voxels"
    if whole:
        most, what = (
            (PICTURE**2, f"at most {PICTURE}² pixels") if flat else (MAX_WHOLE_VOXELS, f"at most {MAX_WHOLE_VOXELS} voxels")
        )
    factor = max(1.0, (voxels / most) ** (1 / axes))
    spacing = [round(float(value * factor), 3) for value in median[:axes]] + [round(float(value), 3) for value in median[axes:]]
    why = "the median spacing"
    if factor > 1:
        why += f", coarser by {factor:.2f} so that a volume holds {what}"
    return (spacing[0], spacing[1], spacing[2]), why


def _whole(rows: Sequence[SeriesRow], spacing: Sequence[float], divisor: int, *, flat: bool) -> Shape:
    """Return the smallest patch that holds the cohort's largest image."""
    largest = np.max([np.multiply(row.shape, row.spacing_mm) / np.array(spacing) for row in rows], axis=0)
    i, j, k = (max(divisor, math.ceil(side / divisor - 1e-6) * divisor) for side in largest.tolist())
    return i, j, 1 if flat else k


def _network(task: TaskName, *, whole: bool, gpu: bool) -> tuple[dict[str, Any], str]:
    if task == "synthesis":
        return {"name": GENERATOR, "features": FEATURES[GENERATOR]}, "labels steer it at each depth"
    if task == "progression":
        return {"name": COMPARER, "features": FEATURES[COMPARER]}, "one encoder for both scans, and no scan is preferred"
    if whole:
        return {"name": "resnet", "features": FEATURES["resnet"]}, "a small residual network learns from few images"
    if gpu:
        return {"name": "dynunet", "features": DEEP}, "two convolutions a depth, six depths: a GPU has the time and the memory"
    why = "a strided U-Net with batch norm learns fastest on CPUs and doesn't amplify noise in empty patches"
    return config.dump(NetworkSpec()), why


def _alike(names: Sequence[str]) -> Choice:
    """Choose along which axes patches may be mirrored: not into left, what is called right."""
    sided = [name for name in names if SIDES & set(re.split(r"[^a-z]+", name.lower()))]
    if sided:
        return Choice({"alike": (1, 2)}, {"alike": f"{sided[0]!r} has a side: left and right aren't mirrored into each other"})
    return Choice({"alike": (0, 1, 2)}, {"alike": "no label is called left or right"})


def _intensity(fingerprint: Fingerprint) -> Choice:
    if set(fingerprint.modalities) == {"CT"}:
        low, _, high = fingerprint.percentiles
        window = Intensity(
            method="window-zscore", window=(low, high), centre=fingerprint.mean, width=max(fingerprint.deviation, 1e-6)
        )
        why = "HU are absolute: clip to the foreground's 0.5 and 99.5 %, then z-score with the cohort's statistics"
        return Choice({"intensity": config.dump(window)}, {"intensity": why})
    why = "the unit is arbitrary: each volume is z-scored over its own foreground"
    return Choice({"intensity": config.dump(Intensity())}, {"intensity": why})
