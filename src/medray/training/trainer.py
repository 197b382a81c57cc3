"""`fit`: the plain loop under Ray Train.

Ray gives workers, a process group, checkpoints and restarts; what a worker does is `medray.training.loop`. Traps that
shape this module: ``report`` is a barrier and waits for the controller, so it is called once an epoch; a run resumes by
its name and storage path; CPUs that aren't free make Ray wait in silence, so they are counted first.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from medray import config
from medray.engine import cpus_each, free_gpus, join_ray, require_cpus
from medray.errors import ConfigError, InputError, MedrayError
from medray.preprocessing.prepared import Prepared
from medray.storage.location import Location, locate
from medray.training.config import FitConfig
from medray.training.run import START, WEIGHTS, Made, Run, best_of, claim_folder, finish_run, finished, read_history
from medray.training.work import Work

__all__ = ["fit"]

Result = TypeVar("Result")
OnEpoch = Callable[[Mapping[str, Any]], None]
POLL_S = 0.5
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Have glibc keep freed activations: Ray Train runs the loop in a thread, whose arena would map and zero them each step."""


def fit(  # noqa: PLR0913 - each is a word of a person who trains
    prepared: Prepared,
    fit_config: FitConfig | None = None,
    *,
    name: str,
    workers: int | tuple[int, int] = 1,
    cpus: int | None = None,
    gpu: bool | None = None,
    runs: str | Path | None = None,
    start: str | Path | Location | None = None,
    on_epoch: OnEpoch = lambda record: None,
) -> Run:
    """Train a network on a prepared cohort.

    A fit that was killed goes on at its last checkpoint when it is called again with the same arguments; one that is
    finished is returned as it is.

    Args:
        prepared: From `medray.prepare`.
        fit_config: Length, pace and seed.
        name: What is trained, such as ``"brain"``; the run lies in ``RUNS/name/N``.
        workers: Processes that share each step; the batch grows with them. Two numbers are the fewest and the most: the fit
            goes on with fewer when a node is lost, and takes more at a checkpoint when they come.
        cpus: Cores of a worker; by default those that are free now, shared out, no worker on two nodes. Say it on a cluster
            that scales up: then nothing is counted beforehand, and Ray waits for the nodes.
        gpu: Whether each worker gets a GPU; by default when enough are free now.
        runs: Where runs lie, a path or a URI; ``MEDRAY_HOME/runs`` by default.
        start: A model folder whose weights to begin with, of the same network, such as `Registry.fetch` gives; random ones
            without.
        on_epoch: Called with each epoch's record (see `EpochRecord`) when it is done.

    Returns:
        The finished run; its best epoch by validation score is in `Run.model`.

    Raises:
        ConfigError: If ``workers`` isn't positive.
        NotFoundError: If there are no weights to begin with where ``start`` says.
        InputError: If there is nothing to train or validate on, the weights are of another network, or training failed for
            what is in the data.
        ResourceError: If the workers' CPUs aren't free.
    """
    chosen = fit_config or FitConfig()
    prepared.check_splits()
    if chosen.shard and prepared.plan.task == "synthesis":
        raise ConfigError("shard=true: a generator and its rival are small, and are trained whole")
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    if not 1 <= fewest <= most:
        raise ConfigError(f"workers={workers}: a fit needs at least one, and as many at most as at least")
    join_ray()
    gpu = free_gpus() >= fewest if gpu is None else gpu
    threads = cpus or cpus_each(require_cpus(fewest, what=f"a fit with {fewest} workers", gpu=gpu), most)
    setup: dict[str, Any] = {
        "prepared": prepared.root.path,
        "cases": [row.file for row in prepared.cases],
        "plan": config.dump(prepared.plan),
        "config": config.dump(chosen),
        "workers": workers,
    }
    weights = locate(start).join(WEIGHTS).read() if start is not None else b""
    if weights:
        setup["start"] = hashlib.sha256(weights).hexdigest()
    folder = claim_folder(locate(runs or config.home() / "runs"), name, setup)
    if (known := finished(name, folder)) is not None:
        return known
    started = time.time()
    begin = folder.join(START) if weights else None
    if begin is not None:
        begin.write(weights)  # where every worker can read it
    work = Work(prepared.root, chosen.settled(gpu=gpu), folder, threads, begin)
    with _watched(folder, on_epoch), _unless_set(_settings()):
        result = _train(work, workers, gpu=gpu)
    facts: dict[str, Any] = {"workers": workers, "seconds": time.time() - started, "started": started}
    facts |= {"start": f"weights {setup['start'][:16]}"} if weights else {}
    return _finish(name, work, prepared, result, facts)


