"""How true is what `track` says of change, and how long does it take? Against plain SimpleITK with the same settings.

Simulated people of `samples/brain` with known truth: a first scan, and a second one 90 to 500 days later on another grid, with
other contrast, bias and noise. In between lesions grow or shrink, one is new, one may vanish, ventricles widen; the head lies
turned by up to 15 degrees about each axis and shifted by up to 20 mm along each, and the scanner's scale is off by up to 1 %.
Masks are the truth's on each scan's grid: what is measured is everything that comes after a segmentation.

Plain SimpleITK: centred by moments, rigid, then affine, one way, with the same metric, optimiser, levels and sampling.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, save
from scipy.spatial.transform import Rotation

from medray.imaging.geometry import to_world
from medray.imaging.volume import Volume
from medray.progression.history import History, LesionHistory, history_of
from medray.progression.midway import inverse
from medray.progression.register import COARSE_MM, MIDDLE_MM, Pair, coarser, improved, itk_image, loosened, register
from medray.progression.visit import TimePoint
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import Scan, scan_subject
from medray.samples.subject import Lesion, Subject, atrophied, brain_box, followed_up, make_subject, sample_maps

PEOPLE = 20
LEAST_MM3 = 100.0


@dataclass(frozen=True, slots=True)
class Case:
    """A person, twice.

    Attributes:
        points: Both time points.
        moved: ``(4, 4)``, what happened to the world in between.
        scale: By what factor the second scanner shows volumes larger.
        before: Lesions of the first scan, by their place in `after` where they are the same.
        after: Lesions of the second scan; None for one that has vanished.
        tissue: Of grey and white matter, the later volume over the earlier one.
    """

    points: tuple[TimePoint, TimePoint]
    moved: NDArray[np.float64]
    scale: float
    before: tuple[Lesion, ...]
    after: tuple[Lesion | None, ...]
    tissue: float


def main() -> None:
    """Measure, and save the figures."""
    people = int(sys.argv[1]) if len(sys.argv) > 1 else PEOPLE
    found: dict[str, list[Any]] = {}
    for number in range(people):
        case = drawn(number)
        for key, values in measured(case).items():
            found.setdefault(key, []).extend(values)
        print(number, {key: values[-1] for key, values in found.items() if values}, flush=True)
    save("track", told(found, people))
    draw(found)


def told(found: dict[str, list[Any]], people: int) -> dict[str, Any]:
    """Sum figures up."""
    hits, said, true = (sum(found[key]) for key in ("hits", "said", "true"))
    return {
        "people": people,
        "lesions": len(found["volume_error_percent"]),
        "volume_change_error_percent": spread(found["volume_error_percent"]),
        "new_and_vanished": {"right": hits, "said": said, "true": true, "f1": 2 * hits / (said + true)},
        "atrophy_error_percent_points": spread(found["atrophy_error"]),
        "atrophy_interval_held": float(np.mean(found["atrophy_held"])),
        "scale_error_rms": float(np.sqrt(np.mean(np.square(found["scale_error"])))),
        "lesion_fates": {fate: found["fates"].count(fate) for fate in sorted(set(found["fates"]))},
        "atrophy_percent": spread(found["atrophy"]),
        "swap_percent": spread(found["swap_percent"]),
        "misaligned_voxels": spread(found["misaligned"]),
        "likeness": spread(found["likeness"]),
        "seconds": {key: float(np.median(found[f"{key}_s"])) for key in ("register", "plain", "match_and_measure")},
        "register_to_plain": float(np.median(np.array(found["register_s"]) / np.array(found["plain_s"]))),
        "plain_misaligned_voxels": spread(found["plain_misaligned"]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the 95th percentile and the largest."""
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "largest": float(np.max(values))}


