"""What a case's experts say together, how far they agree, and whether a reviewer is to decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, cast

import numpy as np

from medray.annotation.agreement import Pair, pairs_of
from medray.annotation.cases import Case, all_cases
from medray.annotation.consensus import Estimate, majority, majority_of_findings, meeting, staple
from medray.annotation.projects import Project, Projects
from medray.annotation.store import CONSENSUS, Label, LabelStore, Version
from medray.cohort.cohort import open_cohort
from medray.errors import ConflictError, InputError, NotFoundError
from medray.imaging.volume import Volume
from medray.storage.location import Location
from medray.types import Mask, Triple

__all__ = ["Concluded", "conclude", "conclude_all", "drawn_by"]

NEAR_IOU = 0.5
"""Intersection over union from which on two experts' boxes are one."""
NEAR_MM = 5.0
"""Up to which two experts' points are one."""
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Concluded:
    """What came of a project's cases.

    Attributes:
        made: Consensuses.
        disputed: Of these, on which experts agree too little.
        failed: Series to why there is none.
    """

    made: int
    disputed: int
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Said:
    """A case's consensus.

    Attributes:
        content: What is said; None of a segmentation.
        mask: Of a segmentation.
        agreement: Mean over names and pairs of experts of whom one said something of it at least, 0 to 1: on what nobody drew
            there is nothing to agree on.
        facts: Name to how far the experts agree on it.
    """

    content: Any
    mask: Mask | None
    agreement: float
    facts: Mapping[str, Facts]


def conclude(store: LabelStore, project: Project, case: Case, spacing_mm: Triple, actor: str) -> Version:
    """Make the consensus of the labels of a case that count, and keep it with how far they agree.

    Args:
        store: Where they are.
        project: Theirs.
        case: Which has as many labels as it is to have.
        spacing_mm: Of its image's voxels along I, J, K, as labels have them.
        actor: Who asks for it.

    Returns:
        The consensus: its facts say of which versions it was made (``of``), by whom (``raters``), how far they agree
        (``agreement``, 0 to 1, and ``names`` for each name) and whether that is too little (``disputed``). The one that is
        there, where it was made of these labels already.

    Raises:
        ConflictError: If labels are missing, or others are made meanwhile.
    """
    labels = sorted(case.live, key=lambda one: one.label.annotator)
    if len(labels) < project.experts:
        raise ConflictError(f"{project.experts} experts are to label this case, and {len(labels)} have: wait for the others")
    if case.fresh and case.consensus:
        return case.consensus
    said = _CONCLUSIONS[project.kind](store, project, labels, spacing_mm)
    facts = {
        "of": [one.number for one in labels],
        "made_of": case.made_of,
        "raters": [one.label.annotator for one in labels],
        "method": project.method if project.kind == "segmentation" else "majority",
        "agreement": round(said.agreement, 4),
        "disputed": said.agreement < project.agreement,
        "names": said.facts,
    }
    label = Label(case.series, "", CONSENSUS, project.name)
    made = Version(label, "submitted", actor, project.kind, names=project.values, facts=facts)
    seen = case.consensus.number if case.consensus else 0
    if said.mask is not None:
        return store.draw(made, Volume(said.mask[np.newaxis], store.mask(labels[0]).affine), seen=seen)
    return store.add(made.saying(said.content), seen=seen)


def conclude_all(
    root: Location, name: str, actor: str, *, on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None
) -> Concluded:
    """Make the consensus of every case of a project that has all of its labels and none of them.

    Args:
        root: The cohort.
        name: Of the project.
        actor: Who asks for it.
        on_progress: Called with ``("consensus", done, total)``.

    Raises:
        NotFoundError: If there is no such cohort or project.
        StorageError: If they can't be read or written.
    """
    project, store, cohort = Projects(root).get(name), LabelStore(root), open_cohort(root)
    rows = {row.series: row for row in cohort.rows}
    ready = [case for case in all_cases(root, project) if case.state == "complete" and case.series in rows]
    made, failed = [], {}
    for done, case in enumerate(ready, start=1):
        try:
            spacing_mm = cohort.volume(rows[case.series]).spacing_mm
            made.append(conclude(store, project, case, spacing_mm, actor))
        except (InputError, NotFoundError) as error:  # one case must not stop the others
            failed[case.series] = str(error)
        on_progress("consensus", done, len(ready))
    return Concluded(len(made), sum(bool(one.facts["disputed"]) for one in made), failed)


def drawn_by(store: LabelStore, labels: Sequence[Version]) -> list[Mask]:
    """Read the label maps of several versions, ``(I, J, K)``."""
    return [cast("Mask", store.mask(one).voxels[0]) for one in labels]


