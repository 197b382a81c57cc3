"""`ModelVersion`: one registered model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelVersion"]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered model.

    Attributes:
        name: Model.
        version: From 1.
        aliases: Such as ``("champion",)``.
        source: Where its files lie.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> ModelVersion:
        """Read ``name/version``, as `str` writes it; its aliases and source aren't known then."""
        name, _, number = text.rpartition("/")
        return cls(name, int(number), (), "")
