"""What each worker of a fit does under Ray Train."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import ray.train
import torch
from ray.train.torch import get_device, prepare_model
from safetensors.torch import load
from torch import nn

from medray.preprocessing.bricks import Case
from medray.preprocessing.prepared import open_prepared
from medray.tasks.answer import Answer
from medray.training.checkpoint import load_learner, save_learner
from medray.training.data import Batches, open_cases
from medray.training.learner import Learner
from medray.training.loop import EpochRecord, run_epochs
from medray.training.team import Team
from medray.training.work import Work

__all__ = ["run_worker"]


def run_worker(work: Work) -> None:
    """Train as one of a team, and report each epoch to Ray Train."""
    torch.set_num_threads(work.threads)
    context = ray.train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    prepared = open_prepared(work.prepared)
    weights = load(work.start.read()) if work.start else None
    learner = Learner.fresh(prepared.plan, work.config, _spread if work.config.shard else prepare_model, weights)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as place:
            load_learner(Path(place), learner)
        if team.rank == 0:  # a kill may have come between the last report and this file
            work.folder.join("history.json").write(json.dumps(learner.history).encode())
    batches = Batches(open_cases(prepared, "train"), prepared.plan, work.config, team).beside(learner.device, work.threads)
    validation = open_cases(prepared, "val")

    shown: list[Answer] = []

    def on_answer(case: Case, answer: Answer) -> None:
        if case is validation[0]:
            shown[:] = [answer]

    def on_epoch(record: EpochRecord) -> None:
        saved = None
        if team.rank == 0:
            if work.config.picture:
                from medray.training.pictures import draw_case  # noqa: PLC0415 - Matplotlib is slow to load

                drawn = draw_case(prepared.plan, validation[0], shown[0])
                work.folder.join("pictures", f"epoch-{record.epoch:04d}.png").write(drawn)
            place = tempfile.mkdtemp(prefix="medray-checkpoint-")
            save_learner(Path(place), learner)
            saved = ray.train.Checkpoint.from_directory(place)
        # The upload goes on while the next epoch trains, and removes the folder; the next report waits for it.
        ray.train.report(
            {"score": record.standing, "epoch": record.epoch},
            checkpoint=saved,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        )
        if team.rank == 0:
            work.folder.join("history.json").write(json.dumps(learner.history).encode())

    run_epochs(learner, batches, validation, on_epoch, on_answer)


def _spread(model: nn.Module) -> nn.Module:
    from medray.training.shards import spread  # noqa: PLC0415 - as in `Learner.fresh`

    return spread(model, get_device())
