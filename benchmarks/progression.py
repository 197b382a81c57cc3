"""Is a model that sees both scans worth it? Against a segmentation of each scan alone, trained as long on the same people.

Simulated people of `samples/brain`, scanned twice: in a third each all lesions grow, stay or shrink; the second scan has
another grid, contrast, bias and noise, and the head lies otherwise. ``change``, a siamese network, learns from their pairs;
``alone``, a U-Net as `medray.plan` chooses it, learns lesions from each scan. Both take as many steps, and their best epochs
are compared on other people: how far growth (the logarithm of lesions' volumes' ratio, in the space midway) is off, and how
well those whose lesions grew or shrank by more than a quarter are told from the rest. The segmentation is given the same
alignment.

Run with a folder to keep what was made, and go on there: it takes hours on two cores. `seconds` are then those of the last
start of a fit.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, in_folder, save

import medray
from medray.cohort.cohort import Cohort
from medray.engine import join_ray, stream
from medray.evaluation.classification import auc
from medray.inference.predictor import Predictor
from medray.progression.align import Alignment
from medray.progression.pair import pair_of
from medray.progression.pairs import pair_up
from medray.progression.patients import patients_of
from medray.progression.visit import Visit
from medray.samples.brain import Illness, write_brain_cohort

PEOPLE, HELD_OUT, APART_DAYS = 36, 20, 180.0
FIT: dict[str, Any] = {"epochs": int(os.environ.get("BENCH_EPOCHS", "20")), "steps": 100}
BOUND = math.log(1.25)
HALF = 0.5
COLOURS = {"change": "#3b82c4", "alone": "#a9b6c2"}


def main() -> None:
    """Train both, measure, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Do all of it in a folder; what is there already is kept."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    join_ray()
    cohort, held_out = cohort_of(folder, "", PEOPLE, seed=5), cohort_of(folder, "-held-out", HELD_OUT, seed=6)
    pair_up(cohort.root.path, folder / "pairs", apart_days=APART_DAYS)
    change, seconds_change = trained(medray.open_cohort(folder / "pairs"), folder, "change", task="progression")
    alone, seconds_alone = trained(cohort, folder, "alone", task="segmentation", changes={"targets": ["lesion"]})
    found = [
        person for patient in patients_of(held_out, [], labelled=True)[0] for person in [one(held_out, patient, change, alone)]
    ]
    true = np.array([person["true"] for person in found])
    result = {
        "people": {"train_and_val": PEOPLE, "held_out": len(found)},
        "fit": FIT,
        "seconds": {"change": seconds_change, "alone": seconds_alone},
        **{side: told(np.array([person[side] for person in found]), true) for side in ("change", "alone")},
        "cases": found,
    }
    save("progression", result)
    draw(found)


def cohort_of(folder: Path, kind: str, people: int, *, seed: int) -> Cohort:
    """Make people, and take them in."""
    source, root = folder / f"src{kind}", folder / f"cohort{kind}"
    if not source.exists():
        illness = Illness(courses=("grown", "stable", "shrunk"))
        over = lambda function, numbers: stream(numbers, function)  # noqa: E731
        write_brain_cohort(source, subjects=people, followups=1, illness=illness, seed=seed, over=over)
    return medray.ingest(source, root)


def trained(cohort: Cohort, folder: Path, name: str, **how: Any) -> tuple[Predictor, float]:
    """Plan, prepare and fit; return the model and the seconds of the fit."""
    recipe = medray.plan(cohort, **how)
    prepared = medray.prepare(cohort, recipe, folder / f"prepared-{name}")
    started = time.perf_counter()
    run = medray.fit(prepared, medray.FitConfig(**FIT), name=name, on_epoch=lambda record: print(name, record, flush=True))
    noted = folder / f"{name}-seconds.json"
    if not noted.exists():
        noted.write_text(json.dumps(time.perf_counter() - started))
    return Predictor.load(Path(run.model.path)), float(json.loads(noted.read_text()))


def one(cohort: Cohort, patient: Any, change: Predictor, alone: Predictor) -> dict[str, float]:
    """Say how lesions of one person grew, by the truth and by both sides."""
    visits = [Visit(f"scan {at}", APART_DAYS * at, cohort.volume(row)) for at, row in enumerate(patient.rows)]
    pair = pair_of(*visits)
    lesion = cohort.index.labels.names["lesion"] if cohort.index.labels else 0
    truth = [cohort.mask(row) == lesion for row in patient.rows]
    said = [alone.predict(visit.image).mask.voxels[0] > 0 for visit in visits]
    course = change.predict(pair.image).answer.courses["lesion"]
    found = {
        "true": growth(truth, visits, pair.alignment),
        "change": course.growth,
        "alone": growth(said, visits, pair.alignment),
        "grown": course.probabilities["grown"],
        "shrunk": course.probabilities["shrunk"],
    }
    print(found, flush=True)
    return found


def growth(masks: list[NDArray[Any]], visits: list[Visit], alignment: Alignment) -> float:
    """Return the logarithm of the ratio of volumes, in the space midway."""
    scales = [float(np.linalg.det(matrix[:3, :3])) for matrix in alignment.matrices]
    mm3 = [
        (float(mask.sum()) + HALF) * visit.image.voxel_ml * 1000 / scale
        for mask, visit, scale in zip(masks, visits, scales, strict=True)
    ]
    return math.log(mm3[1] / mm3[0])


def told(said: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, Any]:
    """Measure what one side says."""
    errors = np.abs(said - true)
    kind, guess = (np.where(values > BOUND, 1, np.where(values < -BOUND, -1, 0)) for values in (true, said))
    return {
        "growth_error": {"median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9))},
        "accuracy": float((kind == guess).mean()),
        "auc_grown": auc(said.tolist(), (kind == 1).tolist()),
        "auc_shrunk": auc((-said).tolist(), (kind == -1).tolist()),
    }


def draw(found: list[dict[str, float]]) -> None:
    """Draw what both sides say over what is true."""
    figure = Figure(figsize=(8.5, 3.9), layout="constrained")
    axes, right = figure.subplots(1, 2)
    true = [person["true"] for person in found]
    ends = [min(true) - 0.2, max(true) + 0.2]
    axes.plot(ends, ends, color="#1b2733", linewidth=0.8)
    for side, colour in COLOURS.items():
        said = [person[side] for person in found]
        axes.plot(true, said, "o", color=colour, alpha=0.8, label={"change": "both scans", "alone": "each alone"}[side])
        errors = sorted(abs(a - b) for a, b in zip(said, true, strict=True))
        right.step(errors, np.arange(1, len(errors) + 1) / len(errors), color=colour, where="post")
    axes.set(xlabel="true growth, log of the ratio of volumes", ylabel="what is said")
    axes.legend(frameon=False)
    right.set(xlabel="error of growth", ylabel="share of people within it", xlim=(0, None), ylim=(0, 1.02))
    for one_axes in (axes, right):
        one_axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Growth of lesions between two scans of people who weren't trained on", fontsize=10)
    figure.savefig(RESULTS / "progression.png", dpi=110)


if __name__ == "__main__":
    main()