def _train(work: Work, workers: int | tuple[int, int], *, gpu: bool) -> ray.train.Result:
    resources = {"CPU": float(work.threads), "GPU": float(gpu)}
    run_config = ray.train.RunConfig(
        name="train",
        storage_path=work.folder.path,
        storage_filesystem=work.folder.filesystem,
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=work.config.keep, checkpoint_score_attribute="score"),
        failure_config=ray.train.FailureConfig(max_failures=work.config.max_failures),
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        worker_runtime_env={"env_vars": KEEP_MEMORY},
    )

    def attempt() -> ray.train.Result:
        scaling = ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources)
        return _Trainer(_begin, train_loop_config={"work": work}, scaling_config=scaling, run_config=run_config).fit()

    try:
        return _persistent(attempt, work.config.max_failures)
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, MedrayError):
                raise cause from None
        raise


def _persistent(train: Callable[[], Result], attempts: int) -> Result:
    """Go on at the last checkpoint when a worker died after its start and before its first step: Ray Train gives up there."""
    for _ in range(attempts):
        try:
            return train()
        except ray.train.ControllerError as error:
            if not isinstance(error.controller_failure, RayActorError):
                raise
    return train()


def _begin(told: Mapping[str, Any]) -> None:
    """Run on each worker. Networks are imported there and not where a fit is begun or looked after: MONAI takes seconds."""
    from medray.training.worker import run_worker  # noqa: PLC0415

    run_worker(told["work"])


def _finish(name: str, work: Work, prepared: Prepared, result: ray.train.Result, facts: Mapping[str, Any]) -> Run:
    """Export the best epoch as a model folder and write ``run.json``, last."""
    if not result.best_checkpoints:
        raise InputError(f"the fit in {work.folder.path} left no checkpoint")
    best, epoch = best_of(result.best_checkpoints)
    made = Made(prepared.plan, work.config, prepared, read_history(work.folder), epoch, work.threads)
    with best.as_directory() as place:
        return finish_run(name, work.folder, Path(place), made, facts)


def _settings() -> dict[str, str]:
    """Return what Ray Train reads from the environment. Whose only node is taken back has no other: nobody need look out."""
    return {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"} | (
        {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"} if len(ray.nodes()) == 1 else {}
    )


@contextmanager
def _unless_set(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that nobody has set, and take them away again."""
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without two processes that Ray Train would start.

    One shares datasets of Ray Data out: workers open prepared cases themselves. One takes the workers' places away when a
    dashboard doesn't know the fit, and the dashboard that it asks is that of whatever cluster the machine has.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = DatasetsCallback, PlacementGroupCleanerCallback
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


@contextmanager
def _watched(folder: Location, on_epoch: OnEpoch) -> Any:
    """Tell of epochs while `fit` waits: the workers write them to the run's folder, a thread here reads them.

    An error of ``on_epoch`` is raised when the fit has ended: what was trained isn't lost for it.
    """
    stop, told = threading.Event(), len(read_history(folder))
    problems: list[Exception] = []

    def tell() -> None:
        nonlocal told
        for record in read_history(folder)[told:]:
            told += 1
            try:
                on_epoch(record)
            except Exception as error:  # noqa: BLE001 - whatever the caller's function raises
                problems.append(error)

    def watch() -> None:
        while not stop.wait(POLL_S):
            tell()

    thread = threading.Thread(target=watch, name="watch-epochs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        tell()
    if problems:
        raise problems[0]
