"""`predict`: a registered model on one file."""

from __future__ import annotations

from pathlib import Path

from medray.audit import Event, open_trail
from medray.formats.image import dicom_files, files_at, read_image_files
from medray.inference.bundled import load_predictor
from medray.inference.prediction import Prediction
from medray.inference.recorded import kept_pseudonyms, recorded, sealed
from medray.inference.written import Format, checked, written
from medray.models.runtime import EXACT, Runtime
from medray.monitoring.journal import Journal
from medray.monitoring.records import records_root
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
    records: str = "",
) -> Prediction:
    """Predict on one image, write the result, and keep a record of it.

    Args:
        model: ``name``, ``name@alias`` or ``name/version``.
        source: A NIfTI, NRRD, MetaImage or DICOM file, a zip of DICOM or a DICOM folder.
        output: The file to write.
        form: See `medray.inference.written.written`.
        registry: The default one when None.
        runtime: What runs the network.
        records: URI of where records are kept; below ``MEDRAY_HOME`` where it is empty.

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
    files = files_at(Path(source))
    volume = read_image_files(files)
    predictor = load_predictor(store.fetch(version), runtime=runtime)
    prediction = predictor.predict(volume)
    data = written(prediction, form, str(version), lambda: dicom_files(files))
    journal = Journal(records_root(records))
    journal.share(recorded(version, predictor, prediction, volume, files, runtime, reference=_reference(Path(source))))
    locate(output).write(data)
    journal.move()
    open_trail().record([Event("model.predict", str(version))])
    return prediction


def _reference(source: Path) -> str:
    """Return where the image was; a folder may have other files beside the image's."""
    names = kept_pseudonyms()
    return sealed({"uri": str(source.resolve())}, names) if names and source.is_file() else ""
