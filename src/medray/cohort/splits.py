"""Who trains, who validates, who tests: by subject, so that nobody is on two sides.

A subject's place follows from a hash of its pseudonym alone, so that it keeps its place when the cohort grows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from medray.errors import InputError

__all__ = ["SPLITS", "Split", "split_subjects"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def split_subjects(subjects: Iterable[str], *, val: float = 0.12, test: float = 0.18, seed: int = 0) -> dict[str, Split]:
    """Assign subjects to splits.

    Args:
        subjects: Pseudonyms; repeats count once.
        val: Share for validation.
        test: Share for testing.
        seed: Another seed is another assignment.

    Returns:
        Subject to split. When a small cohort leaves a split empty, the subject nearest to its range is moved there.

    Raises:
        InputError: With fewer than three subjects.
    """
    places = sorted((_place(subject, seed), subject) for subject in set(subjects))
    if len(places) < 3:
        raise InputError(f"{len(places)} subjects can't be split by subject: train, val and test need one each at least")
    splits: dict[str, Split] = {
        subject: "test" if place < test else "val" if place < test + val else "train" for place, subject in places
    }
    ordered = [subject for _, subject in places]
    nearest: list[tuple[Split, list[str]]] = [("test", ordered), ("val", ordered), ("train", ordered[::-1])]
    for split, nearest_first in nearest:
        if split not in splits.values():
            counts = Counter(splits.values())
            splits[next(subject for subject in nearest_first if counts[splits[subject]] > 1)] = split
    return splits


def _place(subject: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\0{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
