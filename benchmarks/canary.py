"""Is a bad challenger taken back by itself within 200 requests, and a good one never?

A real endpoint and a small U-Net that learned tissues of simulated people. Challengers: one that refuses a tenth of the images
that the champion answers, one that is shown larger windows than it needs and so takes half as long again, and one whose
weights were disturbed until its masks agree with the champion's by a Dice of 0.9; and good ones, disturbed so little that they
agree by 0.99. Each run begins a canary of 10 % with the default limits and sends requests until the challenger is taken back
or 200 were sent. Every reply is looked at: a challenger's failure must be nobody's.

Run with a folder to keep what was made, and go on there.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MEDRAY_KEY", "6d" * 32)

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from matplotlib.figure import Figure
from report import RESULTS, in_folder, save
from safetensors.torch import load_file, save_file

import medray
from medray import config
from medray.audit import open_trail
from medray.formats.dicom_series import SeriesIdentity, write_dicom_series
from medray.formats.nifti import write_nifti
from medray.imaging.volume import Volume
from medray.inference.agreement import agreement
from medray.preprocessing.plan import Plan
from medray.registry.card import ModelCard
from medray.registry.rollout import Canary
from medray.samples.anatomy import load_anatomy
from medray.samples.scan import Protocol, scan_subject
from medray.samples.subject import make_subject
from medray.serving.form import zip_of
from medray.storage.location import locate

PLAIN = Protocol(spacing=3.2)
PEOPLE, IMAGES, REQUESTS, CALLERS = 16, 40, 200, 2
BAD_RUNS, GOOD_RUNS = (int(os.environ.get(f"BENCH_{name}", most)) for name, most in (("BAD", 5), ("GOOD", 20)))
FOREIGN = 10
"""One image in so many comes as another modality, which one challenger doesn't know."""
SLOWER = 1.5
MODEL, PORT = "tissue", 8769


def main() -> None:
    """Make models, send requests, save."""
    in_folder(measure)


def measure(folder: Path) -> None:
    """Do all of it in a folder; what is there already is kept."""
    os.environ["MEDRAY_HOME"] = str(folder / "home")
    champion, images = trained(folder), [scan(number) for number in range(IMAGES)]
    challengers = made(folder, champion, [volume for _, volume in images])
    store = medray.Registry()
    store.promote(f"{MODEL}/1")
    settings: dict[str, Any] = {"insecure": True, "refresh_s": 0.2, "models_mb": 4096}
    result: dict[str, Any] = {"requests": REQUESTS, "canary": config.dump(Canary())}
    with medray.deploy([MODEL], port=PORT, **settings):
        for name, (version, facts) in challengers.items():
            runs = GOOD_RUNS if name == "good" else BAD_RUNS
            found = [one_run(store, version, [data for data, _ in images]) for _ in range(runs)]
            result[name] = {**facts, **summed(found)}
            print(name, json.dumps(result[name]), file=sys.stderr)
    save("canary", result)
    draw(result)


def scan(number: int) -> tuple[bytes, Volume]:
    """Return an image, as it is sent and as it is."""
    rng = np.random.default_rng([3, number])
    image = scan_subject(make_subject(load_anatomy(), rng, lesions=int(rng.integers(0, 4))), rng, PLAIN).image
    if number % FOREIGN:
        return write_nifti(image), image
    who = SeriesIdentity(patient=f"p{number}", study="1", series="1", modality="CT")
    return zip_of(write_dicom_series(image, who)), image


def trained(folder: Path) -> Path:
    """Train the champion, for MR and CT, and return its folder."""
    place = folder / "champion"
    if place.exists():
        return place
    source = folder / "source"
    for number in range(PEOPLE):
        rng = np.random.default_rng([4, number])
        made = scan_subject(make_subject(load_anatomy(), rng, lesions=2), rng, PLAIN)
        where = source / f"sub-{number:02d}"
        where.mkdir(parents=True)
        (where / f"sub-{number:02d}_T1w.nii.gz").write_bytes(write_nifti(made.image))
        mask = np.where(made.mask == 1, 1, np.where(made.mask > 1, 2, 0)).astype(np.uint8)
        (where / f"sub-{number:02d}_dseg.nii.gz").write_bytes(write_nifti(Volume(mask[np.newaxis], made.image.affine)))
    (source / "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tgrey-matter\n2\twhite-matter\n")
    cohort = medray.ingest(source, folder / "cohort", labels="**/*_dseg.nii.gz")
    plan = medray.plan(cohort, changes={"modalities": ["MR", "CT"]})
    run = medray.fit(
        medray.prepare(cohort, plan, folder / "prepared"), medray.FitConfig(epochs=6, steps=60, picture=False), name=MODEL
    )
    Path(run.model.path).rename(place)
    return place


def made(folder: Path, champion: Path, images: Sequence[Volume]) -> dict[str, tuple[str, dict[str, float]]]:
    """Register the champion and its challengers once, and return name to version and what is known of each."""
    file = folder / "challengers.json"
    if file.exists():
        found: dict[str, tuple[str, dict[str, float]]] = json.loads(file.read_text())
        return found
    plan = medray.Predictor.load(champion).plan
    register(champion, plan)
    weights = load_file(champion / "weights.safetensors")
    said = {}
    roomy = half_as_slow_again(folder, champion, plan, weights, images)
    for name, changed, aim in (
        ("a tenth refused", replace(plan, modalities=("MR",)), 1.0),
        ("slower", roomy, 1.0),
        ("disagrees", plan, 0.9),
        ("good", plan, 0.99),
    ):
        scale = 0.0 if aim == 1.0 else scale_for(folder, champion, plan, weights, images, aim)
        place = written(folder / name.replace(" ", "-"), changed, disturbed(weights, scale))
        agrees = agreeing(champion, place, images[1:9])
        facts = {"agreement": round(agrees, 4), "times_as_long": round(slower(champion, place, images), 2)}
        said[name] = (register(place, changed), facts)
    file.write_text(json.dumps(said))
    return said


