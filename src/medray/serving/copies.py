"""Answers that are kept for a moment in Ray's object store, so that another version's answer can be held against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import ray
from ray.exceptions import RayError

from medray.inference.agreement import agreement
from medray.inference.prediction import Prediction
from medray.serving.results import Reply
from medray.serving.ticket import Ticket

__all__ = ["compared"]

PATIENCE_S = 10.0
"""For another replica's answer to come; one that died has none."""


def compared(prediction: Prediction, reply: Reply, ticket: Ticket) -> tuple[Reply, Mapping[str, float]]:
    """Keep an answer, or hold it against one that was kept, as its ticket asks.

    Returns:
        The reply, which says where the answer is kept, or how far it agrees; and how far.
    """
    if ticket.keep:
        return replace(reply, kept=(ray.put(prediction.answer),)), {}
    if not ticket.against:
        return reply, {}
    try:
        other = ray.get(ticket.against[0], timeout=PATIENCE_S)
    except RayError:
        return reply, {}
    found = agreement(other, prediction.answer, prediction.values)
    return replace(reply, headers={**reply.headers, "X-Medray-Agreement": json.dumps(found)}), found
