"""A prediction as a file: the one table of formats, for the command line, Python and HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from medray.errors import ConfigError
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import write_nrrd
from medray.inference.prediction import Prediction

if TYPE_CHECKING:
    from medray.formats.dicom_results import Finding

__all__ = ["FORMATS", "SUFFIXES", "Format", "checked", "written"]

Format = Literal["nifti", "nrrd", "seg-nrrd", "json", "dicom-seg", "dicom-sr"]
Files = Callable[[], Sequence[bytes]]
Writer = Callable[[Prediction, str, Files], bytes]


def checked(form: str) -> Format:
    """Return a format's name.

    Raises:
        ConfigError: If it is unknown.
    """
    found = next((known for known in FORMATS if known == form), None)
    if found is None:
        raise ConfigError(f"format {form!r} is unknown: use one of {', '.join(FORMATS)}")
    return found


def written(prediction: Prediction, form: Format, model: str, files: Files) -> bytes:
    """Write a prediction.

    Args:
        prediction: What the model said.
        form: ``"nifti"`` or ``"nrrd"``: the mask of a segmentation or the saliency of a diagnosis on the source grid, gzip;
            ``"seg-nrrd"``: the mask as 3D Slicer's own segmentation, one channel, not compressed; ``"json"``: volumes in ml,
            probabilities or boxes; ``"dicom-seg"``: the mask as a DICOM Segmentation of the source series; ``"dicom-sr"``:
            volumes, probabilities or boxes' diameters as a DICOM Structured Report, TID 1500.
        model: ``name/version``.
        files: Gives the source's DICOM files, for DICOM results.

    Raises:
        InputError: If the model gives no such thing, or the source is no DICOM series.
    """
    return FORMATS[form](prediction, model, files)


def _json(prediction: Prediction, model: str, files: Files) -> bytes:
    return json.dumps({"model": model, **prediction.plain()}).encode()


def _segments(prediction: Prediction, model: str, files: Files) -> bytes:
    """Write a .seg.nrrd (Slicer's "Segmentations" developer guide); of regions that overlap, a later one lies on top."""
    mask = prediction.mask
    flat = mask.voxels[:1].copy()
    values = dict(zip(prediction.values, range(1, 256), strict=False)) if len(mask.voxels) > 1 else prediction.values
    for channel, value in zip(mask.voxels if len(mask.voxels) > 1 else (), values.values(), strict=False):
        flat[0][channel > 0] = value
    facts = {
        f"Segment{number}_{key}": str(said)
        for number, (name, value) in enumerate(values.items())
        for key, said in {"ID": name, "Name": name, "LabelValue": value, "Layer": 0}.items()
    }
    return write_nrrd(mask.with_voxels(flat), level=None, facts=facts)


def _segmentation(prediction: Prediction, model: str, files: Files) -> bytes:
    from medray.formats.dicom_results import Source, write_segmentation  # noqa: PLC0415 - highdicom takes a second to import

    return write_segmentation(prediction.mask, Source.of(files()), prediction.values, model)


def _report(prediction: Prediction, model: str, files: Files) -> bytes:
    from medray.formats.dicom_results import Source, write_report  # noqa: PLC0415

    return write_report(_findings(prediction), Source.of(files()), model)


def _findings(prediction: Prediction) -> list[Finding]:
    from medray.formats.dicom_results import Finding, Measurement  # noqa: PLC0415

    spacing = np.linalg.norm(prediction.affine[:3, :3], axis=0)
    return [
        *(Finding(name, name, [Measurement("volume", value, "ml")]) for name, value in prediction.volumes_ml.items()),
        *(
            Finding(name, name, [Measurement("probability", value, "1")])
            for name, value in prediction.answer.probabilities.items()
        ),
        *(
            Finding(
                box.label,
                f"{box.label} {number}",
                [
                    Measurement("probability", box.score, "1"),
                    Measurement("diameter", float((np.subtract(box.high, box.low) * spacing).max()), "mm"),
                ],
            )
            for number, box in enumerate(prediction.answer.boxes, start=1)
        ),
    ]


FORMATS: dict[Format, Writer] = {
    "nifti": lambda prediction, model, files: write_nifti(prediction.image),
    "nrrd": lambda prediction, model, files: write_nrrd(prediction.image),
    "seg-nrrd": _segments,
    "json": _json,
    "dicom-seg": _segmentation,
    "dicom-sr": _report,
}
SUFFIXES: dict[Format, str] = {
    "nifti": ".nii.gz",
    "nrrd": ".nrrd",
    "seg-nrrd": ".seg.nrrd",
    "json": ".json",
    "dicom-seg": ".dcm",
    "dicom-sr": ".dcm",
}
