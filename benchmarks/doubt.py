"""Do the intervals of lesions' volumes hold the truth, where a network drew them?

Simulated people of `samples/brain`, scanned twice. A U-Net learns lesions from some; on others its lesions are measured as
``medray track`` does, once as drawn masks would be (a border voxel is in or out) and once by how probable the network says
lesion is at each voxel, too. Counted is how often the 95 % interval of a lesion's volume, and of its change, holds what the
true mask says. Lesions are compared where one of the network's and one of the truth's lie nearest to each other.

Run with a folder to keep what was made, and go on there.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from report import RESULTS, in_folder, save

from medray.cohort.cohort import Cohort
from medray.engine import join_ray
from medray.errors import ImageError
from medray.inference.predictor import Predictor
from medray.progression.history import History, LesionHistory, Tracking, history_of
from medray.progression.patients import patients_of
from medray.progression.track import label_map_of, segmented, watchful
from medray.progression.visit import TimePoint, Visit
from progression import cohort_of, trained

PEOPLE, HELD_OUT, APART_DAYS = 24, 20, 180.0
NEAR_MM = 5.0
Z = 1.96
NAMES = {"lesion": 1}
SIDES = {"drawn": "as drawn", "doubted": "by probability, too"}
COLOURS = {"drawn": "#a9b6c2", "doubted": "#3b82c4"}


def main() -> None:
    """Train, measure, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Do all of it in a folder; what is there already is kept."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    join_ray()
    cohort, held_out = cohort_of(folder, "", PEOPLE, seed=5), cohort_of(folder, "-held-out", HELD_OUT, seed=6)
    model, _ = trained(cohort, folder, "alone", task="segmentation", changes={"targets": ["lesion"]})
    found = [case for patient in patients_of(held_out, [], labelled=True)[0] for case in lesions_of(held_out, patient, model)]
    result = {
        "people": {"train_and_val": PEOPLE, "held_out": HELD_OUT},
        **{side: told(found, side) for side in SIDES},
        "lesions": found,
    }
    save("doubt", result)
    draw(found)


def lesions_of(cohort: Cohort, patient: Any, model: Predictor) -> Iterator[dict[str, Any]]:
    """Say what is true of one person's lesions, and what each side says."""
    lesion = cohort.index.labels.names["lesion"] if cohort.index.labels else 0
    visits = [Visit(f"scan {at}", APART_DAYS * at, cohort.volume(row)) for at, row in enumerate(patient.rows)]
    masks = [(cohort.mask(row) == lesion).astype(np.uint8)[np.newaxis] for row in patient.rows]
    true = [
        TimePoint(visit.name, visit.day, visit.image, mask=visit.image.with_voxels(mask))
        for visit, mask in zip(visits, masks, strict=True)
    ]
    sure = watchful(model, Tracking())
    found = [sure.predict(visit.image) for visit in visits]
    doubted = [segmented(visit, said) for visit, said in zip(visits, found, strict=True)]
    drawn, names = [replace(point, likely={}) for point in doubted], label_map_of(found[0])[0]
    try:
        truth, *said = (history_of(points, by) for points, by in ((true, NAMES), (drawn, names), (doubted, names)))
    except ImageError as error:
        print(error, flush=True)
        return
    for expected, *measured in pairs(truth, said):
        case = {"true": plain(expected), **dict(zip(SIDES, map(plain, measured), strict=True))}
        print(case, flush=True)
        yield case


def pairs(truth: History, said: list[History]) -> Iterator[tuple[LesionHistory, ...]]:
    """Yield lesions of the truth with those of the network that lie nearest, where they are so both ways."""
    first = said[0].lesions
    if not truth.lesions or not first:
        return
    gaps = np.array([[gap(one, other) for other in first] for one in truth.lesions])
    for at, near in enumerate(gaps.argmin(axis=1)):
        if gaps[at, near] <= NEAR_MM and gaps[:, near].argmin() == at:
            yield truth.lesions[at], *(history.lesions[near] for history in said)


