"""`tune`: Ray Tune over plan and fit fields.

A trial owns its loop: the plain one, in the trial's own process, so that Ray Tune sees its checkpoints. A trial under Ray Train
would show Tune none, and population-based training copies checkpoints. The price: one process a trial; trials run side by side.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from medray import config
from medray.engine import cpus_each, free_gpus, join_ray, require_cpus
from medray.errors import ConfigError, InputError
from medray.preprocessing.prepared import Prepared, open_prepared
from medray.storage.location import Location, locate
from medray.training.checkpoint import load_learner, save_learner, saved_history
from medray.training.config import FitConfig
from medray.training.data import Batches, open_cases
from medray.training.learner import Learner
from medray.training.loop import EpochRecord, run_epochs
from medray.training.run import Made, Run, best_of, claim_folder, finish_run, finished
from medray.training.space import Range, Space, applied

__all__ = ["tune"]

OnTrial = Callable[[Mapping[str, Any]], None]
METHODS = ("asha", "population")
KEPT = 4
"""Checkpoints of a trial: another one may be about to take over an older one."""
LISTENING: dict[str, OnTrial] = {}
"""A search's folder to whom this process tells of it."""
REDUCTION = 3
"""ASHA keeps one in so many trials at each rung (Li et al., MLSys 2020, arXiv:1810.05934)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every trial is told.

    Attributes:
        prepared: Training data.
        config: What trials have in common.
        threads: Cores of a trial.
        gpu: Whether a trial has a GPU, and all of it: that is what the plan's patch and batch are made for.
    """

    prepared: Location
    config: FitConfig
    threads: int
    gpu: bool


def tune(
    prepared: Prepared,
    space: Space,
    fit_config: FitConfig | None = None,
    *,
    name: str,
    trials: int,
    method: str = "asha",
    runs: str | Path | None = None,
    on_trial: OnTrial = lambda record: None,
) -> Run:
    """Search a space, and return the best trial as a run that can be registered like any other.

    Trials run side by side, one a free core, or with more cores each where there are fewer trials. A search that was killed
    goes on when it is called again with the same arguments, from the state that Ray Tune writes every ten seconds. That state
    is Ray's own, and pickled: let nobody write to the folder who may not run programs here.

    Args:
        prepared: From `medray.prepare`.
        space: What may vary.
        fit_config: What doesn't; its ``epochs`` are the longest that a trial gets.
        name: What is searched for; the search lies in ``RUNS/NAME.search/N``.
        trials: How many points; of ``"population"``: how many live at a time.
        method: ``"asha"``: points by Optuna's TPE, bad ones ended early. ``"population"``: the worst take over the best one's
            weights and plan, and change its fit fields (Jaderberg et al., arXiv:1711.09846).
        runs: Where runs lie, a path or a URI; ``MEDRAY_HOME/runs`` by default.
        on_trial: Called with ``trial``, ``epoch``, ``score`` and what was chosen, after each epoch of each trial.

    Raises:
        ConfigError: If ``trials`` isn't positive, the method is unknown, or a population has nothing of ``fit`` to change.
        InputError: If there is nothing to train or validate on, or no trial ended an epoch.
        ResourceError: If no core is free.
    """
    chosen = fit_config or FitConfig()
    if trials < 1 or method not in METHODS:
        raise ConfigError(f"trials={trials}, method={method!r}: a search needs one trial at least, and asha or population")
    prepared.check_splits()
    join_ray()
    # Ray's newer output prints tables to stdout, however silent it is told to be.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    gpus = free_gpus()
    free = require_cpus(1, what="a search", gpu=bool(gpus))
    side_by_side = min(gpus or sum(free), trials)
    setup = {
        "prepared": prepared.root.path,
        "cases": [row.file for row in prepared.cases],
        "plan": config.dump(prepared.plan),
        "config": config.dump(chosen),
        "space": config.dump(space),
        "search": {"trials": trials, "method": method},
    }
    folder = claim_folder(locate(runs or config.home() / "runs"), f"{name}.search", setup)
    if (known := finished(name, folder)) is not None:
        return known
    work = Work(prepared.root, chosen.settled(gpu=bool(gpus)), cpus_each(free, side_by_side), gpu=bool(gpus))
    with _told(folder.path, on_trial):
        results = _tuner(work, space, folder, trials, method, side_by_side).fit()
    return _finish(name, folder, work, prepared, results)


def _tuner(work: Work, space: Space, folder: Location, trials: int, method: str, concurrent: int) -> ray_tune.Tuner:
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(_trial, work=work), {"CPU": work.threads, "GPU": float(work.gpu)}
    )
    place = folder.join("trials").path
    if ray_tune.Tuner.can_restore(place, storage_filesystem=folder.filesystem):
        return ray_tune.Tuner.restore(
            place, trainable, resume_unfinished=True, restart_errored=True, storage_filesystem=folder.filesystem
        )
    domains = {key: _domain(found) for key, found in space.ranges.items()}
    search = None
    if method == "asha":
        search = OptunaSearch(domains, metric="score", mode="max", seed=work.config.seed)
    return ray_tune.Tuner(
        trainable,
        param_space={} if search else domains,
        tune_config=ray_tune.TuneConfig(
            search_alg=search,
            scheduler=_scheduler(work, space, method),
            num_samples=trials,
            # A population lives all at once and takes turns on the cores: one that isn't begun can't be copied from, or to.
            max_concurrent_trials=concurrent if search else None,
            reuse_actors=method == "population",
        ),
        run_config=ray_tune.RunConfig(
            name="trials",
            storage_path=folder.path,
            storage_filesystem=folder.filesystem,
            checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=KEPT, checkpoint_score_attribute="score"),
            failure_config=ray_tune.FailureConfig(max_failures=work.config.max_failures),
            callbacks=[_Telling(folder.path)],
            verbose=0,
        ),
    )


