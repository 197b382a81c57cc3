"""What a model said of a DICOM series, as DICOM: a Segmentation, and a Structured Report of measurements.

Sources: PS3.3 A.51 and C.8.20 (Segmentation), PS3.16 TID 1500 (Measurement Report) and TID 1501 (Measurement Group). UIDs
follow from the series, the model's version and what is written: the same result is the same object, however often it is made.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medray.errors import ImageError, InputError
from medray.formats.dicom_codes import MEASURES, PROCEDURES, RESPONSES, UNITS, code_of
from medray.formats.dicom_file import text
from medray.formats.dicom_frames import frames_of
from medray.imaging.volume import Volume
from medray.types import Mask

__all__ = ["Finding", "Measurement", "Source", "tracking_uid", "write_report", "write_segmentation"]

MAKER = "medray"
GRID_TOLERANCE = 0.05
"""Voxels: how far a frame's pixels may lie from the grid."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number.

    Attributes:
        measure: A key of `MEASURES`.
        value: In ``unit``.
        unit: A key of `UNITS`.
    """

    measure: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was measured.

    Attributes:
        name: What it is, such as a label's name; see `code_of`.
        tracked: What tells it apart from others of that name.
        measurements: Of it.
        uid: By which it is known in reports of other studies; made from the series where it is empty.
        response: ``CR``, ``PR``, ``SD`` or ``PD`` by RECIST 1.1; none where it is empty.
    """

    name: str
    tracked: str
    measurements: Sequence[Measurement]
    uid: str = ""
    response: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The series that a result is about.

    Attributes:
        instances: Its objects, without pixels.
        series: SeriesInstanceUID.
    """

    instances: Sequence[Dataset]
    series: str

    @classmethod
    def of(cls, files: Sequence[bytes]) -> Source:
        """Read the headers of a series' files; files that are there twice count once.

        Raises:
            InputError: If a result can't refer to them: they have no frame of reference.
        """
        found = [dcmread(BytesIO(data), stop_before_pixels=True, force=True) for data in files]
        unique = list({text(dataset, "SOPInstanceUID"): dataset for dataset in found}.values())
        if any(not text(dataset, "FrameOfReferenceUID") for dataset in unique):
            raise InputError(
                "the series has no frame of reference, so that a DICOM result can't refer to it: ask for NIfTI or JSON"
            )
        return cls(unique, text(unique[0], "SeriesInstanceUID"))

    def uid(self, model: str, what: str) -> str:
        """Return the UID of a result: another one where the series has got further objects."""
        objects = sorted(text(dataset, "SOPInstanceUID") for dataset in self.instances)
        return str(generate_uid(entropy_srcs=[self.series, *objects, model, what]))


def tracking_uid(*facts: str) -> str:
    """Return a UID that follows from what is known of a finding: the same facts give the same UID."""
    return str(generate_uid(entropy_srcs=["tracking", *facts]))


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep highdicom from warning of names that have one part: a warning would say the patient's."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():  # warnings' filters are one for all threads
        warnings.simplefilter("ignore")
        yield


@_quiet()
def write_segmentation(mask: Volume, source: Source, targets: Mapping[str, int], model: str) -> bytes:
    """Write a mask as a DICOM Segmentation, a segment for each target.

    Args:
        mask: On the series' grid: one channel of label values or, where targets overlap, a channel of 0 and 1 for each.
        source: The series.
        targets: Name to label value, in the order of channels.
        model: ``name/version``.

    Raises:
        ImageError: If the mask doesn't lie on the series' grid.
        InputError: If the series can't be referred to.
    """
    planes = [_planes(dataset, mask) for dataset in source.instances]
    numbers = {value: number for number, value in enumerate(targets.values(), start=1)}
    pixels = np.concatenate([_numbered(plane, numbers) for plane in planes])
    name, _, version = model.partition("/")
    algorithm = hd.AlgorithmIdentificationSequence(name, codes.DCM.ArtificialIntelligence, version, source=MAKER)
    segments = [
        hd.seg.SegmentDescription(
            number,
            target[:64],
            codes.SCT.AnatomicalStructure,
            code_of(target),
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
            tracking_uid=source.uid(model, f"segment {target}"),
            tracking_id=target[:64],
        )
        for number, target in enumerate(targets, start=1)
    ]
    written = hd.seg.Segmentation(
        source.instances,
        pixels,
        hd.seg.SegmentationTypeValues.BINARY,
        segments,
        **_identity(source, model, "segmentation", 300),
        manufacturer=MAKER,
        manufacturer_model_name=name,
        software_versions=version or "1",
        device_serial_number="1",
        content_label="SEGMENTATION",
        series_description=f"{MAKER} {model}"[:64],
    )
    return _bytes(written)


@_quiet()
def write_report(findings: Sequence[Finding], source: Source, model: str) -> bytes:
    """Write measurements as a DICOM Structured Report by template TID 1500.

    Args:
        findings: What was measured.
        source: The series.
        model: ``name/version``.

    Raises:
        InputError: If the series can't be referred to.
    """
    name = model.partition("/")[0]
    observer = hd.sr.ObserverContext(
        codes.DCM.Device,
        hd.sr.DeviceObserverIdentifyingAttributes(str(generate_uid(entropy_srcs=[model])), MAKER, MAKER, name),
    )
    first = source.instances[0]
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(observer_device_context=observer),
        PROCEDURES.get(text(first, "Modality"), codes.LN.XRUnspecifiedBodyRegion),
        [_group(finding, source, model) for finding in findings],
        title=codes.DCM.ImagingMeasurementReport,
    )
    written = hd.sr.Comprehensive3DSR(
        source.instances,
        content[0],
        **_identity(source, model, "report", 301),
        manufacturer=MAKER,
        is_complete=True,
        series_description=f"{MAKER} {model}"[:64],
    )
    return _bytes(written)


def _group(finding: Finding, source: Source, model: str) -> Any:
    name, _, version = model.partition("/")
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(finding.uid or source.uid(model, f"finding {finding.tracked}"), finding.tracked[:64]),
        finding_type=code_of(finding.name),
        algorithm_id=hd.sr.AlgorithmIdentification(name, version or "1"),
        measurements=[
            hd.sr.Measurement(MEASURES[item.measure], float(item.value), UNITS[item.unit]) for item in finding.measurements
        ],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(codes.DCM.ResponseEvaluation, RESPONSES[finding.response])]
        if finding.response
        else None,
    )


def _identity(source: Source, model: str, what: str, number: int) -> dict[str, Any]:
    return {
        "series_instance_uid": source.uid(model, f"{what} series"),
        "series_number": number,
        "sop_instance_uid": source.uid(model, what),
        "instance_number": 1,
    }


def _planes(dataset: Dataset, mask: Volume) -> Mask:
    """Return the mask ``(frames, rows, columns, C)`` under each frame of an object."""
    inverse: NDArray[np.float64] = np.linalg.inv(mask.affine).astype(np.float64)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    return np.stack([_plane(frame, inverse, mask, (rows, columns)) for frame in frames_of(dataset)])


def _plane(frame: Any, inverse: NDArray[np.float64], mask: Volume, size: tuple[int, int]) -> Mask:
    if frame.position is None:
        raise InputError("a frame of the series has no place in the patient: ask for NIfTI or JSON")
    along_row, along_column = frame.orientation[:3] * frame.spacing[1], frame.orientation[3:] * frame.spacing[0]
    origin = inverse[:3, :3] @ frame.position + inverse[:3, 3]
    steps = np.stack([inverse[:3, :3] @ along_column, inverse[:3, :3] @ along_row])
    last = origin + (np.array(size) - 1) @ steps
    rounded = np.rint(origin).astype(int), np.rint(steps).astype(int)
    off = np.abs(np.stack([origin - rounded[0], last - (rounded[0] + (np.array(size) - 1) @ rounded[1])])).max()
    far = rounded[0] + (np.array(size) - 1) @ rounded[1]
    inside = all((place >= 0).all() and (place < mask.shape).all() for place in (rounded[0], far))
    if off > GRID_TOLERANCE or not inside:
        raise ImageError("other-grid", "the result doesn't lie on the series' own pixels: ask for NIfTI or JSON")
    row, column = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    i, j, k = (rounded[0][axis] + row * rounded[1][0, axis] + column * rounded[1][1, axis] for axis in range(3))
    plane: Mask = np.moveaxis(mask.voxels[:, i, j, k], 0, -1).astype(np.uint8)
    return plane


def _numbered(planes: Mask, numbers: Mapping[int, int]) -> Mask:
    """Return segment numbers ``(frames, rows, columns)`` or, of a mask of several channels, those as they are."""
    if planes.shape[-1] > 1:
        return planes
    table = np.zeros(256, np.uint8)
    for value, number in numbers.items():
        table[value] = number
    return table[planes[..., 0]]


def _bytes(dataset: Any) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
