"""`predict`: a registered model on one file."""

from __future__ import annotations

from pathlib import Path

from medray.audit import Event, open_trail
from medray.formats.image import dicom_files_at, read_image_path
from medray.inference.bundled import load_predictor
from medray.inference.prediction import Prediction
from medray.inference.written import Format, checked, written
from medray.models.runtime import EXACT, Runtime
from medray.registry.registry import Registry
from medray.storage.location import locate

__all__ = ["Format", "predict"]


def predict(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    form: Format = "nifti",
    registry: Registry | None = None,
    runtime: Runtime = EXACT,
) -> Prediction:
    """Predict on one image and write the result.

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        source: A NIfTI, NRRD, MetaImage or DICOM file, a zip of DICOM or a DICOM folder.
        output: The file to write.
        form: See `medray.inference.written.written`.
        registry: The default one when None.
        runtime: What runs the network.

    Raises:
        NotFoundError: If the model or the source isn't there.
        ImageError: If the source can't be read.
        ConfigError: If the format is unknown, or the runtime isn't installed.
        InputError: If the model gives no such thing, or a DICOM result is asked for of a source that isn't DICOM.
    """
    checked(form)
    runtime.require()
    store = registry or Registry()
    version = store.resolve(model)
    volume = read_image_path(Path(source))
    prediction = load_predictor(store.fetch(version), runtime=runtime).predict(volume)
    locate(output).write(written(prediction, form, str(version), lambda: dicom_files_at(Path(source))))
    open_trail().record([Event("model.predict", str(version))])
    return prediction