def register(place: Path, plan: Plan) -> str:
    """Register a model folder."""
    card = ModelCard(name=MODEL, created="2026", plan=plan, scores={}, subjects={})
    return str(medray.Registry().register(card, locate(place)))


def written(place: Path, plan: Plan, weights: dict[str, torch.Tensor]) -> Path:
    """Write a model folder."""
    place.mkdir(exist_ok=True)
    save_file(weights, place / "weights.safetensors")
    (place / "plan.json").write_text(json.dumps(config.dump(plan)))
    return place


def disturbed(weights: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Add noise to weights, of so much of their own deviation."""
    torch.manual_seed(5)
    found = {}
    for name, value in weights.items():
        noisy = value.is_floating_point() and value.numel() > 1 and "running" not in name
        found[name] = value + scale * value.std() * torch.randn_like(value) if noisy else value.clone()
    return found


def scale_for(
    folder: Path, champion: Path, plan: Plan, weights: dict[str, torch.Tensor], images: Sequence[Volume], aim: float
) -> float:
    """Find how much noise brings agreement to ``aim``, by halving."""
    low, high = 0.0, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        place = written(folder / "trial", plan, disturbed(weights, middle))
        low, high = (middle, high) if agreeing(champion, place, images[1:9]) > aim else (low, middle)
    return (low + high) / 2


def half_as_slow_again(
    folder: Path, champion: Path, plan: Plan, weights: dict[str, torch.Tensor], images: Sequence[Volume]
) -> Plan:
    """Return the plan with so large a window, most of it empty, that an answer takes about half as long again."""
    steps = 2 ** (len(plan.network.features) - 1)
    for depth in range(plan.patch[2], 4 * plan.patch[2], steps):
        changed = replace(plan, patch=(*plan.patch[:2], depth))
        if slower(champion, written(folder / "trial", changed, weights), images) >= SLOWER:
            return changed
    raise SystemExit("no window of up to four times the size takes half as long again")


def agreeing(one: Path, other: Path, images: Sequence[Volume]) -> float:
    """Return the mean Dice of two models."""
    models = [medray.Predictor.load(place) for place in (one, other)]
    found: list[float] = []
    for image in images:
        if image.meta.get("modality") == "CT":
            continue
        first, second = (model.predict(image) for model in models)
        found += agreement(first.answer, second.answer, first.values).values()
    return float(np.mean(found))


def slower(one: Path, other: Path, images: Sequence[Volume]) -> float:
    """Return how many times as long the second model takes, in turn with the first."""
    models = [medray.Predictor.load(place) for place in (one, other)]
    times: list[list[float]] = [[], []]
    for image in [*images[1:9]] * 5:
        for model, found in zip(models, times, strict=True):
            started = time.perf_counter()
            model.predict(image)
            found.append(time.perf_counter() - started)
    return float(np.median(np.array(times[1][8:]) / np.array(times[0][8:])))


def one_run(store: medray.Registry, version: str, bodies: Sequence[bytes]) -> dict[str, Any]:
    """Begin a canary and send requests until it is over."""
    store.challenge(version, Canary())
    url = f"http://127.0.0.1:{PORT}/v1/segment/{MODEL}"
    sent = 0
    statuses: list[int] = []
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(CALLERS) as callers:
        while who_answers(client, url, bodies[1]) != version:
            time.sleep(0.1)
        while sent < REQUESTS and store.rollout(MODEL).challenger is not None:
            batch = range(sent, sent + CALLERS)
            statuses += callers.map(lambda number: client.post(url, content=bodies[number % len(bodies)]).status_code, batch)
            sent += CALLERS
        time.sleep(1)
    taken_back = store.rollout(MODEL).challenger is None
    why = [event.detail for event in open_trail().events(action="model.withdraw") if event.actor == "medray canary"]
    store.withdraw(version)
    lost = sum(status != 200 for status in statuses)
    return {"taken_back": taken_back, "requests": sent, "lost": lost, "why": why[-1] if taken_back else ""}


def who_answers(client: httpx.Client, url: str, body: bytes) -> str:
    """Return which version answers who asks for the challenger."""
    reply = client.post(url, content=body, headers={"X-Medray-Canary": "always"})
    return str(reply.headers.get("x-medray-model"))


def summed(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum several runs up."""
    back = [run["requests"] for run in runs if run["taken_back"]]
    return {
        "runs": len(runs),
        "taken_back": len(back),
        "after_requests": {"median": float(np.median(back)), "most": max(back)} if back else None,
        "lost": sum(run["lost"] for run in runs),
        "why": sorted({run["why"] for run in runs if run["why"]})[:3],
    }


def draw(result: dict[str, Any]) -> None:
    """Draw how soon each was taken back."""
    names = [name for name in result if isinstance(result[name], dict) and "runs" in result[name]]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        found = result[name]
        after = found["after_requests"]["median"] if found["after_requests"] else REQUESTS
        axes.barh(place, after, color="#4fa36c" if name == "good" else "#d6453d")
        axes.text(after + 2, place, f"taken back in {found['taken_back']} of {found['runs']}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, REQUESTS * 1.35)
    axes.set_xlabel("requests until it was taken back, median, or all that were sent")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "canary.png", dpi=110)


if __name__ == "__main__":
    main()
