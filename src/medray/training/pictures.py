"""What a model under training says of one validation case, to look at while it learns."""

from __future__ import annotations

import io

import numpy as np

from medray.imaging.volume import Volume
from medray.inference.pictures import case_picture
from medray.preprocessing.bricks import Case
from medray.preprocessing.plan import Plan
from medray.tasks.answer import Answer
from medray.training.loop import truth_of

__all__ = ["draw_case"]


def draw_case(plan: Plan, case: Case, answer: Answer) -> bytes:
    """Return a PNG: the case on the plan's grid, what the model says, and the truth."""
    volume = Volume(case.image.astype(np.float32), np.diag([*plan.spacing_mm, 1.0]))
    drawn = io.BytesIO()
    case_picture(volume, answer, truth_of(plan, case), plan).savefig(drawn, format="png", dpi=70, facecolor="black")
    return drawn.getvalue()
