"""How unsure models are of each image of a cohort, and what the image is like: for who chooses what to label next.

A Ray Data job, resumable, failures as records::

    OUTPUT/records/SERIES.json      score and features of an image, or why there are none
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool3d

from medray.audit import Event, open_trail
from medray.cohort.cohort import open_cohort
from medray.cohort.manifest import SeriesRow
from medray.errors import ConfigError, InputError, StorageError
from medray.imaging.volume import Volume
from medray.inference.bundled import kept_predictor
from medray.inference.predictor import Predictor
from medray.inference.records import OK, Record, Records, failures, problem_of
from medray.models.runtime import EXACT, Runtime
from medray.registry.registry import Registry
from medray.registry.version import ModelVersion
from medray.storage.location import Location, locate

__all__ = ["Doubt", "Method", "Scored", "doubt_of", "score_all"]

Method = Literal["entropy", "disagreement"]
CRASHED = "predicting on it ended its process each time: it is damaged, or too large for a worker"
TOP = 0.02
"""Share of an image's voxels, the least sure ones, whose mean its score is: a large organ isn't unsure for its outline."""
CELLS = 4
"""Features are means over so many parts of the field of view along each axis."""
Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Doubt:
    """What models say of an image that nobody has labelled.

    Attributes:
        score: How unsure they are, 0 to 1.
        features: What the image is like: means of what is in it and what it looks like, over parts of its field of view.
    """

    score: float
    features: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a run left.

    Attributes:
        doubts: Series to doubt.
        failed: Reason to number of images.
        resumed: Images that an earlier run had scored.
    """

    doubts: Mapping[str, Doubt]
    failed: Mapping[str, int]
    resumed: int


