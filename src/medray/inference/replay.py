"""`replay`: a recorded prediction once more, on this machine's CPU, and whether it comes out the same to the last bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medray import config
from medray.audit import Event, open_trail
from medray.cohort.cohort import open_cohort
from medray.errors import ConflictError, InputError, NotFoundError
from medray.formats.image import files_at, read_image_files
from medray.formats.nrrd import write_nrrd
from medray.imaging.volume import Volume
from medray.inference.bundled import BundlePredictor, load_predictor
from medray.inference.prediction import Prediction
from medray.inference.predictor import Predictor
from medray.inference.seen import digest_of, input_digest, plan_digest
from medray.inference.workbench import workbench
from medray.models.runtime import Runtime, RuntimeName
from medray.monitoring.record import PredictionRecord
from medray.monitoring.records import find_record
from medray.privacy.pseudonym import Pseudonyms
from medray.registry.registry import Registry
from medray.storage.location import Location, locate

__all__ = ["Replay", "replay"]

MIXED = "+bf16"


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A prediction that was made again.

    Attributes:
        record: Of the first time.
        prediction: Of now.
        output_sha256: Of now.
        differs: What it was made by the first time, where that isn't what it was made by now: last bits may differ then.
    """

    record: PredictionRecord
    prediction: Prediction
    output_sha256: str
    differs: Mapping[str, str]

    @property
    def same(self) -> bool:
        """Whether both are the same to the last bit."""
        return self.output_sha256 == self.record.output_sha256


def replay(
    id_: str, records: Location, *, source: str | Path = "", cohort: str = "", registry: Registry | None = None
) -> Replay:
    """Make a recorded prediction again, by the same version and runtime.

    Args:
        id_: Of the prediction.
        records: Where they are.
        source: The image, a file or a folder with the files of one DICOM series, for a request that carried it.
        cohort: For an image of one.
        registry: The default one when None.

    Raises:
        NotFoundError: If there is no such record, or no such version any more.
        InputError: If the image isn't given where it must be, or isn't the one that was predicted on.
        ConflictError: If the record says of no answer, or the version's plan isn't what it was.
    """
    record = find_record(records, id_)
    if record.status != 200 or not record.output_sha256:
        said = f"was refused ({record.reason})" if record.status != 200 else "isn't complete: its process ended"
        raise ConflictError(f"prediction {id_} {said}, and has no answer to compare with")
    if not record.input_sha256:
        raise ConflictError(f"prediction {id_} is of scans that were aligned to each other: medray track makes it again")
    files = _files(record, str(source), cohort)
    if input_digest(files) != record.input_sha256:
        raise InputError(f"this isn't the image of prediction {id_}: its SHA-256 is {record.input_sha256[:16]}…")
    store = registry or Registry()
    version = store.resolve(f"{record.model}/{record.version}")
    by: RuntimeName = "openvino" if record.runtime.startswith("openvino") else "torch"
    runtime = Runtime(by, record.runtime.endswith(MIXED), record.threads)
    predictor = load_predictor(store.fetch(version), "cpu", runtime=runtime)
    if isinstance(predictor, Predictor) and plan_digest(predictor.plan) != record.plan_sha256:
        raise ConflictError(f"{version} has another plan than when prediction {id_} was made: its files were changed")
    open_trail().record([Event("model.replay", str(version), detail=id_)])
    prediction = _predicted(predictor, read_image_files(files), record)
    now = workbench(runtime, "cpu")
    differs = {name: then for name in now if (then := getattr(record, name)) and then != now[name]}
    return Replay(record, prediction, digest_of(prediction), differs)


def _predicted(predictor: Predictor | BundlePredictor, volume: Volume, record: PredictionRecord) -> Prediction:
    """Predict on as many threads, among as many copies: how a sum is shared out may show in its last bit."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(record.threads or before)
        prepared = predictor.prepare(volume)
        _, blocks = next(iter(predictor.activate([prepared] * max(1, record.together))))
        return predictor.finish(blocks, volume, prepared)
    finally:
        torch.set_num_threads(before)


def _files(record: PredictionRecord, source: str, cohort: str) -> list[bytes]:
    """Return the files of a record's image."""
    if source:
        return files_at(Path(source))
    kind, _, said = record.reference.partition(":")
    if kind == "image":
        return [_of_cohort(said, cohort)]
    uri = json.loads(Pseudonyms(config.read_key()).unseal(said)).get("uri", "") if kind == "sealed" else ""
    if not uri:
        raise InputError(f"prediction {record.id} keeps no image: give it with --input, as it was sent or as the PACS has it")
    place = locate(uri)
    return [place.join(entry.name).read() for entry in place.entries()] if place.is_folder() else [place.read()]


def _of_cohort(image: str, cohort: str) -> bytes:
    if not cohort:
        raise InputError(f"the prediction is of image {image} of a cohort: name that with --cohort")
    opened = open_cohort(cohort)
    row = next((row for row in opened.rows if row.series == image), None)
    if row is None:
        raise NotFoundError(f"cohort {opened.index.id} has no image {image}: an older version may")
    return write_nrrd(opened.volume(row), level=None)
