"""Training batches: patches of prepared cases, drawn and changed in a thread while the network works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    """

    cases: Sequence[Case]
    plan: Plan
    config: FitConfig
    team: Team = ALONE

    @cached_property
    def task(self) -> Task:
        """What the plan is for."""
        return task_of(self.plan)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield one epoch's batches, one being made ahead.

        An epoch's draws follow from seed, rank and number alone, so that a resumed run sees what an unbroken one saw.
        """
        rng = np.random.default_rng([self.config.seed, self.team.rank, number])
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            coming = pool.submit(self.draw, rng)
            for _ in range(self.config.steps * self.config.accumulate - 1):
                batch = coming.result()
                coming = pool.submit(self.draw, rng)
                yield batch
            yield coming.result()

    def draw(self, rng: np.random.Generator) -> Batch:
        """Draw one batch."""
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
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets)), tuple(series))


def open_cases(prepared: Prepared, split: Split) -> list[Case]:
    """Open a split's cases; their voxels are read when they are asked for."""
    return [read_case(prepared.root.join(row.file)) for row in prepared.of(split)]