@dataclass(frozen=True, slots=True)
class _Item:
    """One image of a cohort."""

    name: str
    stamp: str
    row: SeriesRow


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker needs to know."""

    registry: str
    versions: tuple[ModelVersion, ...]
    cohort: Location
    output: Location
    method: Method
    runtime: Runtime

    @property
    def records(self) -> Records:
        """What became of each image."""
        return Records(self.output.join("records"), " ".join(map(str, self.versions)))


def score_all(
    models: Sequence[str],
    source: str | Path,
    output: str | Path,
    *,
    method: Method = "entropy",
    leave_out: Sequence[str] = (),
    registry: Registry | None = None,
    runtime: Runtime = EXACT,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Scored:
    """Score every image of a cohort; call it again to go on where a run was killed.

    Args:
        models: ``name``, ``name@alias`` or ``name/version`` of one segmentation or diagnosis, or several of the same targets.
        source: The cohort.
        output: A folder for records: a path or a URI.
        method: ``entropy`` of what the models say on average, or their ``disagreement``: how much of that entropy is there
            because they differ (the mutual information of answer and model; Houlsby et al., arXiv:1112.5745).
        leave_out: Series that aren't asked about.
        registry: The default one when None.
        runtime: What runs networks.
        on_progress: Called with ``("score", done, total)``.

    Raises:
        NotFoundError: If there is no such model or cohort.
        ConfigError: If the method is unknown or needs several models, or the runtime isn't installed.
        InputError: If the models are for different things, or for what has no such score.
        StorageError: If the cohort or the output can't be reached.
    """
    if method not in get_args(Method) or (method == "disagreement" and len(models) < 2):
        raise ConfigError(f"{method} of {len(models)} models: choose entropy, or disagreement of two models or more")
    runtime.require()
    store, place = registry or Registry(), locate(source)
    versions = tuple(store.resolve(model) for model in models)
    _require_alike(store, versions)
    work = _Work(store.uri, versions, place, locate(output), method, replace(runtime, threads=1))
    work.output.sweep()
    rows = [row for row in open_cohort(place).rows if not row.synthetic and row.series not in set(leave_out)]
    items = [_Item(row.series, _stamp(work, row), row) for row in rows]
    records, resumed = work.records.completed(items, partial(_score, work), CRASHED, partial(on_progress, "score"))
    doubts = {one["name"]: Doubt(one["score"], tuple(one["features"])) for one in records if one["outcome"] == OK}
    open_trail().record([Event("model.score", work.records.model[:300], detail=f"{len(doubts)} of {len(items)} images")])
    return Scored(doubts, failures(records), resumed)


def doubt_of(predictors: Sequence[Predictor], volume: Volume, method: Method = "entropy") -> Doubt:
    """Return how unsure models are of an image.

    Args:
        predictors: Of one task and the same targets.
        volume: The image.
        method: See `score_all`.

    Raises:
        ImageError: If they don't know its modality.
        InputError: If their task has no such score.
    """
    if predictors[0].task == "diagnosis":
        return _of_answers(predictors, volume, method)
    if predictors[0].task != "segmentation":
        raise InputError(f"a model for {predictors[0].task} says nothing of how sure it is: use a segmentation or a diagnosis")
    prepared = predictors[0].prepare(volume)
    maps = []
    for predictor in predictors:
        [(_, blocks)] = predictor.activate([prepared if predictor is predictors[0] else predictor.prepare(volume)])
        maps.append(blocks.whole())
    overlapping = bool(predictors[0].plan.regions)
    unsure = _unsure(
        [_entropy(one, overlapping=overlapping) for one in maps], _entropy(_mean(maps), overlapping=overlapping), method
    )
    count = max(1, round(TOP * unsure.size))
    score = float(np.partition(unsure.ravel(), unsure.size - count)[-count:].mean())
    return Doubt(score, _features(prepared, _mean(maps)))


def _of_answers(predictors: Sequence[Predictor], volume: Volume, method: Method) -> Doubt:
    answers = [predictor.predict(volume).answer.probabilities for predictor in predictors]
    said = np.array([[answer[name] for name in answers[0]] for answer in answers], np.float32)[:, :, None, None, None]
    unsure = _unsure([_entropy(one, overlapping=True) for one in said], _entropy(_mean(list(said)), overlapping=True), method)
    return Doubt(float(unsure.mean()), _features(predictors[0].prepare(volume), said.mean(axis=0)))


def _unsure(each: Sequence[Map], together: Map, method: Method) -> Map:
    return together if method == "entropy" else np.maximum(together - _mean(each), 0)


def _mean(maps: Sequence[Map]) -> Map:
    return maps[0] if len(maps) == 1 else np.mean(maps, axis=0, dtype=np.float32)


def _entropy(probable: Map, *, overlapping: bool) -> Map:
    """Return the entropy of ``(D, I, J, K)`` in each voxel, 0 to 1: of one choice of D, or the mean of D yes or no."""
    if overlapping:
        both = np.stack([probable, 1 - probable])
        entropy: Map = -(both * np.log2(np.clip(both, 1e-6, 1))).sum(axis=0).mean(axis=0)
    else:
        entropy = -(probable * np.log(np.clip(probable, 1e-6, 1))).sum(axis=0) / np.float32(np.log(len(probable)))
    return entropy


def _features(prepared: Map, probable: Map) -> tuple[float, ...]:
    pooled = [
        adaptive_avg_pool3d(torch.from_numpy(np.ascontiguousarray(one, np.float32)), CELLS).flatten()
        for one in (prepared, probable)
    ]
    return tuple(round(value, 4) for value in torch.cat(pooled).tolist())


def _require_alike(store: Registry, versions: Sequence[ModelVersion]) -> None:
    """Check that models say the same things of an image.

    Raises:
        InputError: If they don't.
    """
    cards = [store.card(version) for version in versions]
    plans = [card.recipe() for card in cards]
    kinds = {(plan.task, plan.targets, tuple(plan.regions), plan.spacing_mm, plan.crop) for plan in plans}
    if len(kinds) > 1:
        named = ", ".join(map(str, versions))
        raise InputError(f"{named} tell different things apart, or on different grids: name models of one task and one spacing")
    task = cards[0].recipe().task
    if task not in {"segmentation", "diagnosis"}:
        raise InputError(f"{versions[0]} is for {task}, which has no such score: use a segmentation or a diagnosis")


def _stamp(work: _Work, row: SeriesRow) -> str:
    words = [*map(str, work.versions), work.method, work.runtime.name, row.volume]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _score(work: _Work, item: _Item) -> Record:
    """Score one image, and note and return what became of it. Never raises for what is in the image."""
    try:
        predictors: list[Any] = [kept_predictor(work.registry, version, work.runtime) for version in work.versions]
        doubt = doubt_of(predictors, open_cohort(work.cohort).volume(item.row), work.method)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - one image must not stop a run of ten million; its kind is recorded
        return work.records.note(item.name, item.stamp, *problem_of(error, "the image"))
    return work.records.note(item.name, item.stamp, OK, "", score=doubt.score, features=doubt.features)
