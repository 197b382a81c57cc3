"""What is kept of an image and its prediction: numbers and labels, no voxel."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medray import config
from medray.imaging.volume import Volume
from medray.inference.groups import groups_of
from medray.inference.prediction import Prediction
from medray.monitoring.features import image_features
from medray.preprocessing.plan import Plan

__all__ = ["Seen", "digest_of", "input_digest", "output_numbers", "plan_digest", "seen_in"]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What drift is told by.

    Attributes:
        numbers: Of the image (`medray.monitoring.features.FEATURES`) and of what the model said (`output_numbers`).
        groups: Kind of group to group.
        embedding: What the network's deepest layer made of it ``(F,)``; None where it has none.
    """

    numbers: Mapping[str, float]
    groups: Mapping[str, str]
    embedding: NDArray[np.float32] | None


def seen_in(volume: Volume, prediction: Prediction) -> Seen:
    """Look at an image and what a model says of it."""
    numbers = {**image_features(volume), **output_numbers(prediction)}
    return Seen(numbers, groups_of(volume), prediction.embedding)


def output_numbers(prediction: Prediction) -> dict[str, float]:
    """Return what a model said: ``volume NAME`` in ml, ``probability NAME``, ``boxes``, ``confidence``, ``entropy``."""
    sure = prediction.certainty
    numbers = {f"volume {name}": value for name, value in prediction.volumes_ml.items()}
    numbers |= {f"probability {name}": value for name, value in prediction.answer.probabilities.items()}
    if not numbers:
        numbers["boxes"] = float(len(prediction.answer.boxes))
    return {
        **numbers,
        "confidence": sure.confidence if sure else math.nan,
        "entropy": sure.entropy if sure else math.nan,
    }


def input_digest(files: Sequence[bytes]) -> str:
    """Return the SHA-256 of an image: of its one file or, of several, of their sorted hashes."""
    hashes = sorted(hashlib.sha256(data).hexdigest() for data in files)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def digest_of(prediction: Prediction) -> str:
    """Return the SHA-256 of what a model said: of a mask's voxels, and of all that isn't an image as it is told in JSON."""
    said = hashlib.sha256(json.dumps(prediction.plain(), sort_keys=True).encode())
    if prediction.answer.mask is not None:
        said.update(prediction.answer.mask.tobytes())
    return said.hexdigest()


def plan_digest(plan: Plan) -> str:
    """Return the SHA-256 of a plan."""
    return hashlib.sha256(json.dumps(config.dump(plan), sort_keys=True).encode()).hexdigest()
