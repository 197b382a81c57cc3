"""Training batches: patches of prepared cases, drawn and changed in threads while the network works."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch

from medray.cohort.splits import Split
from medray.preprocessing.augment import augment, draw_augmentation
from medray.preprocessing.bricks import Case, read_case
from medray.preprocessing.patches import draw_start
from medray.preprocessing.plan import Plan
from medray.preprocessing.prepared import Prepared
from medray.tasks.answer import Example
from medray.tasks.task import Task, task_of
from medray.training.config import FitConfig
from medray.training.team import ALONE, Team

__all__ = ["Batch", "Batches", "open_cases"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``given (B, inputs, I, J, K)`` float32 and ``target (B, ...)`` of these series: see `medray.tasks.task.Task`."""

    given: torch.Tensor
    target: torch.Tensor
    series: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Batches:
    """An endless, seeded source.

    Attributes:
        cases: Of the train split.
        plan: For patch, batch and foreground share.
        config: For seed, steps and augmentation.
        team: This worker among the others: each draws its own patches.
        makers: Threads that make batches, one ahead each: one where they share the cores with the network.
        pinned: Whether batches lie in memory that a GPU reads by itself.
    """

    cases: Sequence[Case]
    plan: Plan
    config: FitConfig
    team: Team = ALONE
    makers: int = 1
    pinned: bool = False

    @cached_property
    def task(self) -> Task:
        """What the plan is for."""
        return task_of(self.plan)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield one epoch's batches; each maker has one ready or in the making.

        A batch's draws follow from seed, rank and the two numbers alone, so that a resumed run sees what an unbroken one saw,
        however many makers there are.
        """
        count = self.config.steps * self.config.accumulate
        with ThreadPoolExecutor(self.makers, thread_name_prefix="batches") as pool:
            coming = deque(pool.submit(self.draw, number, index) for index in range(min(self.makers, count)))
            for index in range(self.makers, count + self.makers):
                batch = coming.popleft().result()
                if index < count:
                    coming.append(pool.submit(self.draw, number, index))
                yield batch

    def draw(self, epoch: int, number: int) -> Batch:
        """Draw one batch of an epoch."""
        rng = np.random.default_rng([self.config.seed, self.team.rank, epoch, number])
        images, targets, series = [], [], []
        for _ in range(self.plan.batch):
            case = self.cases[int(rng.integers(len(self.cases)))]
            centre = partial(case.labelled_voxel, among=self.plan.sampled)
            start = draw_start(rng, case.shape, self.plan.patch, centre, self.plan.foreground_share)
            half, mask = case.patch(start, self.plan.patch)
            image = half.astype(np.float32)
            if self.config.augment:
                image, mask = augment(image, mask, draw_augmentation(rng, self.plan.alike))
            example = Example(image, mask, case.present)
            images.append(self.task.given(example, rng))
            targets.append(self.task.target(example))
            series.append(case.series)
        given, target = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))
        if self.pinned:
            given, target = given.pin_memory(), target.pin_memory()
        return Batch(given, target, tuple(series))

    def beside(self, device: torch.device, threads: int) -> Batches:
        """Return the same batches, made by so many threads where the network's device leaves them the cores."""
        return self if device.type == "cpu" else replace(self, makers=max(1, threads), pinned=True)


def open_cases(prepared: Prepared, split: Split) -> list[Case]:
    """Open a split's cases; their voxels are read when they are asked for."""
    return [read_case(prepared.root.join(row.file)) for row in prepared.of(split)]
