"""Ray Train's processes, begun side by side.

Ray Train starts its controller, and only then its workers: each is a new process that takes seconds to import torch. Ray gives
an actor an idle process that has the same environment; so both kinds are started together here, import what they will need, and
are idle when Ray Train asks for them. Where they aren't, nothing is lost but that.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train.v2._internal.constants import DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE, get_env_vars_to_propagate

__all__ = ["warm_up"]


def warm_up(workers: int, environment: Mapping[str, str]) -> None:
    """Start a controller's process and so many workers' on this machine, and wait until they have imported what they need.

    Args:
        workers: How many.
        environment: What workers' `runtime_env` will have beside what Ray Train gives them.
    """
    controller = {
        RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE,
        **get_env_vars_to_propagate(),
    }
    worker = {**controller, **environment}
    begun = [_begin(controller, "ray.train.torch"), *(_begin(worker, "medray.training.worker") for _ in range(workers))]
    ray.get(begun)


def _begin(environment: Mapping[str, str], module: str) -> ray.ObjectRef:
    task = ray.remote(num_cpus=0, runtime_env={"env_vars": dict(environment)})(_take_in)
    return task.remote(module)


def _take_in(module: str) -> None:
    import_module(module)
