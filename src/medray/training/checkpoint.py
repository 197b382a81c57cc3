"""What is saved of a learner, and how it is read again: never a pickle that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medray.errors import InputError
from medray.training.learner import Learner
from medray.training.run import WEIGHTS

__all__ = ["load_learner", "save_learner", "saved_history"]

STATE = "learner.pt"


def save_learner(place: Path, learner: Learner) -> None:
    """Write the judged weights and the rest of the state into a folder."""
    save_file({name: tensor.contiguous() for name, tensor in learner.judged.state_dict().items()}, place / WEIGHTS)
    torch.save(learner.state(), place / STATE)


def load_learner(place: Path, learner: Learner) -> None:
    """Bring a fresh learner to where another one was saved.

    Raises:
        InputError: If a file is missing, cut off, or of another network.
    """
    try:
        state = torch.load(place / STATE, weights_only=True, map_location=learner.device)
        learner.restore(load_file(place / WEIGHTS), state)
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the checkpoint in {place} is damaged or of another network ({reason}): remove it to begin again"
        ) from None


def saved_history(place: Path) -> list[dict[str, Any]]:
    """Return the records of the epochs that a saved learner had behind it."""
    history: list[dict[str, Any]] = torch.load(place / STATE, weights_only=True, map_location="cpu")["history"]
    return history
