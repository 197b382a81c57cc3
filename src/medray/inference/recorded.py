"""A prediction's record: whose image it is, and what is kept of image and answer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from medray import config
from medray.cohort.manifest import SeriesRow
from medray.errors import ConfigError, InputError
from medray.formats.dicom_scanner import Scanner, scanner_of
from medray.formats.image import one_dicom_file
from medray.imaging.volume import Volume
from medray.inference.bundled import BundlePredictor
from medray.inference.prediction import Prediction
from medray.inference.predictor import Predictor
from medray.inference.seen import digest_of, input_digest, plan_digest, seen_in
from medray.inference.workbench import workbench
from medray.models.runtime import Runtime
from medray.monitoring.record import PredictionRecord
from medray.privacy.pseudonym import Pseudonyms
from medray.registry.version import ModelVersion

__all__ = ["kept_pseudonyms", "nameless", "of_row", "recorded", "sealed", "whose"]

SITE_LETTERS = 8
"""Of a site's pseudonym: there are few, and people read them."""


def recorded(
    version: ModelVersion,
    predictor: Predictor | BundlePredictor,
    prediction: Prediction,
    volume: Volume,
    files: Sequence[bytes],
    runtime: Runtime,
    **facts: Any,
) -> PredictionRecord:
    """Return the record of a prediction that was made in this thread, alone.

    Args:
        version: Of the model.
        predictor: The model.
        prediction: What it said.
        volume: Of what.
        files: The image's, as they were read; none of one that nobody will ask for again.
        runtime: What ran the network.
        **facts: Fields of `PredictionRecord` that are known beside.
    """
    seen = seen_in(volume, prediction)
    names = kept_pseudonyms()
    known = whose(files, names) | facts
    return PredictionRecord(
        id=secrets.token_hex(12),
        at=datetime.now(UTC),
        model=version.name,
        version=version.version,
        task=predictor.task,
        input_sha256=input_digest(files) if files else "",
        input_bytes=sum(map(len, files)),
        plan_sha256=plan_digest(predictor.plan) if isinstance(predictor, Predictor) else "",
        **workbench(runtime),
        threads=torch.get_num_threads() if runtime.name == "torch" else runtime.threads,
        output_sha256=digest_of(prediction),
        numbers=dict(seen.numbers),
        groups={**nameless(seen.groups, names), **known.pop("groups", {})},
        latencies={stage: 1000 * seconds for stage, seconds in prediction.latencies.items()},
        embedding=() if seen.embedding is None else tuple(round(float(value), 6) for value in seen.embedding),
        **known,
    )


def whose(files: Sequence[bytes], names: Pseudonyms | None) -> dict[str, Any]:
    """Return fields of a record, as pseudonyms: ``subject``, ``study``, ``series``, and ``groups`` of the scanner.

    Args:
        files: The image's; what isn't DICOM says nothing.
        names: Give pseudonyms; without them nothing is said.
    """
    scanner = _scanner(files) if names else None
    if scanner is None or names is None:
        return {}
    groups = nameless({"site": scanner.site} if scanner.site else {}, names)
    model = " ".join(word for word in (scanner.manufacturer, scanner.model) if word)
    if model:
        groups |= {"manufacturer": scanner.manufacturer, "scanner": model}
    found: dict[str, Any] = {"subject": names.name("subject", scanner.patient)} if scanner.patient else {}
    return found | {
        "study": names.name("study", scanner.study),
        "series": names.name("series", scanner.series),
        "groups": groups,
    }


def of_row(row: SeriesRow) -> dict[str, str]:
    """Return fields of a record that say which image of a cohort it is of."""
    return {"reference": f"image:{row.series}", "subject": row.subject, "study": row.study, "series": row.series}


def nameless(groups: Mapping[str, str], names: Pseudonyms | None) -> dict[str, str]:
    """Return groups whose site has a pseudonym, the same for images of a cohort and over HTTP; none where there is no key."""
    rest = {kind: group for kind, group in groups.items() if kind != "site"}
    site = groups.get("site")
    return rest | ({"site": names.name("source", site)[:SITE_LETTERS]} if site and names else {})


def sealed(reference: Mapping[str, str], names: Pseudonyms) -> str:
    """Return where an image was, readable for who has the key: a record's ``reference``."""
    return f"sealed:{names.seal(json.dumps(dict(reference)))}"


def kept_pseudonyms() -> Pseudonyms | None:
    """Return what gives pseudonyms; None where there is no key, and nobody can be named, not even by another name."""
    try:
        return Pseudonyms(config.read_key())
    except ConfigError:
        return None


def _scanner(files: Sequence[bytes]) -> Scanner | None:
    try:
        file = one_dicom_file(files[0]) if files else None
        return scanner_of(file) if file is not None else None
    except InputError:
        return None