def gap(one: LesionHistory, other: LesionHistory) -> float:
    """Return how many mm two lesions' centres lie apart; infinite unless both are there each time."""
    centres = [(a, b) for a, b in zip(one.centres_mm, other.centres_mm, strict=True) if a and b]
    if len(centres) < len(one.centres_mm):
        return float("inf")
    return max(float(np.linalg.norm(np.subtract(a, b))) for a, b in centres)


def plain(lesion: LesionHistory) -> dict[str, Any]:
    """Return the numbers that are compared."""
    [change] = lesion.changes
    return {
        "mm3": [amount.mm3 if amount else 0.0 for amount in lesion.amounts],
        "deviation_mm3": [amount.deviation_mm3 if amount else 0.0 for amount in lesion.amounts],
        "change_mm3": change.mm3 if change else 0.0,
        "interval_mm3": change.interval_mm3 if change else (0.0, 0.0),
        "fate": lesion.fates[0],
    }


def told(found: list[dict[str, Any]], side: str) -> dict[str, float]:
    """Count how often one side's intervals hold the truth."""
    said = [(case[side], case["true"]) for case in found]
    true, volumes, wide = (
        np.array([one[key] for case in found for one in [case[name]]]).ravel()
        for name, key in (("true", "mm3"), (side, "mm3"), (side, "deviation_mm3"))
    )
    held = [one["interval_mm3"][0] <= expected["change_mm3"] <= one["interval_mm3"][1] for one, expected in said]
    wrong_way = [{one["fate"], expected["fate"]} == {"grown", "shrunk"} for one, expected in said]
    return {
        "lesions": len(found),
        "volume_held": float((np.abs(volumes - true) <= Z * wide).mean()),
        "change_held": float(np.mean(held)),
        "half_width": float(np.median(Z * wide / volumes)),
        "error": float(np.median(np.abs(volumes - true) / true)),
        "same_fate": float(np.mean([one["fate"] == expected["fate"] for one, expected in said])),
        "wrong_way": float(np.mean(wrong_way)),
    }


def draw(found: list[dict[str, Any]]) -> None:
    """Draw how far volumes are off, in deviations that each side states."""
    figure = Figure(figsize=(8.5, 3.9), layout="constrained")
    axes, right = figure.subplots(1, 2)
    true = np.array([case["true"]["mm3"] for case in found]).ravel()
    said = np.array([case["doubted"]["mm3"] for case in found]).ravel()
    wide = Z * np.array([case["doubted"]["deviation_mm3"] for case in found]).ravel()
    axes.errorbar(true, said, wide, fmt="o", color=COLOURS["doubted"], alpha=0.6, markersize=3, elinewidth=0.8)
    ends = [true.min() * 0.7, true.max() * 1.3]
    axes.plot(ends, ends, color="#1b2733", linewidth=0.8)
    axes.set(
        xscale="log", yscale="log", xlabel="true volume, mm³", ylabel="the network's, with its 95 % interval", ylim=(5, None)
    )
    for side, colour in COLOURS.items():
        deviations = np.array([case[side]["deviation_mm3"] for case in found]).ravel()
        off = np.sort(np.abs(said - true) / deviations)
        right.step(off, np.arange(1, len(off) + 1) / len(off), color=colour, where="post", label=SIDES[side])
    right.axvline(Z, color="#1b2733", linewidth=0.8, linestyle=":")
    right.axhline(0.95, color="#1b2733", linewidth=0.8, linestyle=":")
    right.set(xscale="log", xlabel="error, in stated standard deviations", ylabel="share of lesions within it", ylim=(0, 1.02))
    right.legend(frameon=False, loc="center left")
    for one in (axes, right):
        one.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Volumes of lesions that a network drew, and how sure they are", fontsize=10)
    figure.savefig(RESULTS / "doubt.png", dpi=110)


if __name__ == "__main__":
    main()
