"""`predict`: a registered model on one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from medray.audit import Event, open_trail
from medray.errors import ConfigError
from medray.formats.image import read_image_path
from medray.formats.nifti import write_nifti
from medray.formats.nrrd import write_nrrd
from medray.inference.predictor import Prediction, Predictor
from medray.registry.registry import Registry
from medray.storage.location import locate

__all__ = ["Format", "predict"]

Format = Literal["nifti", "nrrd", "json"]


def predict(
    model: str, source: str | Path, output: str | Path, *, form: Format = "nifti", registry: Registry | None = None
) -> Prediction:
    """Predict on one image and write the result.

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        source: A NIfTI, NRRD, MetaImage or DICOM file, a zip of DICOM or a DICOM folder.
        output: The file to write.
        form: ``"nifti"`` or ``"nrrd"``: the mask of a segmentation or the saliency of a diagnosis on the source grid, gzip;
            ``"json"``: volumes in ml, probabilities or boxes.
        registry: The default one when None.

    Raises:
        NotFoundError: If the model or the source isn't there.
        ImageError: If the source can't be read.
        ConfigError: If the format is unknown.
        InputError: If an image is asked for and the model gives none.
    """
    if form not in ("nifti", "nrrd", "json"):
        raise ConfigError(f"format {form!r} is unknown: use nifti, nrrd or json")
    store = registry or Registry()
    version = store.resolve(model)
    volume = read_image_path(Path(source))
    prediction = Predictor.load(store.fetch(version)).predict(volume)
    if form == "nifti":
        data = write_nifti(prediction.image)
    elif form == "nrrd":
        data = write_nrrd(prediction.image)
    else:
        data = json.dumps({"model": str(version), **prediction.plain()}).encode()
    locate(output).write(data)
    open_trail().record([Event("model.predict", str(version))])
    return prediction
