"""Is the consensus of several experts nearer to the truth than the best of them? STAPLE and majority, on simulated experts.

Lesions of simulated people (`samples/brain`), whose true label map is known, drawn by simulated experts of three kinds:

- ``trained``: habits of some 0.3 mm to either side, hands that err by 0.5 to 1.2 mm, small lesions overlooked
- ``headstrong``: habits of up to a millimetre to either side: the mean of few of them is biased, the best one isn't
- ``voxelwise``: each voxel near the outline wrong for itself: what STAPLE assumes (Warfield et al., IEEE TMI 23 (2004) 903-921)

Asked of each case: is the consensus' Dice with the truth higher than that of the best single expert, by Dice, too?
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, save
from scipy.ndimage import distance_transform_edt

from medray.annotation.consensus import majority, staple
from medray.evaluation.overlap import overlap
from medray.samples.anatomy import load_anatomy
from medray.samples.raters import Rater, drawn, raters
from medray.samples.scan import scan_subject
from medray.samples.subject import make_subject
from medray.types import Mask, Triple

CASES = 60
COUNTS = (3, 5, 7)
LESION, MARGIN = 3, 12
NAMES = {"lesion": 1}
Experts = Callable[[Mask, Triple, int, np.random.Generator], list[Mask]]


def main() -> None:
    """Measure, and save the figures."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    found: dict[str, dict[int, list[dict[str, float]]]] = {kind: {count: [] for count in COUNTS} for kind in KINDS}
    seconds: list[float] = []
    for number in range(cases):
        truth, spacing_mm = lesions(number)
        for kind, experts in KINDS.items():
            for count in COUNTS:
                rng = np.random.default_rng([11, number, count])
                masks = experts(truth, spacing_mm, count, rng)
                started = time.perf_counter()
                estimate = staple(masks, NAMES)
                seconds.append(time.perf_counter() - started)
                found[kind][count].append(
                    {
                        "best": max(dice(mask, truth) for mask in masks),
                        "mean": float(np.mean([dice(mask, truth) for mask in masks])),
                        "staple": dice(estimate.mask, truth),
                        "majority": dice(majority(masks, [1]), truth),
                    }
                )
        print(number, {kind: found[kind][5][-1] for kind in KINDS}, flush=True)
    told = {kind: {str(count): summed(rows) for count, rows in by_count.items()} for kind, by_count in found.items()}
    save("consensus", {"cases": cases, "experts": told, "staple_seconds_median": float(np.median(seconds))})
    draw(told)


def lesions(number: int) -> tuple[Mask, Triple]:
    """Draw a person, and return the box around their lesions."""
    rng = np.random.default_rng([3, number])
    scan = scan_subject(make_subject(load_anatomy(), rng, lesions=int(rng.integers(1, 6))), rng)
    there = np.argwhere(scan.mask == LESION)
    low, high = np.maximum(there.min(axis=0) - MARGIN, 0), there.max(axis=0) + 1 + MARGIN
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return (scan.mask[box] == LESION).astype(np.uint8), scan.image.spacing_mm


def trained(truth: Mask, spacing_mm: Triple, count: int, rng: np.random.Generator) -> list[Mask]:
    """Return what trained experts draw."""
    return [drawn(truth, spacing_mm, rater, rng) for rater in raters(count, rng)]


def headstrong(truth: Mask, spacing_mm: Triple, count: int, rng: np.random.Generator) -> list[Mask]:
    """Return what experts draw who have strong habits."""
    people = [Rater(rng.uniform(-1, 1), rng.uniform(0.3, 1.0), rng.uniform(0, 0.05)) for _ in range(count)]
    return [drawn(truth, spacing_mm, rater, rng) for rater in people]


def voxelwise(truth: Mask, spacing_mm: Triple, count: int, rng: np.random.Generator) -> list[Mask]:
    """Return masks of which voxels within 2 mm of the outline are wrong, each for itself: 10 to 30 % of them."""
    near = distance_transform_edt(truth, sampling=spacing_mm) + distance_transform_edt(1 - truth, sampling=spacing_mm) <= 2.0
    wrong: list[NDArray[np.bool_]] = [near & (rng.random(truth.shape) < rng.uniform(0.1, 0.3)) for _ in range(count)]
    return [np.where(one, 1 - truth, truth).astype(np.uint8) for one in wrong]


KINDS: dict[str, Experts] = {"trained": trained, "headstrong": headstrong, "voxelwise": voxelwise}


def dice(mask: Mask, truth: Mask) -> float:
    """Return the Dice of the lesions."""
    return overlap(mask == 1, truth == 1).dice


def summed(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return means, and how often a consensus is better than the best expert."""
    means = {f"{key}_dice": float(np.mean([row[key] for row in rows])) for key in rows[0]}
    better = {f"{key}_better": float(np.mean([row[key] > row["best"] for row in rows])) for key in ("staple", "majority")}
    return {**means, **better}


def draw(told: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Draw ``results/consensus.png``."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (kind, by_count) in zip(figure.subplots(1, 3, sharey=True), told.items(), strict=True):
        for key, colour in (("staple", "#3b82c4"), ("majority", "#a9b6c2")):
            axes.plot(COUNTS, [100 * by_count[str(count)][f"{key}_better"] for count in COUNTS], "o-", color=colour, label=key)
        axes.axhline(90, color="#d6453d", linewidth=1, linestyle=":")
        axes.set(title=f"{kind} experts", xlabel="experts", xticks=COUNTS, ylim=(0, 104))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("cases in which the consensus\nbeats the best expert, %")
    figure.axes[0].legend(frameon=False)
    figure.savefig(RESULTS / "consensus.png", dpi=110)


if __name__ == "__main__":
    main()
