"""What a request is called on its way, and why it is made."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the gateway knows nothing of tables
    from medray.monitoring.record import Role

__all__ = ["Ticket"]


def _new() -> str:
    return secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Goes with an image to a model.

    Attributes:
        id: Of the prediction and its record.
        role: Why this version is asked.
        keep: Whether the answer is kept for a while in Ray's object store, so that another version's can be compared with it.
        beside: Of a copy: whose image it is, too.
        against: Of a copy: where that one's answer is kept, in a tuple, so that a call doesn't wait for it.
    """

    id: str = field(default_factory=_new)
    role: Role = "champion"
    keep: bool = False
    beside: str = ""
    against: tuple[Any, ...] = ()
