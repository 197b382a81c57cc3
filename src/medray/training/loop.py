"""The training loop in plain torch: no Ray, no registry, no files. One worker's view."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from medray.errors import InputError
from medray.evaluation.calibration import Calibrations
from medray.inference.predictor import Predictor
from medray.models.runtime import by_torch
from medray.preprocessing.bricks import Case
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Answer, Example, Record, Truth
from medray.tasks.task import Task, task_of
from medray.training.config import FitConfig
from medray.training.data import Batch, Batches
from medray.training.learner import Learner
from medray.training.team import Team

__all__ = ["EpochRecord", "run_epochs", "truth_of"]

OnAnswer = Callable[[Case, Answer], None]
STEADY = 0.5
"""Weight of the epochs before in an epoch's standing. On ten people one lucky epoch would win by its scores alone; nnU-Net too
chooses by a moving average, slower in its 1,000 epochs (Isensee et al., Nature Methods 18 (2021) 203-211)."""
VALIDATION_SEED = 0
"""Epochs are compared on the same noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What one epoch was like.

    Attributes:
        epoch: From 0.
        began: When its first batch was there: seconds since 1970, UTC.
        loss: Mean over the epoch's steps.
        seconds: Of training, validation excluded.
        step_seconds: Median step.
        workers: How many trained together.
        samples_per_second: Patches, of all workers.
        wait_share: Share of the training time spent waiting for a batch.
        validation_seconds: Of validation.
        scores: Target to its validation score by the task's measure.
        score: Their mean.
        standing: Moving average of the scores up to here: the best epoch has the highest.
        calibration: How the answers of its weights are to be taken.
    """

    epoch: int
    began: float
    loss: float
    seconds: float
    step_seconds: float
    workers: int
    samples_per_second: float
    wait_share: float
    validation_seconds: float
    scores: Mapping[str, float]
    score: float
    standing: float
    calibration: Calibrations

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def run_epochs(
    learner: Learner,
    batches: Batches,
    validation: Sequence[Case],
    on_epoch: Callable[[EpochRecord], None],
    on_answer: OnAnswer = lambda case, answer: None,
) -> None:
    """Train from where the learner stands to the configured end.

    Args:
        learner: Fresh or restored.
        batches: Training data.
        validation: Cases of the val split.
        on_epoch: Called after each epoch's validation, when the learner can be saved.
        on_answer: Called with each validation case of this worker's and what the network says of it.

    Raises:
        InputError: If the loss is no longer a number; names the series of that batch.
    """
    task, plan, config = batches.task, batches.plan, batches.config
    for number in range(len(learner.history), config.epochs):
        started = time.perf_counter()
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # patches have one shape, for which it seeks the fastest
            pace = _train(learner, task, config, batches.epoch(number))
        trained = time.perf_counter()
        learner.settle()
        batches.team.agree(learner.judged)
        predictor = Predictor(by_torch(learner.judged.eval(), learner.device, mixed=config.mixed), plan, learner.device)
        records = validate(predictor, task, validation, batches.team, on_answer)
        calibration = task.calibrate(records)
        scores = _scores(task_of(plan, calibration), records)
        score = float(np.mean(list(scores.values())))
        record = EpochRecord(
            epoch=number,
            began=pace.began,
            loss=float(np.mean(pace.losses)),
            seconds=trained - started,
            step_seconds=float(np.median(pace.steps)),
            workers=batches.team.size,
            samples_per_second=config.steps * config.accumulate * plan.batch * batches.team.size / (trained - started),
            wait_share=pace.waited / (trained - started),
            validation_seconds=time.perf_counter() - trained,
            scores=scores,
            score=score,
            standing=_standing(learner.history, score),
            calibration=calibration,
        )
        learner.history.append(record.plain())
        on_epoch(record)


def validate(predictor: Predictor, task: Task, cases: Sequence[Case], team: Team, on_answer: OnAnswer) -> list[Record]:
    """Return what was measured of whole cases on the plan's grid; each worker looks at its share of them."""
    records = []
    for case in team.share(cases):
        example = Example(case.image.astype(np.float32), case.mask, case.present)
        answer = predictor.answer(task.given(example, np.random.default_rng(VALIDATION_SEED)))
        records.append(task.compare(answer, truth_of(predictor.plan, case), thorough=False))
        on_answer(case, answer)
    return team.gather(records)


def _scores(task: Task, records: Sequence[Record]) -> dict[str, float]:
    """Return each target's measure; 0 where it is in no case at all."""
    found = {name: measures[task.measure] for name, measures in task.summarise(records).items()}
    return {name: 0.0 if np.isnan(value) else value for name, value in found.items()}


def _standing(history: Sequence[Mapping[str, Any]], score: float) -> float:
    return STEADY * float(history[-1]["standing"]) + (1 - STEADY) * score if history else score


def truth_of(plan: Plan, case: Case) -> Truth:
    """Return what is known of a prepared case, on the plan's grid."""
    mask = plan.labels.from_channels(case.mask) if plan.maps else None
    return Truth(mask, plan.spacing_mm, case.present, case.image)


@dataclass(slots=True)
class Pace:
    """How an epoch's steps went: when the first batch came, losses, the seconds of each step, and those spent waiting."""

    began: float = 0.0
    losses: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    waited: float = 0.0


def _train(learner: Learner, task: Task, config: FitConfig, batches: Iterator[Batch]) -> Pace:
    """Run one epoch's steps."""
    learner.wrapped.train()
    pace = Pace()
    started = time.perf_counter()
    for _ in range(config.steps):
        losses, series = list[torch.Tensor](), list[str]()
        for number in range(config.accumulate):
            asked = time.perf_counter()
            batch = next(batches)
            pace.waited += time.perf_counter() - asked
            pace.began = pace.began or time.time()
            with learner.gathering() if number + 1 < config.accumulate else contextlib.nullcontext():
                losses.append(_learn(learner, task, config, batch))
            series += batch.series
        loss = float(torch.stack(losses).mean())  # read once, when the way back is under way: reading waits for a GPU
        if not math.isfinite(loss):
            raise InputError(_broken(f"the loss became {loss}", series))
        if not learner.advance(config.clip):
            raise InputError(_broken("gradients are no numbers", series))
        pace.losses.append(loss)
        now = time.perf_counter()
        pace.steps.append(now - started)
        started = now
    return pace


def _broken(what: str, series: Sequence[str]) -> str:
    return f"{what} on series {', '.join(series)}: look at them, or lower learning_rate"


def _learn(learner: Learner, task: Task, config: FitConfig, batch: Batch) -> torch.Tensor:
    """Add a batch's gradients and return its loss, which may be no number yet: a GPU may still be at it."""
    device = learner.device
    given = batch.given.to(device, non_blocking=True)
    if config.channels_last:
        given = given.contiguous(memory_format=torch.channels_last_3d)
    target = batch.target.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.mixed):
        outputs = learner.wrapped(given)
        if learner.rival is not None:
            learner.rival.learn(given, outputs, target)
    loss = task.loss(outputs, target)
    if learner.rival is not None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.mixed):
            loss = loss + learner.rival.judge(given, outputs, target)
    (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
    return loss.detach()
