"""What experts and reviewers may do with a project's labels, by the project's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from medray.annotation.content import checked
from medray.annotation.projects import Project, Projects
from medray.annotation.store import ADJUDICATED, EFFORT, FINAL, PRELABEL, Label, LabelStore, Status, Version
from medray.errors import ConflictError, InputError, LabelError, NotFoundError, OutdatedError
from medray.imaging.labels import LabelSchema, renumbering
from medray.imaging.volume import Volume
from medray.types import Shape

__all__ = ["begin_with", "label_of", "released", "renamed", "review", "submit"]


def label_of(project: Project, series: str, annotator: str) -> Label:
    """Return whose label of which image it is, in a project."""
    return Label(series, annotator, project=project.name)


def begin_with(store: LabelStore, project: Project, series: str, mask: Volume, names: Mapping[str, int], model: str) -> Version:
    """Keep a model's answer for experts to start from: each of them from the same.

    Args:
        store: Of the project's labels.
        project: Which names its model.
        series: The image.
        mask: The answer, in one channel on the image's grid.
        names: What its values mean; those that the project hasn't are left out.
        model: ``name/version``.
    """
    table = renumbering(names, project.values)
    label = Label(series, "", PRELABEL, project.name)
    made = Version(label, "submitted", model, names=project.values, facts={"model": model})
    try:
        return store.draw(made, mask.with_voxels(table[mask.voxels.astype(np.uint8)]), seen=0)
    except OutdatedError:  # somebody else asked at the same time, and all start from the same
        return store.head(label)


def renamed(label: Volume, names: Mapping[str, int], values: Mapping[str, int]) -> Volume:
    """Return a label map with other values for its names.

    Raises:
        LabelError: If it has a name that they haven't.
    """
    for name, value in names.items():
        if name not in values and (label.voxels == value).any():
            raise LabelError("unknown-label", f"the project has no label {name[:64]!r}: draw {', '.join(values)}")
    return label.with_voxels(renumbering(names, values)[label.voxels])


def submit(store: LabelStore, project: Project, work: Version, said: Any, *, seen: int | None, shape: Shape) -> Version:
    """Take in what an expert made, or a reviewer decided.

    Args:
        store: Of the project's labels.
        project: Its rules.
        work: Whose label it is, who hands it in, whether as ``draft`` or ``submitted``, and what their tool says of it:
            ``seconds`` of work and ``start``, the number of the version that they began with, of which ``changed`` is added:
            how much of what either of them has differs, 0 to 1. What it says is left open.
        said: A label map as a volume in one channel on the image's grid; all else as `checked` wants it.
        seen: Number of the newest version that they saw, 0 for none; None where they can't say.
        shape: Of the image.

    Raises:
        InputError: If it says what the project has no name for.
        OutdatedError: If they didn't see the newest version.
        ConflictError: If a blinded project has their label already.
    """
    label = work.label
    last = next(iter(store.heads(**asdict(label))), None)
    facts = _carried(last, work)
    made = replace(work, kind=project.kind, names=project.values, facts=facts)
    stands = last and last.live and project.blinded and label.tag != ADJUDICATED
    if last and stands and not _again(last, made, seen):
        why = f"version {last.number} is submitted, and stands unless a reviewer gives it back: others are seen now"
        raise ConflictError(why)
    if project.kind != "segmentation":
        return store.add(made.saying(checked(project.kind, said, project.names, shape)), seen=seen)
    mask = said.with_voxels(LabelSchema(project.values).checked(said.voxels))
    if len(mask.voxels) != 1:
        raise LabelError("label-channels", "a label map has one channel: one value a voxel")
    return store.draw(replace(made, facts={**facts, **_changed(store, label, mask, facts.get("start"))}), mask, seen=seen)


def released(projects: Projects, store: LabelStore, name: str, expert: str, actor: str) -> int:
    """Take those cases of an expert back that they haven't labelled; see `Projects.release`."""
    done = [one.label.series for one in store.heads(project=name, annotator=expert) if one.live]
    return projects.release(name, expert, actor, keep=done)


def review(store: LabelStore, label: Label, reviewer: str, decision: Status, *, seen: int | None, comment: str = "") -> Version:
    """Approve a label or give it back.

    Raises:
        NotFoundError: If there is none.
        InputError: If it is the reviewer's own, or nobody's.
        OutdatedError: If there is a newer version than was seen.
        ConflictError: If it is a draft.
    """
    last = store.head(label)
    if label.tag not in {FINAL, ADJUDICATED}:
        raise InputError(f"what is reviewed is what somebody made, and no {label.tag}")
    said = store.history(**asdict(label)) if label.tag == ADJUDICATED else []
    authors = {one.actor for one in said if one.content == last.content and one.status in {"draft", "submitted"}}
    if reviewer in {label.annotator, *authors}:
        raise InputError("nobody reviews a label of their own: ask another reviewer")
    if last.status in {"draft", "withdrawn"}:
        raise ConflictError(f"the label is {last.status}: wait until it is submitted")
    return store.amend(label, reviewer, {"comment": comment} if comment else {}, status=decision, seen=seen)


def _again(last: Version, made: Version, seen: int | None) -> bool:
    """Tell whether somebody who never heard that it was taken may be sending the same once more; the store looks closer."""
    return last.parent == seen and last.actor == made.actor and last.status == made.status


def _carried(last: Version | None, work: Version) -> dict[str, Any]:
    """Return what is said of how a label was made: of one that is gone on with, all of its sessions together."""
    facts = dict(work.facts)
    if last is None or last.status != "draft" or last.actor != work.actor:
        return facts
    for name in EFFORT:
        if name in facts or name in last.facts:
            facts[name] = round(facts.get(name, 0) + last.facts.get(name, 0), 1)
    if facts.get("start") == last.number:  # the draft itself, which began somewhere else or nowhere
        del facts["start"]
    return {**facts, **({"start": last.facts["start"]} if "start" in last.facts else {})}


def _changed(store: LabelStore, label: Label, mask: Volume, start: Any) -> dict[str, float]:
    """Measure how far a label map is from the one that it was begun with: one's own or the model's, and nobody else's."""
    if not isinstance(start, int) or not start:
        return {}
    begun = store.version(start)
    if begun.label not in {label, Label(label.series, "", PRELABEL, label.project)}:
        raise NotFoundError(f"version {start} is none that you could have begun with")
    before, after = store.mask(begun).voxels, mask.voxels
    if before.shape != after.shape:  # the image was taken in anew since
        return {}
    either = np.count_nonzero((before > 0) | (after > 0))
    return {"changed": round(np.count_nonzero(before != after) / either, 5) if either else 0.0}