def _of_masks(store: LabelStore, project: Project, labels: Sequence[Version], spacing_mm: Triple) -> _Said:
    masks = drawn_by(store, labels)
    if len({mask.shape for mask in masks}) > 1:
        raise ConflictError("the labels lie on different grids: the image was taken in anew in between; have it drawn again")
    estimate = staple(masks, project.values) if project.method == "staple" else None
    chosen = estimate.mask if estimate else majority(masks, list(project.values.values()))
    facts, dices = {}, []
    for name, value in project.values.items():
        drawn = [mask == value for mask in masks]
        pairs = pairs_of(drawn, spacing_mm)
        dices += [pair.dice for pair in pairs if drawn[pair.first].any() or drawn[pair.second].any()]
        facts[name] = _facts_of_mask(pairs, name, estimate)
    return _Said(None, chosen, fmean(dices) if dices else 1.0, facts)


def _facts_of_mask(pairs: Sequence[Pair], name: str, estimate: Estimate | None) -> Facts:
    """JSON has no infinity: a distance to what isn't there is None."""
    told = [
        [pair.first, pair.second, round(pair.dice, 4), round(pair.hd95_mm, 3) if np.isfinite(pair.hd95_mm) else None]
        for pair in pairs
    ]
    facts: dict[str, Any] = {"pairs": told}
    if estimate:
        for key, found in (("sensitivity", estimate.sensitivity), ("specificity", estimate.specificity)):
            facts[key] = [round(share, 5) if np.isfinite(share) else None for share in found[name]]
    return facts


def _of_findings(store: LabelStore, project: Project, labels: Sequence[Version], spacing_mm: Triple) -> _Said:
    said = [one.said for one in labels]
    facts: dict[str, Facts] = {}
    for name in project.names:
        same = [one[name] == other[name] for one, other in combinations(said, 2)]
        facts[name] = {"same": round(fmean(same), 4) if same else 1.0, "choices": [one[name] for one in said]}
    agreement = fmean(float(fact["same"]) for fact in facts.values())
    return _Said(majority_of_findings(said, project.names), None, agreement, facts)


def _of_places(near: Callable[[Any, Any], float], mean: Callable[[Sequence[Any]], dict[str, Any]]) -> Any:
    """Conclude from boxes or points, which are one where they are near each other."""

    def conclusion(store: LabelStore, project: Project, labels: Sequence[Version], spacing_mm: Triple) -> _Said:
        said = [[_scaled(item, spacing_mm) for item in one.said] for one in labels]
        facts: dict[str, Facts] = {}
        every: list[float] = []
        for name in project.names:
            of_name = [[item for item in one if item["label"] == name] for one in said]
            shares = [_met(one, other, near) for one, other in combinations(of_name, 2) if one or other]
            every += shares
            facts[name] = {"met": round(fmean(shares), 4) if shares else 1.0, "found": [len(one) for one in of_name]}
        found = [_scaled(item, tuple(1 / side for side in spacing_mm)) for item in map(mean, meeting(said, near))]
        return _Said(found, None, fmean(every) if every else 1.0, facts)

    return conclusion


def _met(one: Sequence[Any], other: Sequence[Any], near: Callable[[Any, Any], float]) -> float:
    """Return the share of two experts' places that both found: Dice's coefficient with places for voxels."""
    return 2 * len(meeting([one, other], near)) / (len(one) + len(other))


def _scaled(item: Mapping[str, Any], by: Sequence[float]) -> dict[str, Any]:
    """Return a box or a point in mm from the grid's corner, or back in voxels."""
    if "voxel" in item:
        return {"label": item["label"], "voxel": [a * b for a, b in zip(item["voxel"], by, strict=True)]}
    ends = [[a * b for a, b in zip(end, by, strict=True)] for end in item["voxels"]]
    return {"label": item["label"], "voxels": ends}


def _near_boxes(one: Any, other: Any) -> float:
    (low, high), (low2, high2) = (np.array(item["voxels"]) for item in (one, other))
    both = float(np.prod(np.clip(np.minimum(high, high2) - np.maximum(low, low2), 0, None)))
    union = float(np.prod(high - low) + np.prod(high2 - low2)) - both
    share = both / union if union else 0.0
    return share if share >= NEAR_IOU else 0.0


def _near_points(one: Any, other: Any) -> float:
    apart = float(np.linalg.norm(np.subtract(one["voxel"], other["voxel"])))
    return 1 - apart / (2 * NEAR_MM) if apart <= NEAR_MM else 0.0


def _mean_of(key: str) -> Callable[[Sequence[Any]], dict[str, Any]]:
    return lambda group: {"label": group[0]["label"], key: np.mean([one[key] for one in group], axis=0).tolist()}


_CONCLUSIONS: Mapping[str, Callable[[LabelStore, Project, Sequence[Version], Triple], _Said]] = {
    "segmentation": _of_masks,
    "findings": _of_findings,
    "boxes": _of_places(_near_boxes, _mean_of("voxels")),
    "points": _of_places(_near_points, _mean_of("voxel")),
}