def drawn(number: int) -> Case:
    """Draw a person and both scans."""
    rng = np.random.default_rng([7, number])
    first = make_subject(load_anatomy(), rng, lesions=int(rng.integers(2, 6)))
    grown = followed_up(first, rng)
    after: list[Lesion | None] = list(grown.lesions)
    if rng.random() < 0.5:
        after[int(rng.integers(len(first.lesions)))] = None
    lesions = tuple(lesion for lesion in after if lesion is not None)
    second = atrophied(Subject(grown.anatomy, grown.linear, grown.field, lesions), rng.uniform(0, 0.5))
    scans = scan_subject(first, rng), scan_subject(second, rng)
    moved, scale = motion(rng)
    days = float(rng.integers(90, 500))
    points = point("first", 0.0, scans[0], np.eye(4)), point("second", days, scans[1], moved)
    return Case(points, moved, scale, first.lesions, tuple(after), tissue_of(second) / tissue_of(first))


def motion(rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Draw how the head lies and what the scanner's scale is."""
    stretch = 1 + rng.uniform(-0.01, 0.01)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3), degrees=True).as_matrix() * stretch
    matrix[:3, 3] = rng.uniform(-20, 20, 3)
    return matrix, stretch**3


def point(name: str, day: float, scan: Scan, moved: NDArray[np.float64]) -> TimePoint:
    """Put a scan where the head lay; grey and white matter are one structure here."""
    labels = np.array([0, 1, 1, 2], np.uint8)[scan.mask]
    affine = moved @ scan.image.affine
    return TimePoint(name, day, Volume(scan.image.voxels, affine), mask=Volume(labels[np.newaxis], affine))


