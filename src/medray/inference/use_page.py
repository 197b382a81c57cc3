"""How a model is used, as one HTML page without a server: traffic, time, drift, versions side by side, groups, data."""

from __future__ import annotations

import html
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medray.inference.check import Check
from medray.inference.page import COLOURS, bare, image, page, table
from medray.monitoring.arms import arms_of
from medray.monitoring.record import PredictionRecord

__all__ = ["use_page"]

STAGES = ("fetch", "wait", "load", "decode", "preprocess", "queue", "network", "postprocess", "encode")
SHOWN = ("noise", "level", "spacing_max", "confidence")
LEAST_P = 1e-4


def use_page(
    name: str, records: Sequence[PredictionRecord], check: Check | None, evaluations: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Return the page.

    Args:
        name: The model's.
        records: Of its predictions in some time, the oldest first.
        check: What the last look at drift showed; None without a reference.
        evaluations: Version to its evaluations, the newest last.
    """
    if not records:
        return page(f"{name}: in use", ["<p>Nothing was predicted in this time.</p>"])
    when = f"{records[0].at:%Y-%m-%d} to {records[-1].at:%Y-%m-%d}"
    seen = [record for record in records if record.role != "shadow"]
    parts = [
        f"<p class='soft'>{when}: {len(seen)} requests, {_gigabytes(seen)} of images.</p>",
        "<h2>Traffic</h2>",
        _traffic(seen),
        _statuses(seen),
        "<h2>Time</h2>",
        _times(seen),
        "<h2>Drift</h2>",
        _drift(check),
        _numbers(seen),
        "<h2>Versions side by side</h2>",
        _arms(records),
        "<h2>Groups</h2>",
        _groups(seen),
        "<h2>Quality on labelled images</h2>",
        _quality(evaluations),
    ]
    return page(f"{name}: in use", parts)


def _gigabytes(records: Sequence[PredictionRecord]) -> str:
    return f"{sum(record.input_bytes for record in records) / 1e9:.2f} GB"


def _by_day(records: Sequence[PredictionRecord]) -> dict[date, list[PredictionRecord]]:
    days: dict[date, list[PredictionRecord]] = defaultdict(list)
    for record in records:
        days[record.at.date()].append(record)
    return dict(sorted(days.items()))


def _traffic(records: Sequence[PredictionRecord]) -> str:
    days = _by_day(records)
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    bottom = np.zeros(len(days))
    for colour, version in enumerate(sorted({record.version for record in records})):
        counts = np.array([sum(record.version == version for record in found) for found in days.values()])
        axes.bar(range(len(days)), counts, bottom=bottom, color=COLOURS[colour % len(COLOURS)], label=f"version {version}")
        bottom += counts
    step = max(1, len(days) // 12)
    axes.set_xticks(range(0, len(days), step), [f"{day:%m-%d}" for day in list(days)[::step]], fontsize=8)
    axes.set_ylabel("requests a day")
    axes.legend(fontsize=8, frameon=False)
    bare(axes)
    return image(figure, "Requests a day by version")


def _statuses(records: Sequence[PredictionRecord]) -> str:
    counts = Counter((record.status, record.reason) for record in records)
    most, of = counts.most_common(8), len(records)
    rows = [[status, reason or "answered", count, f"{count / of:.1%}"] for (status, reason), count in most]
    return table(["status", "what", "requests", "share"], rows)


def _times(records: Sequence[PredictionRecord]) -> str:
    answered = [record for record in records if record.status == 200]
    rows = []
    for stage in STAGES:
        times = [record.latencies[stage] for record in answered if stage in record.latencies]
        if times:
            rows.append([stage, *(f"{value:.1f}" for value in np.percentile(times, (50, 95, 99)))])
    whole = [record.total_ms for record in answered]
    if whole:
        rows.append(["all", *(f"{value:.1f}" for value in np.percentile(whole, (50, 95, 99)))])
    return table(["stage", "median, ms", "95 %, ms", "99 %, ms"], rows)


def _drift(check: Check | None) -> str:
    if check is None:
        return "<p class='note'>There is no reference to tell drift by: medray monitor baseline makes one.</p>"
    look = check.outlook
    if not look.whole:
        return f"<p>{check.studies} studies since the reference of {check.reference}: too few to look at.</p>"
    said = "Alarm: the last studies are of another kind." if look.alarm else "No alarm: the last studies are as they should be."
    rows = [
        [f"last {size}", family, _p(p)]
        for size, found in look.whole.items()
        for family, p in {"all together": found.p, **found.families}.items()
    ]
    rows += [[group, "all together", _p(found.p)] for group, found in look.groups.items()]
    changes = look.worst.changes if look.worst else ()
    changed = [[one.name, f"{one.strength:.1f}", f"{one.before:.4g}", f"{one.after:.4g}"] for one in changes]
    parts = [f"<p class='note'>{said} An alarm is a p-value of at most {look.level:.2g} for all together.</p>"]
    parts.append(table(["studies", "numbers", "p"], rows))
    parts.append(table(["what differs most", "strength, deviations", "reference's median", "now"], changed))
    return "".join(parts)


def _p(value: float) -> str:
    return f"≤ {LEAST_P:g}" if value <= LEAST_P else f"{value:.4f}"


def _numbers(records: Sequence[PredictionRecord]) -> str:
    """Draw some numbers over time, and the volumes or probabilities that were said."""
    looked = [record for record in records if record.numbers]
    said = sorted({name for record in looked for name in record.numbers if name.startswith(("volume ", "probability "))})
    names = [*(name for name in SHOWN if any(name in record.numbers for record in looked)), *said[:4]]
    if not looked or not names:
        return ""
    figure = Figure(figsize=(9, 1.5 * math.ceil(len(names) / 2)), layout="constrained")
    cells = np.atleast_1d(figure.subplots(math.ceil(len(names) / 2), 2, squeeze=False)).ravel()
    for cell, name in zip(cells, names, strict=False):
        found = [(record.at, record.numbers[name]) for record in looked if name in record.numbers]
        cell.plot([at for at, _ in found], [value for _, value in found], ".", ms=2, color=COLOURS[0])
        cell.set_title(name, fontsize=8)
        ends = [found[0][0], found[-1][0]]
        cell.set_xticks(ends, [f"{at:%Y-%m-%d}" for at in ends])
        cell.tick_params(labelsize=6)
        bare(cell)
    for cell in cells[len(names) :]:
        cell.set_visible(False)
    return image(figure, "Numbers of images and answers over time")


def _arms(records: Sequence[PredictionRecord]) -> str:
    rows = []
    for arm in arms_of(records):
        agrees = ", ".join(f"{name} {value:.3f}" for name, value in arm.agreement.items()) or "–"
        medians = ", ".join(f"{name} {value:.3g}" for name, value in arm.medians.items()) or "–"
        share = f"{arm.failed / arm.predictions:.1%}"
        times = (f"{arm.p50_ms:.0f}", f"{arm.p95_ms:.0f}")
        rows.append([arm.version, arm.role, arm.predictions, share, *times, f"{arm.confidence:.3f}", agrees, medians])
    head = ["version", "as", "requests", "failed", "own p50, ms", "p95, ms", "confidence", "agrees with the other", "medians"]
    return table(head, rows)


def _groups(records: Sequence[PredictionRecord]) -> str:
    answered = [record for record in records if record.status == 200]
    members: dict[tuple[str, str], list[PredictionRecord]] = defaultdict(list)
    for record in answered:
        for kind, group in record.groups.items():
            members[kind, group].append(record)
    rows = []
    for (kind, group), found in sorted(members.items()):
        medians = {name: value for arm in arms_of(found)[:1] for name, value in arm.medians.items()}
        told = ", ".join(f"{name} {value:.3g}" for name, value in medians.items()) or "–"
        sure = [record.numbers["confidence"] for record in found if "confidence" in record.numbers]
        rows.append([kind, html.unescape(group), len(found), f"{np.mean(sure):.3f}" if sure else "–", told])
    return table(["kind", "group", "answers", "confidence", "medians"], rows) if rows else "<p>No groups are known.</p>"


def _quality(evaluations: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows = []
    for version, found in evaluations.items():
        for facts in found:
            measure = facts["measure"]
            for name, measures in facts["overall"]["summary"].items():
                value = measures.get(measure)
                low, high = facts["overall"]["intervals"].get(name, {}).get(measure) or (None, None)
                told = "–" if value is None else f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
                rows.append(
                    [version, facts["at"][:10], facts["cohort"], facts["split"], facts["patients"], name, f"{measure} {told}"]
                )
    if not rows:
        return "<p>No version was evaluated: medray evaluate scores one on labelled images.</p>"
    return table(["version", "when", "cohort", "subjects", "patients", "target", "score (95 % interval)"], rows)
