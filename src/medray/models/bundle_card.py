"""What a MONAI Bundle is for, as its metadata and its last transforms say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import dataclasses as strict

from medray.config import STRICT

__all__ = ["BundleCard", "card_of", "class_of"]


@strict.dataclass(frozen=True, kw_only=True, config=STRICT)
class BundleCard:
    """What a bundle is for, as ``bundle.json`` beside it.

    Attributes:
        name: Of the bundle.
        version: Its own version.
        task: What it says of an image.
        targets: What it tells apart, to the channel of its answer.
        regions: Whether targets may overlap: each has a channel of its own, or a probability that leaves the others alone.
        activated: Of a diagnosis: whether the bundle's own transforms make probabilities of what the network says.
        modalities: DICOM modalities that it is for; any where there are none.
        channels: Of an image.
        shape: Of an image that it runs on.
        trusted: Whether its code may be run.
        digest: Hash of its files.
    """

    name: str
    version: str
    task: Literal["segmentation", "diagnosis"]
    targets: Mapping[str, int]
    regions: bool
    activated: bool
    modalities: tuple[str, ...]
    channels: int
    shape: tuple[int, ...]
    trusted: bool
    digest: str


def card_of(image: Mapping[str, Any], pred: Mapping[str, Any], after: Any, who: Mapping[str, Any]) -> BundleCard:
    """Say what a bundle is for.

    Args:
        image: Format of its input, of ``network_data_format``.
        pred: Format of its answer.
        after: Configuration of what comes after the network.
        who: ``name``, ``version``, ``trusted`` and ``digest``.
    """
    task: Literal["segmentation", "diagnosis"] = "segmentation" if pred.get("type") == "image" else "diagnosis"
    targets, steps = _targets(pred), _steps(after)
    alone = any(step.get("sigmoid") for step in steps) or len(targets) == 1
    regions = _regions(steps, targets) if task == "segmentation" else alone
    labels = task == "segmentation" and not regions
    return BundleCard(
        task=task,
        targets={name: channel for name, channel in targets.items() if channel > 0 or not labels},
        regions=regions,
        activated=any(step.get("softmax") or step.get("sigmoid") for step in steps),
        modalities=_modalities(str(image.get("modality", ""))),
        channels=int(image.get("num_channels", 1)),
        shape=_shape(image.get("spatial_shape", ())),
        **who,
    )


def class_of(item: Mapping[str, Any]) -> str:
    """Return the class that a part of a configuration names."""
    return str(item.get("_target_", "")).rpartition(".")[2]


def _targets(pred: Mapping[str, Any]) -> dict[str, int]:
    """Return the names of an answer's channels, to their numbers."""
    named = {str(name): int(channel) for channel, name in (pred.get("channel_def") or {}).items()}
    count = int(pred.get("num_channels") or len(named) or 1)
    return named or {f"class {channel}": channel for channel in range(count)}


def _steps(after: Any) -> list[Mapping[str, Any]]:
    """Return the transforms of a section."""
    steps = after.get("transforms", []) if isinstance(after, dict) else []
    return [item for item in steps if isinstance(item, dict)]


def _regions(after: Sequence[Mapping[str, Any]], targets: Mapping[str, int]) -> bool:
    """Tell whether channels are taken one by one: cut at a threshold, or squeezed one by one by a sigmoid."""
    if any(class_of(item).startswith("AsDiscrete") and item.get("argmax") for item in after):
        return False
    one_by_one = any(item.get("threshold") is not None or item.get("sigmoid") for item in after)
    return one_by_one or 0 not in targets.values() or "background" not in {name.lower() for name in targets}


def _modalities(said: str) -> tuple[str, ...]:
    """Return DICOM's words for a bundle's; ``n/a`` and what isn't known is any."""
    known = {
        "CT": ("CT",),
        "MR": ("MR",),
        "MRI": ("MR",),
        "XRAY": ("CR", "DX"),
        "X-RAY": ("CR", "DX"),
        "US": ("US",),
        "PET": ("PT",),
    }
    return known.get(said.upper(), ())


def _shape(said: Any) -> tuple[int, ...]:
    """Return sides for an image to try a network on; those that are free, ``*`` or a formula, are 64."""
    sides = said if isinstance(said, list) else []
    return tuple(side if isinstance(side, int) else 64 for side in sides) or (64, 64, 64)
