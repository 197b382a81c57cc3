"""Which expert labels which case."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

__all__ = ["share_out"]


def share_out(
    cases: Sequence[str], experts: Sequence[str], each: int, there: Sequence[tuple[str, str]]
) -> list[tuple[int, str, str]]:
    """Give each case so many experts, and all experts about as many cases.

    Those with the fewest cases come first, and of these the one whom a hash of both names chooses: the same two experts
    don't share all of their cases, and who asks again gets the same answer.

    Args:
        cases: In the order in which they are to be labelled.
        experts: Who may label them.
        each: Experts a case; those who have it already count.
        there: Cases and experts that are assigned.

    Returns:
        What is new: the case's place in ``cases``, case and expert. Each expert's load differs by at most one from the others'
        where none had any before.
    """
    load = Counter(dict.fromkeys(experts, 0))
    taken: dict[str, set[str]] = {}
    for case, expert in there:
        taken.setdefault(case, set()).add(expert)
        load[expert] += 1
    new = []
    for place, case in enumerate(dict.fromkeys(cases)):
        has = taken.get(case, set())
        for expert in _least(case, set(experts) - has, load, each - len(has)):
            load[expert] += 1
            new.append((place, case, expert))
    return new


def _least(case: str, free: AbstractSet[str], load: Counter[str], most: int) -> list[str]:
    def turn(expert: str) -> tuple[int, bytes]:
        return load[expert], hashlib.sha256(f"{case}\n{expert}".encode()).digest()

    return sorted(free, key=turn)[: max(0, most)]