def tissue_of(subject: Subject) -> float:
    """Return the volume of grey and white matter in mm³, lesions left out, on a grid of 1 mm."""
    corners = brain_box(subject)
    axes = [np.arange(low, high, 1.0, dtype=np.float32) for low, high in zip(corners.min(0), corners.max(0), strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    _, grey, white = sample_maps(subject, points)
    inside = grey + white > 0.5
    for lesion in subject.lesions:
        inside &= lesion.inside_mm(points) <= 0
    return float(inside.sum())


def measured(case: Case) -> dict[str, list[Any]]:
    """Compare what is said of a person with the truth."""
    images = itk_image(case.points[0].image), itk_image(case.points[1].image)
    started = time.perf_counter()
    register(*images)
    registered = time.perf_counter()
    plain = plainly(images)
    plain_s = time.perf_counter() - registered
    began = time.perf_counter()
    history = history_of(case.points, {"tissue": 1, "lesion": 2})
    whole = time.perf_counter() - began
    swapped = history_of(
        [TimePoint(one.name, -one.day, one.image, mask=one.mask) for one in case.points], {"tissue": 1, "lesion": 2}
    )
    there = history.alignment.between(0, 1)
    return {
        **lesions_of(case, history),
        **atrophy_of(case, history),
        "swap_percent": swaps(history, swapped),
        "misaligned": [misaligned(case, there)],
        "plain_misaligned": [misaligned(case, plain)],
        "likeness": [one.likeness for one in history.alignment.pairs.values()],
        "register_s": [registered - started],
        "plain_s": [plain_s],
        "match_and_measure_s": [whole - (registered - started)],
    }


def lesions_of(case: Case, history: History) -> dict[str, list[Any]]:
    """Compare lesions by their places at either time point."""
    errors, hits, said = [], 0, 0
    known: dict[int, int] = {}
    for lesion in history.lesions:
        for at, of in ((0, case.before), (1, case.after)):
            centre = lesion.centres_mm[at]
            if centre is None:
                continue
            place = to_world(inverse(case.moved) if at else np.eye(4), centre).astype(np.float32)
            inside = [n for n, one in enumerate(of) if one is not None and float(one.inside_mm(place[None])[0]) > -1.5]
            if inside:
                known[lesion.number] = inside[0]
        fate, truth = lesion.fates[0], known.get(lesion.number)
        is_said = fate in {"new", "vanished"}
        said += is_said
        hits += is_said and truth is not None and fate_of(case, truth) == fate
        if fate in {"stable", "grown", "shrunk"} and truth is not None and fate_of(case, truth) == "same":
            before, after = case.before[truth], case.after[truth]
            if after is not None and before.volume_ml * 1000 >= LEAST_MM3:
                ratio = after.volume_ml / before.volume_ml * case.scale
                change = lesion.changes[0]
                errors.append(abs(((change.percent if change else None) or 0.0) - 100 * (ratio - 1)))
    true = sum(fate_of(case, n) != "same" for n in range(len(case.after)))
    fates = [lesion.fates[0] for lesion in history.lesions]
    return {"fates": fates, "volume_error_percent": errors, "hits": [hits], "said": [said], "true": [true]}


def fate_of(case: Case, number: int) -> str:
    """Return what became of the truth's lesion."""
    if number >= len(case.before):
        return "new"
    return "vanished" if case.after[number] is None else "same"


def atrophy_of(case: Case, history: History) -> dict[str, list[float]]:
    """Compare the tissue's change."""
    change, truth = history.structures[0].changes[0], 100 * (case.tissue - 1)
    if change is None:
        return {}
    low, high = change.interval_percent or (0.0, 0.0)
    return {
        "atrophy_error": [abs((change.percent or 0.0) - truth)],
        "atrophy": [truth],
        "atrophy_held": [low <= truth <= high],
        "scale_error": [history.alignment.scale(0, 1) / case.scale - 1],
    }


def swaps(history: History, swapped: History) -> list[float]:
    """Return by how many percent there and back differ from nothing, for the tissue and for lesions that stay."""
    back = {sizes(one)[::-1]: one.changes[0] for one in swapped.lesions}
    pairs = [(history.structures[0].changes[0], swapped.structures[0].changes[0])]
    pairs += [(one.changes[0], back[sizes(one)]) for one in history.lesions if sizes(one) in back]
    percents = [(a.percent, b.percent) for a, b in pairs if a and b]
    return [
        100 * abs((1 + a / 100) * (1 + b / 100) - 1)
        for a, b in percents
        if a is not None and b is not None and min(a, b) > -100
    ]


def sizes(lesion: LesionHistory) -> tuple[float, ...]:
    """Return a lesion's volumes, by which it is known again."""
    return tuple(amount.mm3 if amount else -1.0 for amount in lesion.amounts)


def misaligned(case: Case, matrix: NDArray[np.float64]) -> float:
    """Return the mean distance, in the second scan's voxels, of where the head's points are put from where they are."""
    mask = case.points[0].mask
    places = to_world(mask.affine, np.argwhere(mask.voxels[0] > 0)[::97])
    apart = to_world(matrix, places) - to_world(case.moved, places)
    return float(np.linalg.norm(apart, axis=1).mean() / min(case.points[1].image.spacing_mm))


def plainly(pair: Pair) -> NDArray[np.float64]:
    """Register one way from one start."""
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    placed = sitk.CenteredTransformInitializer(*pair, sitk.VersorRigid3DTransform(), moments)
    rigid, _ = improved(coarser(pair, COARSE_MM), sitk.VersorRigid3DTransform(placed), step_mm=1.0)
    return loosened(rigid, coarser(pair, MIDDLE_MM), pair)


def draw(found: dict[str, list[Any]]) -> None:
    """Draw errors."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    parts = (
        ("volume_error_percent", "lesions' change, % points off", 5),
        ("atrophy_error", "tissue's change, % points off", 0.3),
        ("misaligned", "voxels misaligned", 0.5),
    )
    for axes, (key, name, bar) in zip(figure.subplots(1, 3), parts, strict=True):
        axes.hist(found[key], bins=20, color="#3b82c4")
        axes.axvline(bar, color="#d6453d", lw=1)
        axes.set(xlabel=name, xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "track.png", dpi=110)


if __name__ == "__main__":
    main()
