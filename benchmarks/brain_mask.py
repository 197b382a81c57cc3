"""Does a brain mask that was learned from one head hold on people whom no sample contains, and how does ROBEX do on them?

Trains ``brain-mask`` on simulated heads (see `medray.samples.head`) unless the registry in ``MEDRAY_HOME`` has one, then takes
both programs to every head that is given: ``python benchmarks/brain_mask.py T1.nii.gz other.nii.gz=its-mask.nii.gz``. Seconds
are those of ``medray predict`` and ``runROBEX.sh`` as processes, from start to written file. Where a head comes with a mask,
both are measured against it; without one against each other. The scores of heads that are there when the model is trained
become part of its card.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import RESULTS, save

import medray
from medray.engine import join_ray, stream
from medray.errors import NotFoundError
from medray.evaluation.overlap import overlap
from medray.evaluation.surface import surface_distance
from medray.formats.image import read_image_path
from medray.imaging.volume import Volume
from medray.inference.evaluate import held_out, score_cases
from medray.privacy.faces import require_atlas
from medray.samples.head import write_head_cohort

NAME = "brain-mask"
SUBJECTS = 140
FIT: dict[str, Any] = {"epochs": 22, "steps": 150, "average": 0.995, "learning_rate": 5e-3, "channels_last": True}
PLAN: dict[str, Any] = {
    "spacing_mm": [2, 2, 2],
    "order": 1,
    "batch": 2,
    "patch": [96, 96, 96],
    "network": {"features": [16, 32, 64, 128, 256]},
    "foreground_share": 0.5,
    "target_weights": [1, 1],
    "one_piece": ["brain"],
    "val": 0.1,
    "test": 0.15,
}
HOME = Path(os.environ.get("MEDRAY_HOME", "medray-home"))


def main(heads: list[str]) -> None:
    """Train where there is no model yet, and compare on the heads."""
    if not heads:
        print("no heads were given: not run", file=sys.stderr)
        return
    registry = medray.Registry()
    try:
        registry.resolve(NAME)
    except NotFoundError:
        train(registry, heads)
    card = registry.card(NAME)
    found = {Path(head.partition("=")[0]).name: compare(*head.partition("=")[::2]) for head in heads}
    about: dict[str, Any] = {"lineage": card.lineage, "subjects": {split: len(found) for split, found in card.subjects.items()}}
    about |= {"network": card.recipe().network.features, "scores": card.scores}
    save("brain_mask", {"model": about, "heads": {name: facts for name, (facts, _) in found.items()}})
    draw({name: shown for name, (_, shown) in found.items()})


def train(registry: medray.Registry, heads: list[str]) -> None:
    """Make heads, fit, score and register; what was done is not done again."""
    place = HOME / "brain-mask"
    join_ray()
    if not (place / "heads" / "dseg.tsv").exists():
        write_head_cohort(place / "heads", subjects=SUBJECTS, over=lambda function, numbers: stream(numbers, function))
    cohort = medray.ingest(place / "heads", place / "cohort", profile="none")
    plan = medray.plan(cohort, changes=PLAN)
    prepared = medray.prepare(cohort, plan, place / "prepared")
    run = medray.fit(prepared, medray.FitConfig(**FIT), name=NAME, on_epoch=lambda record: print(told(record), file=sys.stderr))
    predictor = medray.Predictor.load(Path(run.model.path))
    test = score_cases(predictor, cohort, held_out(cohort, plan, "test")).scores
    registry.register(medray.card_from_run(run, plan=plan, test=test, elsewhere=real(predictor, heads)), run.model)


def real(predictor: medray.Predictor, heads: list[str]) -> dict[str, dict[str, float]]:
    """Score heads that come with a mask: what the model's card says of people whom no sample contains."""
    scores = {}
    for head, _, truth in (head.partition("=") for head in heads):
        if truth:
            said = predictor.predict(read_image_path(Path(head))).mask.reoriented().voxels[0] > 0
            scores[Path(head).name.partition(".")[0]] = {"brain": overlap(said, brain(Path(truth))).dice}
    return scores


def told(record: Any) -> str:
    """Say how an epoch went."""
    return f"epoch {record['epoch']}: loss {record['loss']:.3f}, scores {record['scores']}, {record['seconds']:.0f} s"


def compare(head: str, truth: str) -> tuple[dict[str, Any], tuple[Volume, dict[str, NDArray[np.bool_]]]]:
    """Mask one head by both."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, stripped = (Path(folder) / f"{name}.nii.gz" for name in ("medray", "robex", "stripped"))
        script = require_atlas().parent / "runROBEX.sh"
        seconds = {
            "medray": timed([str(Path(sys.executable).parent / "medray"), "predict", NAME, head, str(ours)]),
            "robex": timed(["bash", str(script), head, str(stripped), str(theirs)]),
        }
        masks = {"medray": brain(ours), "robex": brain(theirs)}
    image = read_image_path(Path(head)).reoriented()
    facts: dict[str, Any] = {
        "shape": image.shape,
        "spacing_mm": [round(side, 3) for side in image.spacing_mm],
        "seconds": seconds,
        "ml": {name: float(mask.sum() * image.voxel_ml) for name, mask in masks.items()},
        "between": measured(masks["medray"], masks["robex"], image),
    }
    if truth:
        masks["reference"] = brain(Path(truth))
        facts["against_reference"] = {name: measured(masks[name], masks["reference"], image) for name in ("medray", "robex")}
    return facts, (image, masks)


def timed(command: list[str]) -> float:
    """Return the seconds of a process: the faster of two turns, the second of which finds the disk's cache warm."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return min(taken)


def brain(file: Path) -> NDArray[np.bool_]:
    """Read a mask along L, P, S."""
    mask: NDArray[np.bool_] = read_image_path(file).reoriented().voxels[0] > 0
    return mask


def measured(said: NDArray[np.bool_], true: NDArray[np.bool_], image: Volume) -> dict[str, float]:
    """Return Dice and HD95."""
    return {"dice": overlap(said, true).dice, "hd95_mm": surface_distance(said, true, image.spacing_mm).hd95_mm}


def draw(heads: dict[str, tuple[Volume, dict[str, NDArray[np.bool_]]]]) -> None:
    """Show three planes of each head with the masks' outlines."""
    if not heads:
        return
    figure = Figure(figsize=(9, 3.2 * len(heads)), layout="constrained")
    rows = figure.subplots(len(heads), 3, squeeze=False)
    colours = {"medray": "#3b82c4", "robex": "#d08a3c", "reference": "#ffffff"}
    for axes, (name, (image, masks)) in zip(rows, heads.items(), strict=True):
        for axis in range(3):
            middle = int(np.argmax(masks["medray"].sum(axis=tuple(n for n in range(3) if n != axis))))
            first, second = (n for n in range(3) if n != axis)
            shape = image.spacing_mm[second] / image.spacing_mm[first]
            plane, origin = image.voxels[0].take(middle, axis).T, "upper" if axis == 2 else "lower"
            axes[axis].imshow(plane, cmap="gray", aspect=shape, origin=origin)
            for who, mask in masks.items():
                axes[axis].contour(mask.take(middle, axis).T, [0.5], colors=colours[who], linewidths=0.9)
            axes[axis].set_axis_off()
        axes[0].set_title(name, fontsize=9)
    figure.suptitle("brain masks: medray blue, ROBEX orange, reference white", fontsize=10)
    figure.savefig(RESULTS / "brain_mask.png", dpi=90)


if __name__ == "__main__":
    main(sys.argv[1:])
