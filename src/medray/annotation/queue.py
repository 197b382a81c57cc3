"""A queue: the images of a cohort that are to be labelled next, as a file that `medray annotate assign` takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from medray import config
from medray.annotation.projects import Projects
from medray.annotation.selection import By, next_cases
from medray.annotation.store import LabelStore
from medray.cohort.cohort import Cohort, open_cohort
from medray.errors import ConfigError
from medray.inference.uncertainty import Method, score_all
from medray.models.runtime import EXACT, Runtime
from medray.registry.registry import Registry
from medray.storage.location import Location, locate

__all__ = ["Choice", "read_queue", "write_queue"]


@dataclass(frozen=True, kw_only=True, config=config.STRICT)
class Choice:
    """What is to be labelled next.

    Attributes:
        by: See `medray.annotation.selection.next_cases`.
        method: See `medray.inference.uncertainty.score_all`.
        count: How many at most.
        project: Whose cases are left out that are assigned or labelled; without one, images that have a label.
    """

    by: By = "both"
    method: Method = "entropy"
    count: int = Field(default=50, ge=1)
    project: str = ""


def write_queue(
    models: Sequence[str],
    root: str | Path,
    target: str | Path,
    *,
    registry: Registry | None = None,
    runtime: Runtime = EXACT,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    **choice: Any,
) -> dict[str, Any]:
    """Score a cohort's images and write which to label next, the most useful first.

    Args:
        models: See `medray.inference.uncertainty.score_all`.
        root: The cohort.
        target: The file, a path or a URI; scores are kept in a folder beside it, ``NAME.scores``, for who calls it again.
        registry: The default one when None.
        runtime: What runs networks.
        on_progress: See `score_all`.
        **choice: `Choice`'s fields.

    Returns:
        How many images were scored, how many failed by reason, and how many are in the queue.

    Raises:
        NotFoundError: If there is no such model, cohort or project.
        ConfigError: If a setting is unknown.
        InputError: If the models are for what has no score.
        StorageError: If anything can't be read or written.
    """
    wanted = config.load(Choice, choice, what="the choice")
    cohort, place = open_cohort(locate(root)), locate(target)
    done = _done(cohort, wanted.project)
    by_whom: dict[str, Any] = {"method": wanted.method, "registry": registry, "runtime": runtime}
    scored = score_all(models, root, f"{target}.scores", on_progress=on_progress, **by_whom)
    scores = {name: doubt.score for name, doubt in scored.doubts.items()}
    features = {name: doubt.features for name, doubt in scored.doubts.items()}
    chosen = next_cases(scores, features, wanted.count, by=wanted.by, labelled=done)
    cases = [{"image": name, "score": round(scores[name], 6)} for name in chosen]
    about = {"cohort": cohort.index.id, "models": list(models), "by": wanted.by, "method": wanted.method}
    place.write(json.dumps({**about, "cases": cases}, indent=1).encode())
    return {"scored": len(scores), "failed": dict(scored.failed), "cases": len(cases)}


def read_queue(file: Location) -> list[str]:
    """Return a queue's images, in its order.

    Raises:
        NotFoundError: If there is no such file.
        ConfigError: If it is no queue.
    """
    try:
        return [str(case["image"]) for case in json.loads(file.read())["cases"]]
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{file.path} isn't a queue: make one with medray annotate queue") from None


def _done(cohort: Cohort, project: str) -> list[str]:
    if not project:
        return [row.series for row in cohort.rows if row.label]
    assigned = {one.series for one in Projects(cohort.root).assigned(Projects(cohort.root).get(project).name)}
    labelled = {one.label.series for one in LabelStore(cohort.root).heads(project=project) if one.live}
    return sorted(assigned | labelled)
