"""How many labels does active learning save? Against random choice, for the same Dice, over seeds.

A pool of axial slices of simulated heads (`samples/brain`, 3 mm) as hospitals have them: half are of one scanner, a fifth of
another contrast, and a tenth each of three more (see `KINDS`), all of which matter alike: of held-out people there are as many
of each kind. Whoever labels begins with four random slices; in each round four more are chosen, at random or by
`medray.annotation.selection` from what the model of the round before says of the pool, and a network is trained anew on all
that are labelled. Measured: the mean Dice of grey and white matter. A second pool, ``alike``, is of one kind alone: there is
less to choose.

``BENCH_SEEDS`` seeds, each with other people, other first scans and other weights; the first model is shared by all strategies.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, save
from scipy.ndimage import gaussian_filter, zoom

from medray.annotation.selection import next_cases
from medray.evaluation.overlap import overlap
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.inference.predictor import Predictor
from medray.inference.uncertainty import doubt_of
from medray.models.networks import build_model
from medray.models.runtime import by_torch
from medray.models.spec import NetworkSpec
from medray.preprocessing.case import prepare_image
from medray.preprocessing.intensity import Intensity
from medray.preprocessing.plan import Plan
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import scan_subject
from medray.samples.subject import make_subject
from medray.tasks.task import task_of

PEOPLE, HELD_OUT, SLICES, FIRST, EACH, ROUNDS = 40, 15, 3, 4, 4, 6
PROCESSES = int(os.environ.get("BENCH_PROCESSES", "2"))
SEEDS = int(os.environ.get("BENCH_SEEDS", "4"))
SPACING_MM, SIDES = 3.0, (64, 80, 1)
STEPS, BATCH, RATE = 500, 8, 3e-3
STRATEGIES = ("random", "uncertainty", "diversity", "both")
POOLS = {"mixed": (0.5, 0.2, 0.1, 0.1, 0.1), "alike": (1.0,)}
"""Share of each kind of scan."""
COLOURS = {"random": "#a9b6c2", "uncertainty": "#e8a13a", "diversity": "#4fa36c", "both": "#3b82c4"}


Image = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Scan:
    """A slice of a head.

    Attributes:
        volume: On its own grid.
        truth: ``(I, J, 1)``: 1 grey, 2 white matter.
        kind: By which of `KINDS` it was scanned.
    """

    volume: Volume
    truth: NDArray[np.uint8]
    kind: int


def main() -> None:
    """Measure, and save the figures."""
    torch.set_num_threads(1)
    asked = sys.argv[1:] or list(POOLS)
    jobs = [(name, seed) for name in asked for seed in range(SEEDS)]
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as workers:
        found = list(workers.map(one_seed, jobs))
    curves: dict[str, dict[str, list[list[float]]]] = {name: {way: [] for way in STRATEGIES} for name in asked}
    for (name, _), by_way in zip(jobs, found, strict=True):
        for way, curve in by_way.items():
            curves[name][way].append(curve)
    told = {name: summed(of_pool) for name, of_pool in curves.items()}
    facts = {"pool": PEOPLE * SLICES, "held_out": HELD_OUT * SLICES, "labels": labels(), "seeds": SEEDS, "steps": STEPS}
    save("active_learning", {**facts, "pools": told})
    draw(told)


def labels() -> list[int]:
    """Return how many scans are labelled in each round."""
    return [FIRST + EACH * turn for turn in range(ROUNDS + 1)]


def one_seed(job: tuple[str, int]) -> dict[str, list[float]]:
    """Return each strategy's Dice by round."""
    torch.set_num_threads(1)
    name, seed = job
    kinds = np.repeat(np.arange(len(POOLS[name])), np.round(np.array(POOLS[name]) * PEOPLE).astype(int)).tolist()
    pool = [one for number, kind in enumerate(kinds) for one in slices_of(seed, number, kind)]
    tested = [one for number in range(HELD_OUT) for one in slices_of(seed, PEOPLE + number, number % len(POOLS[name]))]
    plan = plan_of()
    rng = np.random.default_rng([17, seed])
    first = rng.permutation(len(pool))[:FIRST].tolist()
    beginning = trained(plan, [pool[place] for place in first], seed)
    start = dice_of(beginning, tested)
    curves = {}
    for way in STRATEGIES:
        began, known, model, curve = time.time(), list(first), beginning, [start]
        order = np.random.default_rng([19, seed])
        for turn in range(ROUNDS):
            known += chosen(way, model, pool, known, order)
            model = trained(plan, [pool[place] for place in known], seed + 100 * (turn + 1))
            curve.append(dice_of(model, tested))
        curves[way] = curve
        counts = np.bincount([pool[place].kind for place in known], minlength=len(POOLS[name])).tolist()
        print(
            name,
            seed,
            way,
            [round(dice, 3) for dice in curve],
            f"{counts} of each kind, {time.time() - began:.0f} s",
            flush=True,
        )
    return curves


