"""Who sees what of a case: others' labels when one's own is there, and of a blinded project names never."""

from collections.abc import Mapping
from http import HTTPStatus
from statistics import fmean
from typing import Any

from medray.annotation.cases import Case
from medray.annotation.projects import Project
from medray.annotation.store import Version
from medray.serving.auth import Principal, Refusal, Role

__all__ = ["name_for", "plain", "require_sight", "sees_others", "visible"]

TOLD = ("seconds", "edits", "start", "changed", "tool", "comment", "model", "method", "agreement", "disputed", "names")
"""Facts of a label that others are told: who made what isn't among them."""


def sees_others(project: Project, case: Case, principal: Principal) -> bool:
    """Tell whether somebody may see what others say of a case: an expert of it, whoever else they are, once theirs is there."""
    if case.concerns(principal.name):
        own = case.of(principal.name)
        return not project.blinded or (own is not None and own.live)
    return principal.role >= Role.REVIEWER or not project.blinded


def require_sight(project: Project, case: Case, principal: Principal) -> None:
    """Check that somebody may see what others say of a case.

    Raises:
        Refusal: 403.
    """
    if not sees_others(project, case, principal):
        raise Refusal(HTTPStatus.FORBIDDEN, "forbidden", "this case is yours to label: submit your label first")


def visible(project: Project, case: Case, principal: Principal) -> tuple[Version, ...]:
    """Return the experts' labels that somebody may see, their own included."""
    if case.concerns(principal.name) or not sees_others(project, case, principal):
        return case.visible(principal.name, blinded=project.blinded)
    return tuple(one for one in case.labels if one.status != "draft")


def name_for(project: Project, case: Case, version: Version, principal: Principal) -> str:
    """Return what somebody is told of whose label it is."""
    known = not project.blinded or principal.role >= Role.OPERATOR
    return version.label.annotator if known else case.alias(version.label.annotator)


def _together(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far experts agree on a name, without what tells one from another: lists are in the order of their names."""
    dices = [pair[2] for pair in said.get("pairs", ())]
    mean = {"dice": round(fmean(dices), 4)} if dices else {}
    return {key: value for key, value in said.items() if not isinstance(value, list)} | mean


def plain(version: Version) -> dict[str, Any]:
    """Return what is told of a label, whose and by whom left out."""
    facts = {name: value for name, value in version.facts.items() if name in TOLD}
    if "names" in facts:
        facts["names"] = {name: _together(said) for name, said in facts["names"].items()}
    return {"version": version.number, "status": version.status, "kind": version.kind, "at": version.at, "facts": facts}
