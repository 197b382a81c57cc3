"""How soon is it noticed that scans are of another kind, and how often is that said of scans that aren't?

Simulated people of `samples/brain`, scanned coarsely so that many can be made; a U-Net that learned tissues and lesions
from some. A monitor has a reference of studies that are as they should be and looks every few studies at the last ones, as
``medray monitor check`` does. Null studies, 10,000 of them, are of the reference's kind: a block of 50 with any alarm counts
as a false one. Then from one study on everything is changed in one way, at a random place between two looks. Beside it
stands what is often done: a Kolmogorov-Smirnov test of each number, corrected for how many there are and how often it is
looked (Bonferroni), on the same rows.

Run with a folder to keep what was made, and go on there.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a process for each core

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, in_folder, save
from scipy.stats import ks_2samp

from medray.imaging.volume import Volume
from medray.monitoring.alarm import Watch, looked
from medray.monitoring.drift import Sample
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import BRAIN_LABELS, Protocol, scan_subject
from medray.samples.subject import make_subject

NULL, SHIFTED, REFERENCE = (
    int(os.environ.get(f"BENCH_{name}", most)) for name, most in (("NULL", 10_000), ("SHIFTED", 600), ("REFERENCE", 400))
)
COARSE, PEOPLE, HEALTHY = 2.8, 48, 0.6
BLOCK, SIZES = 50, (10, 20, 30, 50)
CORES, CHUNK = 2, 200
MODEL = "brain"
PLAIN = Protocol(spacing=COARSE)
WATCH = Watch()


Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Shift:
    """One way in which studies change."""

    protocol: Protocol = PLAIN
    turn: str = ""
    healthy: float = HEALTHY


SHIFTS = {
    "intensity ×1.3": Shift(replace(PLAIN, gain=1.3)),
    "noise ×2": Shift(replace(PLAIN, noise=2)),
    "slices ×2": Shift(replace(PLAIN, thickness=2)),
    "axes swapped": Shift(turn="swapped"),
    "upside down": Shift(turn="upside down"),
    "back to front": Shift(turn="back to front"),
    "left for right": Shift(turn="mirrored"),
    "another contrast": Shift(replace(PLAIN, contrast="t2")),
    "no bias correction": Shift(replace(PLAIN, bias=0.15)),
    "prevalence ×2": Shift(healthy=2 * HEALTHY - 1),
}
TURNS: dict[str, Sequence[Sequence[float]]] = {
    "swapped": ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
    "upside down": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "back to front": ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "mirrored": ((-1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
"""What a wrong header says of where L, P and S are."""


def main() -> None:
    """Make studies, look at them, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Do all of it in a folder; what is there already is kept."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as processes:
        model = trained(folder)
        made = partial(studies, processes, folder, model)
        before = made("reference", Shift(), REFERENCE, seed=1)
        null = made("null", Shift(), NULL, seed=2)
        shifted = {name: made(f"shift{n}", shift, SHIFTED, seed=10 + n) for n, (name, shift) in enumerate(SHIFTS.items())}
        reference = sample(before)
        started = time.perf_counter()
        wrong = {side: false_alarms(processes, test, reference, null) for side, test in SIDES.items()}
        print(json.dumps(wrong), f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
        found = {
            name: {side: power(processes, test, reference, null, rows) for side, test in SIDES.items()}
            for name, rows in shifted.items()
        }
    watch = {name: getattr(WATCH, name) for name in ("window", "short", "every", "rate", "level")}
    result = {"reference": REFERENCE, "null": NULL, "prevalence": 1 - HEALTHY, "watch": watch}
    result |= {"false_alarms": wrong, "shifts": found}
    save("drift", result)
    draw(result)


def trained(folder: Path) -> Path:
    """Train a U-Net on some people's tissues and lesions, and return its folder."""
    place = folder / "model"
    if place.exists():
        return place
    import medray
    from medray.engine import join_ray
    from medray.formats.nifti import write_nifti

    join_ray()
    source = folder / "source"
    for number in range(PEOPLE):
        rng = np.random.default_rng([7, number])
        scan = scan_subject(make_subject(load_anatomy(), rng, lesions=int(rng.integers(1, 6))), rng, PLAIN)
        where = source / f"sub-{number:03d}"
        where.mkdir(parents=True)
        (where / f"sub-{number:03d}_T1w.nii.gz").write_bytes(write_nifti(scan.image))
        (where / f"sub-{number:03d}_dseg.nii.gz").write_bytes(write_nifti(Volume(scan.mask[np.newaxis], scan.image.affine)))
    names = "".join(f"{value}\t{name}\n" for name, value in BRAIN_LABELS.names.items())
    (source / "dseg.tsv").write_text(f"index\tname\n0\tbackground\n{names}")
    cohort = medray.ingest(source, folder / "cohort", labels="**/*_dseg.nii.gz")
    prepared = medray.prepare(cohort, medray.plan(cohort), folder / "prepared")
    length = medray.FitConfig(epochs=40, steps=60, picture=False)
    medray.fit(prepared, length, name=MODEL, runs=folder / "runs")
    run = folder / "runs" / MODEL / "1" / "model"
    run.rename(place)
    return place


def studies(processes: Executor, folder: Path, model: Path, name: str, shift: Shift, count: int, *, seed: int) -> Rows:
    """Make studies, a chunk at a time, or read those that are there."""
    rows: Rows = []
    (folder / name).mkdir(exist_ok=True)
    for start in range(0, count, CHUNK):
        numbers = range(start, min(start + CHUNK, count))
        file = folder / name / f"{numbers.start}-{numbers.stop}.json"
        if not file.exists():
            made = list(processes.map(partial(study, model, shift, seed), numbers, chunksize=10))
            part = file.with_suffix(".part")
            part.write_text(json.dumps(made))
            part.replace(file)
        rows += json.loads(file.read_text())
    return rows


def study(model: Path, shift: Shift, seed: int, number: int) -> dict[str, Any]:
    """Scan one person, ask the model, and return what a record keeps."""
    from medray.inference.seen import seen_in

    rng = np.random.default_rng([seed, number])
    ill = rng.random() >= shift.healthy
    person = make_subject(load_anatomy(), rng, lesions=int(rng.integers(1, 6)) * ill)
    image = turned(scan_subject(person, rng, shift.protocol).image, shift.turn)
    predictor = loaded(model)
    seen = seen_in(image, predictor.predict(image))
    embedding = [] if seen.embedding is None else [round(float(value), 5) for value in seen.embedding]
    return {"numbers": seen.numbers, "embedding": embedding}


@cache
def loaded(model: Path) -> Any:
    """Load the model once a process, on one core."""
    import torch

    from medray.inference.predictor import Predictor

    torch.set_num_threads(1)
    return Predictor.load(model)


def turned(image: Volume, turn: str) -> Volume:
    """Return the image whose header is wrong about where the patient's axes are."""
    if not turn:
        return image
    wrong = np.eye(4)
    wrong[:3, :3] = np.array(TURNS[turn])
    return Volume(image.voxels, wrong @ image.affine, image.meta)


def sample(rows: Sequence[Mapping[str, Any]]) -> Sample:
    """Return rows as what tests take."""
    names = rows[0]["numbers"].keys()
    numbers = {name: np.array([row["numbers"][name] for row in rows], np.float64) for name in names}
    return Sample(len(rows), numbers, {}, np.array([row["embedding"] for row in rows], np.float32))


def medray_alarms(reference: Sample, lately: Rows) -> bool:
    """Look as the monitor does."""
    return looked(reference, sample(lately), WATCH).alarm


def plain_alarms(reference: Sample, lately: Rows) -> bool:
    """Test each number by itself, at both windows that the monitor looks at, with the same rate of false alarms."""
    now = sample(lately)
    level = WATCH.rate * WATCH.every / WATCH.window / len(reference.numbers)
    windows = [size for size in (WATCH.short, WATCH.window) if now.size >= size]
    return any(smallest_p(reference, now, size) <= level / len((WATCH.short, WATCH.window)) for size in windows)


def smallest_p(before: Sample, now: Sample, size: int) -> float:
    """Return the smallest p-value of the numbers' own tests."""
    return min(
        float(ks_2samp(finite(before.numbers[name]), finite(now.numbers[name][-size:])).pvalue)
        for name in before.numbers
        if finite(now.numbers[name][-size:]).size and finite(before.numbers[name]).size
    )


def finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return those that are known."""
    return values[np.isfinite(values)]


Alarms = Callable[[Sample, Rows], bool]
SIDES: dict[str, Alarms] = {"medray": medray_alarms, "plain KS": plain_alarms}


def false_alarms(processes: Executor, alarms: Alarms, reference: Sample, null: Rows) -> dict[str, Any]:
    """Go through the null studies, and count blocks with an alarm."""
    ends = range(BLOCK, len(null) + 1, WATCH.every)
    windows = [null[end - WATCH.window : end] for end in ends]
    found = list(processes.map(partial(alarms, reference), windows, chunksize=5))
    blocks = {(end - 1) // BLOCK for end, alarm in zip(ends, found, strict=True) if alarm}
    return {
        "blocks": len(null) // BLOCK,
        "with_alarm": len(blocks),
        "share": len(blocks) / (len(null) // BLOCK),
        "looks": sum(found),
    }


def power(processes: Executor, alarms: Alarms, reference: Sample, null: Rows, shifted: Rows) -> dict[str, Any]:
    """Change everything from one study on, many times, and see after how many an alarm comes."""
    rng, runs = np.random.default_rng(3), []
    for start in range(0, len(shifted) - BLOCK + 1, BLOCK // 2):
        before = int(rng.integers(WATCH.window, len(null)))
        stream = null[before - WATCH.window : before] + shifted[start : start + BLOCK]
        runs.append((stream, int(rng.integers(1, WATCH.every + 1))))
    waits = list(processes.map(partial(waited, alarms, reference), runs))
    within = {str(size): sum(wait is not None and wait <= size for wait in waits) / len(waits) for size in SIZES}
    known = [wait for wait in waits if wait is not None]
    return {"within": within, "median_studies": float(np.median(known)) if known else None, "runs": len(waits)}


def waited(alarms: Alarms, reference: Sample, run: tuple[Rows, int]) -> int | None:
    """Return how many studies a change had come with at the first alarm; it is first looked after ``offset`` of them."""
    stream, offset = run
    ends = range(WATCH.window + offset, len(stream) + 1, WATCH.every)
    return next((end - WATCH.window for end in ends if alarms(reference, stream[end - WATCH.window : end])), None)


def draw(result: Mapping[str, Any]) -> None:
    """Draw how often each change is noticed within how many studies."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    names = list(result["shifts"])
    for axes, side in zip(figure.subplots(1, 2, sharey=True), SIDES, strict=True):
        table = np.array([[result["shifts"][name][side]["within"][str(size)] for size in SIZES] for name in names])
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.6 else "#1b2733")
        axes.set_xticks(range(len(SIZES)), [str(size) for size in SIZES])
        axes.set_yticks(range(len(names)), names)
        wrong = result["false_alarms"][side]
        axes.set_title(f"{side}: false alarms in {wrong['share']:.1%} of blocks", fontsize=10)
        axes.set_xlabel("studies since the change")
    figure.suptitle("A change is noticed within so many studies", fontsize=11)
    figure.savefig(RESULTS / "drift.png", dpi=110)


if __name__ == "__main__":
    main()
