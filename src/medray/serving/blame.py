"""Whose fault it is that an image has no answer: its own, or the model's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medray.errors import MedrayError, ModelError
from medray.inference.prediction import Unwanted

__all__ = ["by_the_model"]


@contextmanager
def by_the_model() -> Iterator[None]:
    """Say of what goes wrong meanwhile that it isn't the image's fault: a network that runs out of memory, or isn't right.

    Raises:
        ModelError: Instead of what isn't medray's own error.
    """
    try:
        yield
    except (MedrayError, Unwanted):
        raise
    except Exception as error:
        raise ModelError(f"the model failed on this image ({type(error).__name__})") from error
