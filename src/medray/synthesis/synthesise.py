"""`synthesise`: a cohort of images that a generator made, with the label maps that they show, marked as what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import nn

from medray import __version__, config
from medray.audit import Event, open_trail
from medray.cohort.cohort import Cohort
from medray.cohort.commit import Contents, commit_cohort
from medray.cohort.fingerprint import measure
from medray.cohort.manifest import QuarantineRow, SeriesRow
from medray.cohort.shards import write_shard
from medray.engine import join_ray, stream
from medray.errors import ConfigError, InputError
from medray.evaluation.fidelity import describe, thumbnail
from medray.imaging.volume import Volume
from medray.inference.predictor import Predictor
from medray.models.networks import build_model
from medray.preprocessing.bricks import Case, read_case
from medray.preprocessing.intensity import intensities, normalise
from medray.preprocessing.plan import Plan, read_plan
from medray.preprocessing.prepare import PEOPLE
from medray.preprocessing.prepared import Prepared
from medray.preprocessing.targets import SMALL_SHARE
from medray.registry.registry import Registry
from medray.storage.location import Location, locate
from medray.synthesis.anatomies import Invention, invent
from medray.synthesis.gate import Gate, Judgement, Seen, check_enough, judge
from medray.tasks.synthesis import Style, conditions, style_of
from medray.tasks.task import task_of
from medray.types import Mask

__all__ = ["Synthesised", "synthesise"]

KNOWN = 6
"""Label maps that a new one is made of at most: its base, and whose lesions it gets."""
GATE_FILE = "gate.json"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Synthesised:
    """What `synthesise` made.

    Attributes:
        cohort: Of the images that are no copies.
        judgement: What the gate found; `medray.prepare` takes no cohort that it refused.
    """

    cohort: Cohort
    judgement: Judgement


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What every worker is told.

    Attributes:
        root: Where shards go.
        model: Name and version of the generator.
        weights: Its weights, safetensors.
        plan: Its plan.
        files: The training cases.
        subjects: Whose these are.
        how: How label maps are invented.
        seed: Of everything drawn.
    """

    root: Location
    model: str
    weights: bytes
    plan: Plan
    files: tuple[Location, ...]
    subjects: tuple[str, ...]
    how: Invention
    seed: int


