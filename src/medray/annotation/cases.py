"""How far a project's cases are, and what of them each may see."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medray import config
from medray.annotation.projects import Assignment, Project, Projects
from medray.annotation.store import ADJUDICATED, CONSENSUS, FINAL, LabelStore, Version
from medray.storage.location import Location

__all__ = ["Case", "Progress", "State", "all_cases", "cases_of", "mixed", "progress_of"]

State = Literal["open", "complete", "agreed", "disputed", "adjudicated"]


@dataclass(frozen=True, slots=True)
class Case:
    """One image of a project.

    Attributes:
        series: The image.
        rank: Cases of lower rank come first.
        experts: Whose it is, by name.
        labels: The newest version of each expert's label, drafts and what was rejected included.
        consensus: What was made of them, if it was.
        adjudicated: What a reviewer decided, if one did.
        wanted: How many experts are to label it.
    """

    series: str
    rank: int
    experts: tuple[str, ...]
    labels: tuple[Version, ...]
    consensus: Version | None
    adjudicated: Version | None
    wanted: int

    @property
    def live(self) -> tuple[Version, ...]:
        """The labels that count."""
        return tuple(one for one in self.labels if one.live)

    @property
    def fresh(self) -> bool:
        """Whether the consensus counts, and was made of what the labels that count now say."""
        return bool(self.consensus and self.consensus.live and self.consensus.facts.get("made_of") == self.made_of)

    @property
    def made_of(self) -> str:
        """A hash of what the labels that count say; a review of one changes nothing of it."""
        said = sorted([one.label.annotator, one.content] for one in self.live)
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

    @property
    def state(self) -> State:
        """``open`` while labels are missing, ``complete`` until their consensus is made, then what that or a reviewer said."""
        if self.adjudicated and self.adjudicated.live:
            return "adjudicated"
        if len(self.live) < self.wanted:
            return "open"
        if not self.fresh or self.consensus is None:
            return "complete"
        return "disputed" if self.consensus.facts.get("disputed") else "agreed"

    @property
    def result(self) -> Version | None:
        """What may be trained on: a reviewer's decision, or what the experts agree on."""
        state = self.state
        return self.adjudicated if state == "adjudicated" else self.consensus if state == "agreed" else None

    def of(self, annotator: str) -> Version | None:
        """Return an expert's label."""
        return next((one for one in self.labels if one.label.annotator == annotator), None)

    def concerns(self, annotator: str) -> bool:
        """Tell whether somebody is to label it, or has."""
        return annotator in self.experts or self.of(annotator) is not None

    def visible(self, annotator: str, *, blinded: bool) -> tuple[Version, ...]:
        """Return the labels that an expert may see: one's own and, of a blinded project when that is submitted, the others'."""
        own = self.of(annotator)
        if blinded and not (own and own.live):
            return (own,) if own else ()
        return tuple(one for one in self.labels if one.live or one is own)

    def alias(self, annotator: str) -> str:
        """Return what an expert is called where names are not to be known: the same in all of a case's labels."""
        known = mixed(self.series, {*self.experts, *(one.label.annotator for one in self.labels)})
        return f"rater {known.index(annotator) + 1}" if annotator in known else annotator


def mixed(series: str, names: Iterable[str]) -> list[str]:
    """Return names in an order that nobody can tell who hasn't the pseudonym key, another one for each image."""
    key = config.derived_key("blinding")
    return sorted(names, key=lambda name: hmac.new(key, f"{series}\n{name}".encode(), hashlib.sha256).digest())


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an expert is.

    Attributes:
        assigned: Cases.
        done: Of these, submitted or approved.
        approved: Of these.
        rejected: Given back by a reviewer.
        seconds: Median time that a submitted label took, as the tools say; None where none says.
        edits: Median number of strokes, as the tools say.
        changed: Median share of what they began with that they changed; None where none began with anything.
    """

    assigned: int
    done: int
    approved: int
    rejected: int
    seconds: float | None
    edits: float | None
    changed: float | None


def all_cases(root: Location, project: Project) -> list[Case]:
    """Return all of a project's cases, by rank.

    Args:
        root: The cohort.
        project: One of its projects.
    """
    return cases_of(project, Projects(root).assigned(project.name), LabelStore(root).heads(project=project.name))


def cases_of(project: Project, assignments: Sequence[Assignment], heads: Sequence[Version]) -> list[Case]:
    """Put a project's assignments and labels together, by rank.

    Args:
        project: Of both.
        assignments: All.
        heads: The newest version of each label.
    """
    experts: dict[str, list[str]] = defaultdict(list)
    ranks: dict[str, int] = {}
    for one in assignments:
        experts[one.series].append(one.annotator)
        ranks[one.series] = min(one.rank, ranks.get(one.series, one.rank))
    found: dict[str, dict[str, list[Version]]] = defaultdict(lambda: defaultdict(list))
    for head in heads:
        found[head.label.series][head.label.tag].append(head)
        ranks.setdefault(head.label.series, len(ranks))
    in_turn = sorted(ranks, key=lambda series: (ranks[series], series))
    return [_case(project, series, ranks[series], experts[series], found[series]) for series in in_turn]


def _case(project: Project, series: str, rank: int, experts: Sequence[str], by_tag: Mapping[str, Sequence[Version]]) -> Case:
    consensus, adjudicated = (next(iter(by_tag.get(tag, ())), None) for tag in (CONSENSUS, ADJUDICATED))
    labels = tuple(by_tag.get(FINAL, ()))
    return Case(series, rank, tuple(sorted(experts)), labels, consensus, adjudicated, project.experts)


def progress_of(cases: Sequence[Case]) -> Mapping[str, Progress]:
    """Return how far each expert is, by name."""
    names = {name for case in cases for name in (*case.experts, *(label.label.annotator for label in case.labels))}
    return {name: _progress(name, cases) for name in sorted(names)}


def _progress(name: str, cases: Sequence[Case]) -> Progress:
    labels = [label for case in cases if (label := case.of(name))]
    live = [label for label in labels if label.live]
    return Progress(
        assigned=sum(name in case.experts for case in cases),
        done=len(live),
        approved=sum(label.status == "approved" for label in labels),
        rejected=sum(label.status == "rejected" for label in labels),
        seconds=_median(live, "seconds"),
        edits=_median(live, "edits"),
        changed=_median(live, "changed"),
    )


def _median(labels: Sequence[Version], fact: str) -> float | None:
    known = sorted(float(label.facts[fact]) for label in labels if isinstance(label.facts.get(fact), int | float))
    if not known:
        return None
    middle = len(known) // 2
    return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