def _scheduler(work: Work, space: Space, method: str) -> TrialScheduler:
    if method == "asha":
        grace = max(1, work.config.epochs // REDUCTION**2)
        return ASHAScheduler(
            metric="score", mode="max", max_t=work.config.epochs, grace_period=grace, reduction_factor=REDUCTION
        )
    if not space.fit:
        raise ConfigError("a population changes fit fields as it goes, and the space has none")
    return PopulationBasedTraining(
        time_attr="training_iteration",
        metric="score",
        mode="max",
        perturbation_interval=max(1, work.config.epochs // 5),
        hyperparam_mutations={
            f"fit.{key}": list(found.choose) if found.choose else _domain(found) for key, found in space.fit.items()
        },
        custom_explore_fn=partial(_kept_in, space),
        synch=True,
    )


def _kept_in(space: Space, chosen: dict[str, Any]) -> dict[str, Any]:
    """Bring a changed point back into the space: Ray multiplies numbers by 0.8 or 1.2, whatever lies there."""
    between = {key: found for key, found in space.ranges.items() if not found.choose and key in chosen}
    return chosen | {key: min(max(chosen[key], found.low), found.high) for key, found in between.items()}


def _domain(found: Range) -> Any:
    if found.choose:
        return ray_tune.choice(list(found.choose))
    if isinstance(found.low, int) and isinstance(found.high, int):
        return ray_tune.lograndint(found.low, found.high + 1) if found.log else ray_tune.randint(found.low, found.high + 1)
    return ray_tune.loguniform(found.low, found.high) if found.log else ray_tune.uniform(found.low, found.high)


def _trial(chosen: Mapping[str, Any], *, work: Work) -> None:
    """Run in each trial's process."""
    torch.set_num_threads(work.threads)
    prepared = open_prepared(work.prepared)
    plan, fit_config = applied(prepared.plan, work.config, chosen)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner = Learner.fresh(plan, fit_config, wrap=lambda model: model.to(device))
    checkpoint = ray_tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as place:
            load_learner(Path(place), learner)
        learner.take_pace(fit_config)

    def on_epoch(record: EpochRecord) -> None:
        with tempfile.TemporaryDirectory() as place:
            save_learner(Path(place), learner)
            ray_tune.report(
                {"score": record.standing, "epoch": record.epoch}, checkpoint=ray_tune.Checkpoint.from_directory(place)
            )

    batches = Batches(open_cases(prepared, "train"), plan, fit_config).beside(device, work.threads)
    run_epochs(learner, batches, open_cases(prepared, "val"), on_epoch)


def _finish(name: str, folder: Location, work: Work, prepared: Prepared, results: ray_tune.ResultGrid) -> Run:
    """Export the best trial, with a line on every other."""
    whole = [result for result in results if result.metrics and result.best_checkpoints]
    if not whole:
        first = results.errors[0] if results.errors else "none was started"
        raise InputError(f"no trial of the search in {folder.path} ended an epoch: {str(first).strip().splitlines()[-1]}")
    scores = [max(float(metrics["score"]) for _, metrics in result.best_checkpoints) for result in whole]
    best = whole[scores.index(max(scores))]
    checkpoint, epoch = best_of(best.best_checkpoints)
    plan, fit_config = applied(prepared.plan, work.config, best.config)
    trials = [
        {
            "chosen": result.config,
            "epochs": int(result.metrics["training_iteration"]),
            "score": score,
            "seconds": float(result.metrics["time_total_s"]),
        }
        for result, score in zip(whole, scores, strict=True)
    ]
    with checkpoint.as_directory() as place:
        made = Made(plan, fit_config, prepared, saved_history(Path(place)), epoch, work.threads)
        facts = {"workers": 1, "trials": trials, "chosen": best.config, "failed": len(results) - len(whole)}
        seconds = sum(float(trial["seconds"]) for trial in trials)
        return finish_run(name, folder, Path(place), made, {**facts, "seconds": seconds})


@contextmanager
def _told(folder: str, on_trial: OnTrial) -> Iterator[None]:
    """Have `_Telling` call this function meanwhile."""
    LISTENING[folder] = on_trial
    try:
        yield
    finally:
        del LISTENING[folder]


class _Telling(ray_tune.Callback):  # type: ignore[misc]
    """Passes each epoch of each trial on.

    Ray keeps it, pickled, with the search's state, and a search may go on in another process: so it holds no function, but
    looks up who listens there.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Called by Tune in the driver's process."""
        LISTENING[self._folder](
            {"trial": str(trial.trial_id), "epoch": result["epoch"], "score": result["score"], "chosen": dict(trial.config)}
        )
