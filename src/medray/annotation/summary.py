"""How a whole project stands: how far each expert is, how far they agree, how good each is by the consensus."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np

from medray.annotation.agreement import cohens_kappa, fleiss_kappa, krippendorffs_alpha
from medray.annotation.cases import Case, Progress, progress_of
from medray.annotation.projects import PRESENCE, Project

__all__ = ["PairAgreement", "Summary", "summarise"]


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """How far two experts agree on a name.

    Attributes:
        name: What they drew or said something of.
        first: One expert.
        second: The other.
        cases: That both have labelled.
        dice: Mean Dice of what they drew; None of anything else.
        hd95_mm: Median distance, of the cases in which both drew something; None where there is none.
        one_drew: Cases in which one of them drew nothing and the other something.
        kappa: Cohen's, of findings: weighted linearly where there are more than two choices. None where both always say the
            same one thing.
    """

    name: str
    first: str
    second: str
    cases: int
    dice: float | None = None
    hd95_mm: float | None = None
    one_drew: int = 0
    kappa: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """How a project stands; numbers are of the cases whose consensus was made of the labels that count now.

    Attributes:
        project: Its name.
        states: State to number of cases.
        agreement: Mean of the cases', None where there is none.
        experts: Name to how far each is.
        sensitivity: Expert to name to STAPLE's mean sensitivity.
        specificity: The same of its specificity.
        pairs: Of each two experts and each name.
        fleiss: Finding to Fleiss' kappa, where as many experts labelled each case.
        alpha: Finding to Krippendorff's alpha: ordinal where there are more than two choices.
    """

    project: str
    states: Mapping[str, int]
    agreement: float | None
    experts: Mapping[str, Progress]
    sensitivity: Mapping[str, Mapping[str, float]]
    specificity: Mapping[str, Mapping[str, float]]
    pairs: Sequence[PairAgreement]
    fleiss: Mapping[str, float | None]
    alpha: Mapping[str, float | None]

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)


def summarise(project: Project, cases: Sequence[Case]) -> Summary:
    """Sum a project up."""
    concluded = [case.consensus.facts for case in cases if case.fresh and case.consensus]
    agreed = [float(facts["agreement"]) for facts in concluded]
    findings = project.names if project.kind == "findings" else {}
    return Summary(
        project.name,
        dict(Counter(case.state for case in cases)),
        fmean(agreed) if agreed else None,
        progress_of(cases),
        _mean_shares(concluded, "sensitivity"),
        _mean_shares(concluded, "specificity"),
        [*_drawn(project, concluded), *(pair for name in findings for pair in _said(name, findings[name], concluded))],
        {name: _fleiss(name, choices, concluded) for name, choices in findings.items()},
        {name: _alpha(name, choices, concluded) for name, choices in findings.items()},
    )


def _mean_shares(concluded: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for facts in concluded:
        for name, of_name in facts["names"].items():
            for rater, share in zip(facts["raters"], of_name.get(key, ()), strict=False):
                if share is not None:
                    found[rater][name].append(share)
    return {rater: {name: fmean(shares) for name, shares in by_name.items()} for rater, by_name in sorted(found.items())}


def _drawn(project: Project, concluded: Sequence[Mapping[str, Any]]) -> Iterator[PairAgreement]:
    if project.kind != "segmentation":
        return
    for name in project.names:
        found: dict[tuple[str, str], list[tuple[float, float | None]]] = defaultdict(list)
        for facts in concluded:
            raters = facts["raters"]
            for first, second, dice, hd95_mm in facts["names"][name]["pairs"]:
                found[raters[first], raters[second]].append((dice, hd95_mm))
        for (first, second), measured in sorted(found.items()):
            distances = [hd95_mm for dice, hd95_mm in measured if hd95_mm is not None]
            mean = fmean(dice for dice, _ in measured)
            one_drew = sum(hd95_mm is None and dice < 1 for dice, hd95_mm in measured)
            yield PairAgreement(name, first, second, len(measured), mean, median(distances) if distances else None, one_drew)


def _choices_by_case(name: str, choices: Sequence[str], concluded: Sequence[Mapping[str, Any]]) -> list[dict[str, int]]:
    """Return each case's choices: expert to number."""
    found = []
    for facts in concluded:
        said = facts["names"][name]["choices"]
        found.append({rater: choices.index(choice) for rater, choice in zip(facts["raters"], said, strict=True)})
    return found


def _said(name: str, choices: Sequence[str], concluded: Sequence[Mapping[str, Any]]) -> Iterator[PairAgreement]:
    by_case = _choices_by_case(name, choices, concluded)
    raters = sorted({rater for case in by_case for rater in case})
    for first, second in combinations(raters, 2):
        both = [(case[first], case[second]) for case in by_case if first in case and second in case]
        if both:
            one, other = zip(*both, strict=True)
            kappa = cohens_kappa(one, other, len(choices), scale=_scale(choices))
            yield PairAgreement(name, first, second, len(both), kappa=_number(kappa))


def _fleiss(name: str, choices: Sequence[str], concluded: Sequence[Mapping[str, Any]]) -> float | None:
    counts = [np.bincount(list(case.values()), minlength=len(choices)) for case in _choices_by_case(name, choices, concluded)]
    if not counts or len({int(count.sum()) for count in counts}) > 1 or counts[0].sum() < 2:
        return None
    return _number(fleiss_kappa(np.stack(counts)))


def _alpha(name: str, choices: Sequence[str], concluded: Sequence[Mapping[str, Any]]) -> float | None:
    said = [list(case.values()) for case in _choices_by_case(name, choices, concluded)]
    return _number(krippendorffs_alpha(said, len(choices), scale=_scale(choices)))


def _scale(choices: Sequence[str]) -> Any:
    return "nominal" if len(choices) == len(PRESENCE) else "ordinal"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
