"""To which replica of the pool a request goes: one that has its model, or the idlest where those have a queue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

__all__ = ["Candidate", "WarmFirst", "ranked"]

PATIENCE = 4
"""Requests that may be under way at a replica with the model before one without it is asked to load it."""
MEMORY_S = 30.0
"""How long a replica that was asked for a model is taken to load or to have it, whatever it says."""
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as seen from here.

    Attributes:
        queue: Requests under way there, as last heard.
        warm: Whether it has the model, or was asked to load it.
    """

    queue: int
    warm: bool


def ranked(candidates: Mapping[Key, Candidate]) -> list[list[Key]]:
    """Return replicas in ranks, the first to be tried first; each is in one of them.

    Those with the model come first unless the shortest queue among them is `PATIENCE` long and a replica without it has a
    shorter one: so a model spreads over as many replicas as its own requests need, and no further.
    """
    order = sorted(candidates, key=lambda key: candidates[key].queue)
    warm = [key for key in order if candidates[key].warm]
    cold = [key for key in order if not candidates[key].warm]
    if not warm or not cold:
        return [[key] for key in order]
    crowded = candidates[warm[0]].queue >= PATIENCE and candidates[cold[0]].queue < candidates[warm[0]].queue
    return [[key] for key in ([*cold[:1], *warm, *cold[1:]] if crowded else [*warm, *cold])]


class WarmFirst(FIFOMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]
    """Routes by what replicas say they have loaded (``record_routing_stats``) and by what they were asked for just now.

    The mixins hand a replica that was found to the oldest request for the same model. Without them Serve goes by the id of the
    HTTP request, which two calls that follow from one share: one of them would wait for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: dict[tuple[Any, str], float] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[list[RunningReplica]]:
        """Return the replicas in ranks; called by Serve."""
        model = pending_request.metadata.multiplexed_model_id if pending_request else ""
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        seen = {key: self._seen(replica, model) for key, replica in by_id.items()}
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        ranks = ranked(seen)
        return [[by_id[key] for key in rank] for rank in ranks]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: Any, result: Any) -> None:
        """Remember who was asked for what; called by Serve."""
        now = time.monotonic()
        self._asked = {asked: at for asked, at in self._asked.items() if now - at < MEMORY_S}
        self._asked[replica_id, pending_request.metadata.multiplexed_model_id] = now

    def _seen(self, replica: RunningReplica, model: str) -> Candidate:
        told = replica.routing_stats.get("models", ())
        asked = time.monotonic() - self._asked.get((replica.replica_id, model), -MEMORY_S) < MEMORY_S
        queue = self.replica_queue_len_cache.get(replica.replica_id)
        return Candidate(queue or 0, asked or model in told)
