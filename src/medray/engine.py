"""The one place where medray starts or joins Ray, and the one way it maps a function over many studies."""

from __future__ import annotations

import logging
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.data
from ray import cloudpickle
from ray._private.state import available_resources_per_node  # there is no public way to ask
from ray.data import DataContext
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medray.errors import MedrayError, ResourceError

__all__ = ["cpus_each", "free_gpus", "join_ray", "on_each_node", "require_cpus", "stream"]

PATIENCE_S = 5.0
MOST_A_BLOCK, BLOCKS_A_CPU = 16, 4
"""Many items become blocks of several, as long as each CPU has some blocks to share out."""
MAX_RETRIES = 3
"""Of a task whose worker or node died, before its item is taken to be the cause. Ray Data's own default is to try for ever."""
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless somebody asks for it
    # Serve replaces an HTTP proxy after three failed checks: by its own period of 10 s nobody is answered for half a minute.
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "0.25")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    # A dashboard of its own would take two seconds and a few hundred MB each time.
    ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints what is handled here, with tracebacks


def require_cpus(processes: int, *, what: str, each: float = 1, gpu: bool = False) -> list[int]:
    """Check that so many processes find their CPUs free, each on one node, and return how many CPUs each node has free.

    Waits a few seconds for CPUs that finished tasks are about to give back.

    Args:
        processes: How many.
        what: What they are, for the message.
        each: CPUs of one.
        gpu: Whether only nodes with a GPU count.

    Raises:
        ResourceError: If there are fewer; Ray would wait for them in silence.
    """
    wanted = float(ray.cluster_resources().get("CPU", 0.0))
    deadline = time.monotonic() + PATIENCE_S
    while float(ray.available_resources().get("CPU", 0.0)) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    nodes = available_resources_per_node().values()
    free = [int(node.get("CPU", 0.0)) for node in nodes if node.get("GPU", 0.0) or not gpu]
    if sum(count // each for count in free) < processes:
        has = " and ".join(map(str, free)) or "none"
        needed = f"{processes} free CPUs" if each == 1 else f"{processes} times {each:g} free CPUs on one node"
        raise ResourceError(f"{what} needs {needed} and the cluster has {has}: ask for less or wait")
    return free


def free_gpus() -> int:
    """Return how many whole GPUs are free on the cluster."""
    return int(ray.available_resources().get("GPU", 0.0))


def cpus_each(free: Sequence[int], processes: int) -> int:
    """Return how many CPUs each of so many processes can have on nodes with so many free: none spans two; 1 at least."""
    return next((each for each in range(max(free, default=1), 1, -1) if sum(count // each for count in free) >= processes), 1)


def stream(
    items: Sequence[Item], function: Callable[[Item], Result], *, on_crash: Callable[[Item], Result] | None = None
) -> Iterator[Result]:
    """Map a function over items with Ray Data and yield results as they come, in any order.

    Items and results are small: voxels are read and written inside ``function``, so that a worker holds one volume at
    a time and the object store none. Ray retries a task whose worker or node died.

    Args:
        items: Picklable descriptions of work.
        function: Picklable. An error of its own ends the whole map and is raised here, medray's as they are.
        on_crash: Called here for an item whose worker died at every attempt: what a library in C can't survive, or what is
            larger than a worker's memory.

    Raises:
        ResourceError: If workers died over an item and there is no ``on_crash``, or die over a task that does nothing, too.
    """
    left = dict(enumerate(items))
    for several in (True, False):  # what dies in company is tried again alone, so that only the one to blame is left
        for number, result in _mapped(left, function, several=several):
            del left[number]
            yield result
        if not left:
            return
    if on_crash is None or not _workers_live():
        raise ResourceError(
            f"no worker finished {len(left)} of {len(items)} items in {MAX_RETRIES + 1} attempts: "
            "can workers import the same code, and is there enough memory?"
        )
    for item in left.values():
        yield on_crash(item)


def on_each_node(function: Callable[[], Result]) -> list[Result]:
    """Call a function, which is picklable and quick, on every node of the cluster."""
    join_ray()
    ids = [str(node["NodeID"]) for node in ray.nodes() if node["Alive"]]

    def call() -> Result:
        return function()

    once = ray.remote(num_cpus=0)(call)  # which takes no partial function
    there = (NodeAffinitySchedulingStrategy(node, soft=True) for node in ids)  # another's, where it has left meanwhile
    results: list[Result] = ray.get([once.options(scheduling_strategy=strategy).remote() for strategy in there])
    return results


def _workers_live() -> bool:
    """Tell whether workers can run anything: if so, those that died were killed by what they were given."""
    return bool(list(_mapped({0: None}, lambda _: True, several=False)))


def _mapped(items: Mapping[int, Item], function: Callable[[Item], Result], *, several: bool) -> Iterator[tuple[int, Result]]:
    """Yield number and result of each item that a worker finished."""
    if not items:
        return
    join_ray()

    def call(row: dict[str, Any]) -> dict[str, Any]:
        try:
            result: Any = function(cloudpickle.loads(row["item"]))
        except Exception as error:  # noqa: BLE001 - as a value: a task that fails is left out, and its error with it
            ours = isinstance(error, MedrayError)
            result = _Raised(error if ours else RuntimeError(f"a task failed ({type(error).__name__})"))
        return {"number": row["number"], "result": cloudpickle.dumps(result)}

    rows = [{"number": number, "item": cloudpickle.dumps(item)} for number, item in items.items()]
    blocks = -(-len(rows) // _items_a_block(len(rows))) if several else len(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # max_retries has no other way in before Ray 2.64
        results = _surviving(rows, blocks).map(call, max_retries=MAX_RETRIES)
    for row in results.iter_rows():
        result = cloudpickle.loads(row["result"])
        if isinstance(result, _Raised):
            raise result.error
        yield row["number"], result


def _items_a_block(count: int) -> int:
    """Return how many items a task does one after another: Ray Data takes a tenth of a second from one task to the next."""
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return max(1, min(MOST_A_BLOCK, count // (BLOCKS_A_CPU * cpus)))


@dataclass(frozen=True, slots=True)
class _Raised:
    error: Exception


def _surviving(rows: list[dict[str, Any]], blocks: int) -> ray.data.Dataset:
    """Return a dataset that leaves out a block whose task failed for good instead of ending the whole."""
    context = DataContext.get_current()
    before = context.max_errored_blocks
    context.max_errored_blocks = -1
    try:
        return ray.data.from_items(rows, override_num_blocks=blocks)  # takes a copy of the context with it
    finally:
        context.max_errored_blocks = before
