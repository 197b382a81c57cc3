"""What every worker of a fit is told."""

from __future__ import annotations

from dataclasses import dataclass

from medray.storage.location import Location
from medray.training.config import FitConfig

__all__ = ["Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What every worker is told.

    Attributes:
        prepared: Training data.
        config: How to train.
        folder: The run's folder.
        threads: Cores of a worker.
        start: Weights to begin with; random ones where there are none.
    """

    prepared: Location
    config: FitConfig
    folder: Location
    threads: int
    start: Location | None = None