def slices_of(seed: int, number: int, kind: int) -> list[Scan]:
    """Draw a person, and return some of their slices."""
    rng = np.random.default_rng([23, seed, number])
    scan = scan_subject(make_subject(load_anatomy(), rng, lesions=0), rng)
    upright = scan.image.reoriented()
    truth = scan.image.with_voxels(scan.mask[np.newaxis]).reoriented().voxels[0]
    coarser = np.array(upright.spacing_mm) / SPACING_MM
    image = zoom(gaussian_filter(upright.voxels[0].astype(np.float32), 0.4 / coarser), coarser, order=1)
    shares = [zoom(gaussian_filter((truth == value).astype(np.float32), 0.4 / coarser), coarser, order=1) for value in (1, 2)]
    mask = np.where(np.maximum(*shares) > 0.5, 1 + np.argmax(shares, axis=0), 0).astype(np.uint8)
    bright = float(np.percentile(image, 99.5))
    image = np.where(image > 0.05 * bright, KINDS[kind](np.clip(image / bright, 0, 1), rng), image / bright)
    tissue = np.flatnonzero(mask.any(axis=(0, 1)))
    heights = rng.choice(tissue[len(tissue) // 5 : -len(tissue) // 5], SLICES, replace=False)
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    cut = [(image[None, :, :, at : at + 1].astype(np.float32), mask[:, :, at : at + 1]) for at in heights]
    return [Scan(Volume(voxels, affine, {"modality": "MR"}), truth, kind) for voxels, truth in cut]


def shaded(image: Image, rng: np.random.Generator) -> Image:
    """Return an image brighter to one side than to the other, and noisy."""
    ramp = np.linspace(0.4, 1.6, image.shape[int(rng.integers(3))])
    axis = [side == len(ramp) for side in image.shape].index(True)
    return image * np.expand_dims(ramp, tuple(other for other in range(3) if other != axis)) + rng.normal(0, 0.05, image.shape)


KINDS: tuple[Callable[[Image, np.random.Generator], Image], ...] = (
    lambda image, rng: image,
    lambda image, rng: 1.05 - image,
    lambda image, rng: image**3,
    lambda image, rng: 0.1 + 2 * np.abs(image - 0.75),
    shaded,
)
"""What scanners and protocols make of a head: as it is, inverted, dark, folded so that fluid is brightest, and shaded."""


def plan_of() -> Plan:
    """Return the recipe: the same for every pool and seed."""
    return Plan(
        task="segmentation",
        labels=LabelSchema({"grey-matter": 1, "white-matter": 2}),
        targets=("grey-matter", "white-matter"),
        cohort="simulated",
        modalities=("MR",),
        spacing_mm=(SPACING_MM, SPACING_MM, SPACING_MM),
        crop=False,
        intensity=Intensity(),
        patch=SIDES,
        batch=BATCH,
        target_weights=(1.0, 1.0, 1.0),
        network=NetworkSpec(name="unet", features=(16, 32, 64)),
    )


def trained(plan: Plan, scans: Sequence[Scan], seed: int) -> Predictor:
    """Train a network anew on whole scans, mirrored at random."""
    torch.manual_seed(seed)
    rng, task = np.random.default_rng(seed), task_of(plan)
    network = build_model(plan.network, task.inputs, task.channels, plan.patch)
    examples = [(fitted(prepare_image(one.volume, plan).voxels[0]), fitted(one.truth)) for one in scans]
    pace = torch.optim.AdamW(network.parameters(), lr=RATE)
    fall = torch.optim.lr_scheduler.OneCycleLR(pace, RATE, total_steps=STEPS)
    network.train()
    for _ in range(STEPS):
        picked = [examples[place] for place in rng.integers(len(examples), size=BATCH)]
        images = torch.from_numpy(np.stack([image[np.newaxis] for image, _ in picked]))
        truths = torch.from_numpy(np.stack([truth[np.newaxis] for _, truth in picked]).astype(np.int64))
        flips = [axis for axis in (2, 3) if rng.random() < 0.5]
        pace.zero_grad()
        task.loss(network(images.flip(flips)), truths.flip(flips)).backward()  # type: ignore[no-untyped-call]
        pace.step()
        fall.step()
    return Predictor(by_torch(network.eval(), torch.device("cpu")), plan, torch.device("cpu"))


def fitted(voxels: NDArray[Any]) -> NDArray[Any]:
    """Pad or crop to the patch, about the middle."""
    out = np.zeros(SIDES, voxels.dtype)
    source, target = [], []
    for has, wanted in zip(voxels.shape, SIDES, strict=True):
        size, skip, lead = min(has, wanted), max(0, (has - wanted) // 2), max(0, (wanted - has) // 2)
        source.append(slice(skip, skip + size))
        target.append(slice(lead, lead + size))
    out[tuple(target)] = voxels[tuple(source)]
    return out


def chosen(way: str, model: Predictor, pool: Sequence[Scan], known: list[int], order: np.random.Generator) -> list[int]:
    """Choose the scans that are labelled next."""
    if way == "random":
        left = [place for place in range(len(pool)) if place not in known]
        return [left[place] for place in order.permutation(len(left))[:EACH]]
    doubts = {str(place): doubt_of([model], scan.volume) for place, scan in enumerate(pool)}
    scores = {name: doubt.score for name, doubt in doubts.items()}
    features = {name: doubt.features for name, doubt in doubts.items()}
    words: Any = way
    return [int(name) for name in next_cases(scores, features, EACH, by=words, labelled=[str(place) for place in known])]


def dice_of(model: Predictor, scans: Sequence[Scan]) -> float:
    """Return the mean Dice of both tissues over scans."""
    found = []
    for scan in scans:
        mask = model.predict(scan.volume).mask.voxels[0]
        found += [overlap(mask == value, scan.truth == value).dice for value in (1, 2)]
    return float(np.nanmean(found))


def summed(curves: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Return mean curves, and how many labels each strategy needs for the Dice that random choice ends with."""
    means = {way: np.mean(found, axis=0) for way, found in curves.items()}
    goal = float(means["random"][-1])
    told = {}
    for way, curve in means.items():
        each = [needed(np.array(one), float(base[-1])) for one, base in zip(curves[way], curves["random"], strict=True)]
        told[way] = {
            "dice": [round(float(value), 4) for value in curve],
            "deviation": [round(float(value), 4) for value in np.std(curves[way], axis=0)],
            "labels_for_the_dice_of_random": needed(curve, goal),
            "by_seed": each,
        }
    return {"goal": goal, "strategies": told}


def needed(curve: NDArray[np.float64], goal: float) -> float | None:
    """Return how many labels reach a Dice, between rounds in proportion; None where it isn't reached."""
    counts, best = labels(), np.maximum.accumulate(curve)
    if best[-1] < goal:
        return None
    place = int(np.argmax(best >= goal))
    if place == 0:
        return float(counts[0])
    share = (goal - best[place - 1]) / (best[place] - best[place - 1])
    return round(float(counts[place - 1] + share * EACH), 2)


def draw(told: dict[str, Any]) -> None:
    """Draw ``results/active_learning.png``."""
    figure = Figure(figsize=(4.6 * len(told), 3.6), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(told), squeeze=False)[0], told.items(), strict=True):
        for way, of_way in found["strategies"].items():
            mean, spread = np.array(of_way["dice"]), np.array(of_way["deviation"])
            axes.plot(labels(), mean, "o-", color=COLOURS[way], label=way)
            axes.fill_between(labels(), mean - spread, mean + spread, color=COLOURS[way], alpha=0.12, linewidth=0)
        axes.axhline(found["goal"], color="#d6453d", linewidth=1, linestyle=":")
        axes.set(title=f"pool: {name}", xlabel="labelled slices", xticks=labels())
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("Dice on held-out people")
    figure.axes[0].legend(frameon=False)
    figure.savefig(RESULTS / "active_learning.png", dpi=110)


if __name__ == "__main__":
    main()