def synthesise(
    model: str,
    prepared: Prepared,
    target: str | Path,
    *,
    count: int,
    seed: int = 0,
    gate: Gate | None = None,
    registry: Registry | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Synthesised:
    """Make a synthetic cohort.

    Label maps are those of the training subjects, bent and with others' lesions; validation and test subjects are never looked
    at. Images that are too near to one training image are quarantined; whether the others are like the cohort is in
    ``gate.json`` and in the cohort's lineage.

    Args:
        model: A registered generator: ``name``, ``name@alias`` or ``name/version``.
        prepared: What it was trained on.
        target: A folder for the new cohort, a path or a URI.
        count: How many images.
        seed: Equal seeds give equal images.
        gate: What is asked of them.
        registry: The default one when None.
        on_progress: Called with ``("compare", done, total)`` and ``("synthesise", done, total)``.

    Raises:
        ConfigError: If ``count`` is less than two.
        InputError: If the model is no generator, or was trained on something else, or on too few images to judge others by.
        NotFoundError: If there is no such model.
    """
    if count < 2:
        raise ConfigError(f"count={count}: the gate compares two images at least")
    store = registry or Registry()
    version = store.resolve(model)
    folder = store.fetch(version)
    plan = Predictor.load(folder).plan
    if plan.task != "synthesis":
        raise InputError(f"{version} is for {plan.task}: train a generator with medray plan --task synthesis")
    if plan != prepared.plan:
        raise InputError(f"{version} was trained by another plan than that of {prepared.root.path}")
    rows = prepared.of("train")
    subjects = [row.subject for row in rows]
    check_enough(subjects)
    files = tuple(prepared.root.join(row.file) for row in rows)
    how = Invention(rare=_rare(plan, [read_case(file) for file in files]), mirror=0 in plan.alike)
    root = locate(target)
    weights = (folder / "weights.safetensors").read_bytes()
    work = Work(root, str(version), weights, plan, files, tuple(subjects), how, seed)
    join_ray()
    looked = _each(stream(range(len(files)), partial(_look, work)), "compare", len(files), on_progress)
    _, styles, real = zip(*sorted(looked, key=lambda found: found[0]), strict=True)
    made = _each(stream(range(count), partial(_make, work, styles)), "synthesise", count, on_progress)
    judgement = judge(gate or Gate(), [seen for _, seen in made], real, plan.channels)
    cohort = _commit(work, prepared, [row for row, _ in made], judgement)
    open_trail().record([Event("cohort.synthesise", cohort.index.id, detail=f"{count} images by {version}")])
    return Synthesised(cohort, judgement)


def _each(coming: Iterable[Item], stage: str, total: int, on_progress: Callable[[str, int, int], None]) -> list[Item]:
    found = []
    for item in coming:
        found.append(item)
        on_progress(stage, len(found), total)
    return found


def _rare(plan: Plan, cases: list[Case]) -> tuple[int, ...]:
    """Return the channel numbers of labels that come as small pieces."""
    counts = np.sum([case.counts.sum(axis=0) for case in cases], axis=0)
    shares = counts / max(1, counts[1:].sum())
    return tuple(number for number in range(1, len(plan.labels.names) + 1) if 0 < shares[number] < SMALL_SHARE)


def _look(work: Work, number: int) -> tuple[int, Style, Seen]:
    """Describe a training image, whose number goes with it: results come in any order."""
    case = read_case(work.files[number])
    image = case.image.astype(np.float32)
    style = style_of(image, case.mask, len(work.plan.labels.names))
    return number, style, _seen(work.plan, (case.series, work.subjects[number]), image, case.mask)


def _seen(plan: Plan, who: tuple[str, str], image: NDArray[np.float32], mask: Mask) -> Seen:
    names = {name: plan.numbers(name)[0] for name in plan.targets}
    return Seen(*who, describe(image, mask, names), thumbnail(image))


def _make(work: Work, styles: Sequence[Style], number: int) -> tuple[SeriesRow, Seen]:
    """Invent a label map, make its image, and write both."""
    rng = np.random.default_rng([work.seed, number])
    drawn = rng.choice(len(work.files), size=min(KNOWN, len(work.files)), replace=False)
    mask = invent(rng, [read_case(work.files[index]).mask for index in drawn], work.how)
    image = _image(work, mask, _between(rng, [styles[index] for index in drawn]), rng)
    image = normalise(intensities(image, work.plan.intensity), work.plan.intensity)  # as whoever trains on it will
    facts = json.dumps([work.model, hashlib.sha256(work.weights).hexdigest(), work.seed, number])
    name = f"synthetic-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    return _row(work, name, mask, image), _seen(work.plan, (name, name), image, mask)


def _between(rng: np.random.Generator, styles: Sequence[Style]) -> Style:
    """Draw a style between two; what one of them hasn't is as in the others."""
    first, second = rng.integers(len(styles), size=2)
    share, there = rng.random(), np.stack([style.there for style in styles])
    every = np.stack([(style.bright, style.grain) for style in styles])
    usual = every.sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    filled = np.where(there[:, np.newaxis, np.newaxis], every, usual)
    bright, grain = (share * filled[first] + (1 - share) * filled[second]).astype(np.float32)
    return Style(bright, grain, np.any(there, axis=0))


def _image(work: Work, mask: Mask, style: Style, rng: np.random.Generator) -> NDArray[np.float32]:
    """Run the generator over a whole label map at once: noise must not be blended."""
    divisor, flat = work.plan.network.divisor, work.plan.patch[2] == 1
    beyond = [(0, 0 if flat and axis == 2 else -side % divisor) for axis, side in enumerate(mask.shape)]
    given = torch.from_numpy(conditions(np.pad(mask, beyond), style, rng))
    with torch.inference_mode():
        image: NDArray[np.float32] = _generator(work.weights, json.dumps(config.dump(work.plan)))(given[None])[0].numpy()
    i, j, k = mask.shape
    return np.ascontiguousarray(image[:, :i, :j, :k])


@cache
def _generator(weights: bytes, plan: str) -> nn.Module:
    """Build the network once in each worker."""
    recipe = read_plan(json.loads(plan))
    task = task_of(recipe)
    network = build_model(recipe.network, task.inputs, task.channels, recipe.patch)
    network.load_state_dict(load(weights))
    return network.eval()


def _row(work: Work, name: str, mask: Mask, image: NDArray[np.float32]) -> SeriesRow:
    """Write an image and its label map, and describe them as a series of a person of its own."""
    modality = work.plan.modalities[0]
    voxels = np.clip(intensities(image, work.plan.intensity), -32768, 32767).astype(np.int16)
    volume = Volume(voxels, np.diag([*work.plan.spacing_mm, 1.0]), {"modality": modality, "synthetic": work.model})
    labels = work.plan.labels.from_channels(mask)
    stored = write_shard(work.root.join("volumes"), volume)
    label = write_shard(work.root.join("labels"), Volume(labels[np.newaxis], volume.affine))
    return SeriesRow(
        subject=name,
        study=name,
        series=name,
        time_point=0,
        when="",
        modality=modality,
        plane=(),
        channels=len(voxels),
        shape=volume.shape,
        spacing_mm=volume.spacing_mm,
        source_hash=stored.digest,
        intake="",
        instances=1,
        volume=stored.digest,
        volume_checksum=stored.checksum,
        label=label.digest,
        label_checksum=label.checksum,
        findings=(),
        statistics=measure(volume, labels, work.plan.labels),
        synthetic=work.model,
    )


def _commit(work: Work, prepared: Prepared, rows: Sequence[SeriesRow], judgement: Judgement) -> Cohort:
    """Write what the gate found, and the cohort of what isn't a copy."""
    kept = tuple(row for row in rows if row.series not in judgement.copies)
    detail = "nearer to a training image than any other person's image is"
    copies = tuple(QuarantineRow(source=name, reason="memorised", detail=detail) for name in judgement.copies)
    work.root.join(GATE_FILE).write(json.dumps(asdict(judgement), indent=1).encode())
    lineage = {
        "synthetic": work.model,
        "made_from": prepared.cohort,
        PEOPLE: " ".join(sorted(set(work.subjects))),
        "gate": "passed" if judgement.passed else "; ".join(judgement.why),
        "medray": __version__,
    }
    return commit_cohort(work.root, Contents(kept, copies, work.plan.labels), lineage)
