"""Does a renewal win back what drift took, and does it forget?

Simulated people of `samples/brain`, coarse so that many can be learned from. A champion learns tissues and lesions on one
contrast. Then a site changes its protocol: the same tissues the other way round (fluid bright, white matter dark). Its
labelled scans come into the same cohort, and `medray.renewal.renew` does what ``jobs/renew.py`` does. Measured is Dice on
held-out people: what the champion loses on the new contrast, how much of that its successor wins back, and what it loses on
the old one.

Run with a folder to keep what was made, and go on there.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from report import RESULTS, in_folder, save

import medray
from medray.engine import join_ray
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.inference.compare import Rule
from medray.inference.evaluate import held_out, score_cases
from medray.monitoring.records import records_root
from medray.renewal.occasion import RenewalRule
from medray.renewal.renew import renew
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import BRAIN_LABELS, Protocol, scan_subject
from medray.samples.subject import make_subject
from medray.storage.location import locate

OLD, NEW = Protocol(spacing=2.2), Protocol(spacing=2.2, contrast="t2")
PEOPLE = 48
SMALL = {"test": 0.25, "patch": [48, 48, 48], "network": {"name": "unet", "features": [16, 32, 64, 128]}}
"""A network that learns in minutes on two cores, and enough people to test on."""
FIRST = medray.FitConfig(epochs=100, steps=60, picture=False)
AGAIN = medray.FitConfig(epochs=300, steps=60, picture=False)
MODEL = "brain"


def main() -> None:
    """Train, drift, renew, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Do all of it in a folder; what is there already is kept."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    join_ray()
    store = medray.Registry()
    if MODEL not in store.names():
        old = medray.ingest(written(folder / "old", OLD, 1), folder / "cohort", labels="**/*_dseg.nii.gz")
        recipe = medray.plan(old, changes=SMALL)
        run = medray.fit(medray.prepare(old, recipe, folder / "first"), FIRST, name=MODEL)
        store.register(medray.card_from_run(run, plan=recipe), run.model)
        store.promote(f"{MODEL}/1")
    before = medray.open_cohort(folder / "cohort", version=store.card(f"{MODEL}/1").lineage["cohort"])
    medray.ingest(written(folder / "new", NEW, 2), folder / "cohort", labels="**/*_dseg.nii.gz")
    started = time.time()
    rule = RenewalRule(drift=False, labels=PEOPLE // 2, better=Rule(patients=3))
    places = (locate(folder / "cohort"), locate(folder / "prepared"), records_root())
    found = renew(MODEL, *places, rule, AGAIN, registry=store)
    seconds = time.time() - started
    dice = {version: scored(version, folder, set(before.subjects)) for version in (f"{MODEL}/1", found.challenger)}
    result = {"people": {"old": PEOPLE, "new": PEOPLE}, "seconds": round(seconds), "dice": dice, "refused": found.refused}
    save("renewal", result | summed(dice[f"{MODEL}/1"], dice[found.challenger]))
    draw(dice[f"{MODEL}/1"], dice[found.challenger])


def written(folder: Path, protocol: Protocol, seed: int) -> Path:
    """Scan some people, and draw what is true of them."""
    if folder.exists():
        return folder
    for number in range(PEOPLE):
        rng = np.random.default_rng([seed, number])
        made = scan_subject(make_subject(load_anatomy(), rng, lesions=int(rng.integers(1, 6))), rng, protocol)
        name = f"sub-{seed}{number:02d}"
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}_T1w.nii.gz").write_bytes(write_nifti(made.image))
        mask = Volume(made.mask[np.newaxis], made.image.affine)
        (folder / name / f"{name}_dseg.nii.gz").write_bytes(write_nifti(mask))
    rows = "\n".join(f"{value}\t{name}" for name, value in BRAIN_LABELS.names.items())
    (folder / "dseg.tsv").write_text(f"index\tname\n0\tbackground\n{rows}\n")
    return folder


def scored(version: str, folder: Path, old: set[str]) -> dict[str, Any]:
    """Score a version on held-out people of either protocol."""
    store, cohort = medray.Registry(), medray.open_cohort(folder / "cohort")
    predictor = medray.Predictor.load(store.fetch(version))
    rows = held_out(cohort, predictor.plan, "test")
    found = {}
    for side in ("old", "new"):
        chosen = [row for row in rows if (row.subject in old) == (side == "old")]
        scores = score_cases(predictor, cohort, chosen).scores
        found[side] = {**scores, "mean": float(np.mean(list(scores.values()))), "people": len({row.subject for row in chosen})}
    return found


def summed(champion: dict[str, Any], successor: dict[str, Any]) -> dict[str, float]:
    """Say what was lost, won back and forgotten, of the mean over labels."""
    lost = champion["old"]["mean"] - champion["new"]["mean"]
    won = successor["new"]["mean"] - champion["new"]["mean"]
    return {"lost": lost, "won_back_share": won / lost, "forgotten": champion["old"]["mean"] - successor["old"]["mean"]}


def draw(champion: dict[str, Any], successor: dict[str, Any]) -> None:
    """Draw Dice of each label, before and after."""
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    names = [*BRAIN_LABELS.names, "mean"]
    for axes, side in zip(figure.subplots(1, 2, sharey=True), ("old", "new"), strict=True):
        for shift, (who, scores, colour) in enumerate((("champion", champion, "#a9b6c2"), ("successor", successor, "#3b82c4"))):
            axes.bar(np.arange(len(names)) + 0.4 * shift, [scores[side][name] for name in names], 0.38, color=colour, label=who)
        axes.set_xticks(np.arange(len(names)) + 0.2, names, fontsize=8)
        axes.set_title(f"the {side} contrast, {champion[side]['people']} held-out people", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("Dice")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(RESULTS / "renewal.png", dpi=110)


if __name__ == "__main__":
    main()
