"""A model under training: what a step changes and a checkpoint holds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medray.errors import InputError
from medray.models.networks import build_model
from medray.preprocessing.plan import Plan
from medray.tasks.task import task_of
from medray.training.adversarial import Rival
from medray.training.config import FitConfig

if TYPE_CHECKING:
    from medray.training.shards import Whole

__all__ = ["Learner", "begin_with"]


def begin_with(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a network weights.

    Raises:
        InputError: If they are of another one.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"the weights to begin with are of another network ({first}): train by the same plan") from None


@dataclass(slots=True, eq=False)
class Learner:
    """A model under training.

    Attributes:
        model: The bare network.
        wrapped: The same network, as it is called: DDP around it where there are several workers.
        average: Running mean of its weights, or None.
        optimizer: AdamW.
        schedule: Warm-up, then a fall.
        rival: Of a generator: what it is trained against.
        whole: Of a network in shards: what it is together.
        history: One record an epoch so far.
    """

    model: nn.Module
    wrapped: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    rival: Rival | None = None
    whole: Whole | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def fresh(
        cls,
        plan: Plan,
        config: FitConfig,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> Learner:
        """Build a network.

        Args:
            plan: Of what.
            config: How it is trained.
            wrap: May move it to the device, and put DDP around it or spread it.
            weights: To begin with; by default seeded ones.

        Raises:
            InputError: If the weights are of another network.
        """
        torch.manual_seed(config.seed)
        task = task_of(plan)
        model = build_model(plan.network, task.inputs, task.channels, plan.patch)
        if weights is not None:
            begin_with(model, weights)
        if config.channels_last:
            flat = plan.patch[2] == 1
            model = model.to(memory_format=torch.channels_last if flat else torch.channels_last_3d)  # type: ignore[call-overload]
        whole = None
        if config.shard:
            from medray.training.shards import Whole  # noqa: PLC0415 - its part of torch takes most of a second to import

            whole = Whole.of(model)
        wrapped = wrap(model)
        if whole is not None:
            whole.model.to(next(model.parameters()).device)
        average = None
        if config.average:
            decay = get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
            average = AveragedModel(model, multi_avg_fn=decay, use_buffers=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, config))
        if config.compile:  # patches alone, which have one shape; the bare network judges images of any
            wrapped = torch.compile(wrapped, dynamic=False)  # type: ignore[assignment]
        rival = Rival.fresh(plan, config, wrap) if plan.task == "synthesis" else None
        return cls(model, wrapped, average, optimizer, schedule, rival, whole)

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: of shards the whole; with averaged weights where they are averaged."""
        if self.whole is not None:
            return self.whole.model
        if self.average is None:
            return self.model
        averaged: nn.Module = self.average.module
        return averaged

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def gathering(self) -> contextlib.AbstractContextManager[None]:
        """Leave gradients on each worker: more of the same step's are to come."""
        wait: Callable[[], contextlib.AbstractContextManager[None]] = getattr(self.wrapped, "no_sync", contextlib.nullcontext)
        return wait()

    def advance(self, clip: float) -> bool:
        """Take an optimizer step with the gradients at hand, and forget them; no step, and False, if they are no numbers."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        if not math.isfinite(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)):
            return False
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return True

    def settle(self) -> None:
        """Bring the judged network and the state up to date; all workers together."""
        if self.whole is not None:
            self.whole.gather(self.model, self.optimizer)

    def take_pace(self, config: FitConfig) -> None:
        """Go on at another learning rate and weight decay than those that were saved."""
        for group in self.optimizer.param_groups:
            group["initial_lr"] = config.learning_rate
            group["weight_decay"] = config.weight_decay
            group["lr"] = config.learning_rate * _pace(self.schedule.last_epoch, config)
        self.schedule.base_lrs = [config.learning_rate] * len(self.optimizer.param_groups)

    def state(self) -> dict[str, Any]:
        """Return everything but the judged weights, as tensors and plain data."""
        optimizer = self.whole.optimizer if self.whole is not None else self.optimizer.state_dict()
        state = {"optimizer": optimizer, "schedule": self.schedule.state_dict(), "history": self.history}
        if self.average is not None:
            state |= {"weights": self.model.state_dict(), "averaged": self.average.n_averaged}
        return state | (self.rival.state() if self.rival else {})

    def restore(self, weights: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Go back to a saved point: the judged weights and the state."""
        if self.whole is not None:
            self.whole.scatter(self.model, self.optimizer, weights, state["optimizer"])
        else:
            self.judged.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:  # one that starts from a learner without an average begins its own
            self.model.load_state_dict(state.get("weights", weights))
            self.average.n_averaged.copy_(state.get("averaged", self.average.n_averaged))
        if self.rival is not None:
            self.rival.restore(state)
        self.schedule.load_state_dict(state["schedule"])
        self.history = list(state["history"])


def _pace(step: int, config: FitConfig) -> float:
    """Return the learning rate's factor: up over `warmup` steps, then down over all."""
    done = min(1.0, step / (config.epochs * config.steps))
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    left = max(0.01, 1 - done) ** 0.9 if config.fall == "poly" else max(0.01, (1 + math.cos(math.pi * done)) / 2)
    return rise * float(left)
