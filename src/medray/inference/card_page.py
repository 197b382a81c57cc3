"""A model's card as one HTML page: what it is for, what it was made of, how good it is on whom, and where it came from."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medray import config
from medray.inference.page import COLOURS, bare, image, page, table
from medray.monitoring.features import FEATURES
from medray.monitoring.record import PredictionRecord, sample_of
from medray.registry.card import ModelCard
from medray.registry.version import ModelVersion

__all__ = ["card_page"]

UNSAID = "not said"
PLAN_FACTS = ("task", "modalities", "spacing_mm", "patch", "intensity", "mirror")


def card_page(
    version: ModelVersion,
    card: ModelCard,
    evaluations: Sequence[Mapping[str, Any]],
    reference: Sequence[PredictionRecord] = (),
) -> str:
    """Return the page.

    Args:
        version: Of the model.
        card: Its card.
        evaluations: From `Registry.evaluations`.
        reference: What drift is told by, from `medray.inference.baseline.read_reference`.
    """
    said = {
        "Intended use": card.intended_use,
        "Population": card.population or UNSAID,
        "Limitations": card.limitations or UNSAID,
        "Licence": card.licence or UNSAID,
        "Contact": card.contact or UNSAID,
    }
    parts = [
        f"<p class='soft'>Made {html.escape(card.created)}. {_aliases(version)}</p>",
        *(f"<h2>{name}</h2><p>{html.escape(text)}</p>" for name, text in said.items()),
        "<h2>What it does</h2>",
        table(["", ""], [[name, _text(value)] for name, value in _inputs(card).items()]),
        *(_evaluation(facts) for facts in evaluations),
        *([] if evaluations else ["<h2>How good it is</h2>", _scores(card)]),
        _expected(reference),
        "<h2>Where it came from</h2>",
        table(["", ""], [[name, value] for name, value in _origin(card).items()]),
    ]
    return page(f"{version}: model card", parts)


def _aliases(version: ModelVersion) -> str:
    return f"It is {html.escape(', '.join(version.aliases))}." if version.aliases else "It has no alias, and isn't in use."


def _inputs(card: ModelCard) -> dict[str, Any]:
    """Return what it takes and gives."""
    about = {"tells apart": ", ".join(card.targets), "dimensions": card.dimension}
    if card.plan is not None:
        plain = config.dump(card.plan)
        return about | {name.replace("_", " "): plain[name] for name in PLAN_FACTS if name in plain} | _network(plain)
    bundle = {"MONAI Bundle": f"{card.bundle.name} {card.bundle.version}"} if card.bundle else {}
    return about | bundle | {"task": card.about.task}


def _network(plain: Mapping[str, Any]) -> dict[str, Any]:
    network = plain["network"]
    return {"network": f"{network['name']}, {' '.join(map(str, network['features']))} channels, {network['norm']} norm"}


def _origin(card: ModelCard) -> dict[str, str]:
    people = {f"{split} subjects": str(len(found)) for split, found in card.subjects.items()}
    return {**card.lineage, **people, "code": card.revision or UNSAID, **card.environment}


def _scores(card: ModelCard) -> str:
    rows = [[split, name, f"{value:.3f}"] for split, found in card.scores.items() for name, value in found.items()]
    if not rows:
        return "<p>It was not evaluated here.</p>"
    return table(["split", "target", "score"], rows)


def _evaluation(facts: Mapping[str, Any]) -> str:
    """Show one evaluation: each target with its interval, and subgroups beside it."""
    measure = facts["measure"]
    where = f"{facts['patients']} {facts['split']} patients of cohort {facts['cohort']}, {facts['at'][:10]}"
    rows = [
        ["everybody", facts["overall"]["cases"], name, _interval(facts["overall"], name, measure)] for name in _names(facts)
    ]
    rows += [
        [f"{kind} {group}", scores["cases"], name, _interval(scores, name, measure)]
        for kind, groups in facts["groups"].items()
        for group, scores in groups.items()
        for name in _names(facts)
    ]
    parts = [f"<h2>How good it is: {html.escape(where)}</h2>", _forest(facts)]
    return "".join([*parts, table(["who", "images", "target", f"{measure} (95 % interval)"], rows)])


def _expected(reference: Sequence[PredictionRecord]) -> str:
    """Show what images and answers of the reference are like: what is far from that, the model wasn't made for."""
    if not reference:
        return "<h2>What drift is told by</h2><p>No reference is kept: medray monitor baseline makes one.</p>"
    rows = []
    for name, values in sample_of(reference).numbers.items():
        known = values[np.isfinite(values)]
        if known.size:
            low, middle, high = np.percentile(known, (5, 50, 95))
            rows.append([name, FEATURES.get(name, ""), f"{middle:.4g}", f"{low:.4g} to {high:.4g}"])
    return f"<h2>What drift is told by: {len(reference)} studies</h2>" + table(["number", "", "median", "nine in ten"], rows)


def _names(facts: Mapping[str, Any]) -> list[str]:
    return list(facts["overall"]["summary"])


def _interval(scores: Mapping[str, Any], name: str, measure: str) -> str:
    value = scores["summary"].get(name, {}).get(measure)
    low, high = scores["intervals"].get(name, {}).get(measure) or (None, None)
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _forest(facts: Mapping[str, Any]) -> str:
    """Draw each target's score and interval, everybody's and each subgroup's."""
    measure, names = facts["measure"], _names(facts)
    lines = [("everybody", facts["overall"])]
    lines += [(f"{kind} {group}", scores) for kind, groups in facts["groups"].items() for group, scores in groups.items()]
    figure = Figure(figsize=(9, 0.9 + 0.28 * len(lines) * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    ticks: list[tuple[int, str]] = []
    for number, name in enumerate(names):
        for line, (who, scores) in enumerate(lines):
            place = -(number * (len(lines) + 1) + line)
            ticks.append((place, f"{name}, {who}" if line else name))
            value = scores["summary"].get(name, {}).get(measure)
            if value is None:
                continue
            low, high = scores["intervals"].get(name, {}).get(measure) or (value, value)
            ends = (value if low is None else low, value if high is None else high)
            axes.plot(ends, (place, place), color=COLOURS[number % len(COLOURS)], lw=2 if line == 0 else 1)
            axes.plot(value, place, "o", color=COLOURS[number % len(COLOURS)], ms=6 if line == 0 else 4)
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=8)
    axes.set_xlabel(measure)
    bare(axes)
    return image(figure, f"{measure} by target and group, with 95 % intervals")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
