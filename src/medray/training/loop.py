"""The training loop in plain torch: no Ray, no registry, no files. One worker's view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from medray.errors import InputError
from medray.inference.predictor import Predictor
from medray.models.networks import build_model
from medray.preprocessing.bricks import Case
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Truth
from medray.tasks.task import Task, task_of
from medray.training.config import FitConfig
from medray.training.data import Batch, Batches

__all__ = ["EpochRecord", "Learner", "run_epochs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What one epoch was like.

    Attributes:
        epoch: From 0.
        loss: Mean over the epoch's steps.
        seconds: Of training, validation excluded.
        step_seconds: Median step.
        wait_share: Share of the training time spent waiting for a batch.
        validation_seconds: Of validation.
        scores: Target to its validation score by the task's measure.
        score: Their mean: the best epoch has the highest.
    """

    epoch: int
    loss: float
    seconds: float
    step_seconds: float
    wait_share: float
    validation_seconds: float
    scores: Mapping[str, float]
    score: float

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


@dataclass(slots=True, eq=False)
class Learner:
    """A model under training: what a checkpoint must hold.

    Attributes:
        model: The bare network, whose weights are saved.
        wrapped: The same network, as it is called: DDP around it where there are several workers.
        optimizer: AdamW.
        schedule: Warm-up, then a polynomial fall.
        history: One record an epoch so far.
    """

    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(cls, plan: Plan, config: FitConfig, wrap: Callable[[nn.Module], nn.Module] = lambda model: model) -> Learner:
        """Build a network with seeded weights; ``wrap`` may move it and put DDP around it."""
        torch.manual_seed(config.seed)
        model = build_model(plan.network, plan.channels, task_of(plan).channels, plan.patch)
        wrapped = wrap(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, config))
        return cls(model, wrapped, optimizer, schedule)

    def state(self) -> dict[str, Any]:
        """Return everything but the weights, as tensors and plain data."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "history": self.history}

    def restore(self, weights: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Go back to a saved point."""
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = list(state["history"])


def run_epochs(
    learner: Learner,
    batches: Batches,
    validation: Sequence[Case],
    on_epoch: Callable[[EpochRecord], None],
) -> None:
    """Train from where the learner stands to the configured end.

    Args:
        learner: Fresh or restored.
        batches: Training data.
        validation: Cases of the val split.
        on_epoch: Called after each epoch's validation, when the learner can be saved.

    Raises:
        InputError: If the loss is no longer a number.
    """
    task, plan, config = batches.task, batches.plan, batches.config
    device = next(learner.model.parameters()).device
    for number in range(len(learner.history), config.epochs):
        started = time.perf_counter()
        losses, steps, waited = _train(learner, task, config, batches.epoch(number), device)
        trained = time.perf_counter()
        scores = validate(Predictor(learner.model.eval(), plan, device), task, validation)
        record = EpochRecord(
            epoch=number,
            loss=float(np.mean(losses)),
            seconds=trained - started,
            step_seconds=float(np.median(steps)),
            wait_share=waited / (trained - started),
            validation_seconds=time.perf_counter() - trained,
            scores=scores,
            score=float(np.mean(list(scores.values()))),
        )
        learner.history.append(record.plain())
        on_epoch(record)


def validate(predictor: Predictor, task: Task, cases: Sequence[Case]) -> dict[str, float]:
    """Return each target's measure over whole cases on the plan's grid; 0 where it is in no case at all."""
    labels, spacing = predictor.plan.labels, predictor.plan.spacing_mm
    records = []
    for case in cases:
        truth = Truth(labels.from_channels(case.mask) if predictor.plan.maps else None, spacing, case.present)
        records.append(task.compare(predictor.answer(case.image.astype(np.float32)), truth, thorough=False))
    found = {name: measures[task.measure] for name, measures in task.summarise(records).items()}
    return {name: 0.0 if np.isnan(value) else value for name, value in found.items()}


def _train(
    learner: Learner, task: Task, config: FitConfig, batches: Iterable[Batch], device: torch.device
) -> tuple[list[float], list[float], float]:
    """Run one epoch's steps; returns losses, seconds a step, and seconds spent waiting for batches."""
    learner.wrapped.train()
    losses, steps, waited = [], [], 0.0
    started = time.perf_counter()
    for batch in batches:
        got = time.perf_counter()
        waited += got - started
        losses.append(_step(learner, task, config, batch, device))
        if not np.isfinite(losses[-1]):
            raise InputError(f"the loss became {losses[-1]} at step {len(losses)}: lower learning_rate, or look at the images")
        now = time.perf_counter()
        steps.append(now - started)
        started = now
    return losses, steps, waited


def _step(learner: Learner, task: Task, config: FitConfig, batch: Batch, device: torch.device) -> float:
    image = batch.image.to(device, non_blocking=True)
    target = batch.target.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.mixed):
        logits = learner.wrapped(image)
    loss = task.loss(logits, target)
    learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learner.model.parameters(), config.clip)
    learner.optimizer.step()
    learner.schedule.step()
    return float(loss.detach())


def _pace(step: int, config: FitConfig) -> float:
    """Return the learning rate's factor: up over `warmup` steps, then (1 - t)^0.9."""
    total = config.epochs * config.steps
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    return rise * float(max(0.01, 1 - step / total) ** 0.9)
