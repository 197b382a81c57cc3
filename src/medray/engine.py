"""The one place where medray starts or joins Ray, and the one way it maps a function over many studies."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.data
from ray import cloudpickle

from medray.errors import MedrayError, ResourceError

__all__ = ["join_ray", "require_cpus", "stream"]

PATIENCE_S = 5.0
Item = TypeVar("Item")
Result = TypeVar("Result")


def join_ray() -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one on this machine; does nothing when already joined.

    A cluster that medray starts asks for a token, made for this process and its children alone: Ray would otherwise
    write one to the home folder, where it changes how every later cluster of that user behaves. Set ``RAY_AUTH_MODE``
    to decide yourself.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address and "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def require_cpus(count: float, *, what: str) -> float:
    """Check that the cluster has so many CPUs free, and return how many it has.

    Waits a few seconds for CPUs that finished tasks are about to give back.

    Raises:
        ResourceError: If there are fewer; Ray would wait for them in silence.
    """
    wanted = float(ray.cluster_resources().get("CPU", 0.0))
    deadline = time.monotonic() + PATIENCE_S
    free = 0.0
    while time.monotonic() < deadline:
        free = float(ray.available_resources().get("CPU", 0.0))
        if free >= wanted:
            break
        time.sleep(0.1)
    if free < count:
        raise ResourceError(f"{what} needs {count:g} free CPUs and the cluster has {free:g}: ask for fewer workers or wait")
    return free


def stream(items: Sequence[Item], function: Callable[[Item], Result]) -> Iterator[Result]:
    """Map a function over items with Ray Data, one item a block, and yield results as they come.

    Items and results are small: voxels are read and written inside ``function``, so that a worker holds one volume at
    a time and the object store none. Ray retries a task whose worker died.

    Args:
        items: Picklable descriptions of work.
        function: Picklable. One of medray's errors ends the whole map and is raised here as it is.
    """
    if not items:
        return
    join_ray()
    rows = [{"item": cloudpickle.dumps(item)} for item in items]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))

    def call(row: dict[str, Any]) -> dict[str, Any]:
        try:
            result: Any = function(cloudpickle.loads(row["item"]))
        except MedrayError as error:  # as a value: Ray would wrap it and print its traceback
            result = error
        return {"result": cloudpickle.dumps(result)}

    for row in data.map(call).iter_rows():
        result = cloudpickle.loads(row["result"])
        if isinstance(result, MedrayError):
            raise result
        yield result
