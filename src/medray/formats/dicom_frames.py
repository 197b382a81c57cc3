"""The frames of one DICOM object: where each lies, and how its stored values become the modality's.

Sources: PS3.3 C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups), C.8.8.3.2 (frame offsets of RT Dose), C.11.1
(Modality LUT).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medray.errors import ImageError
from medray.formats.dicom_file import frame_count, numbers, text

__all__ = ["Frame", "frames_of"]

ORDER = (
    "EchoTime", "DiffusionBValue", "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "InstanceNumber",
)  # fmt: skip
PLANE_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One 2-D frame.

    Attributes:
        position: ImagePositionPatient, LPS mm, of the first pixel's centre; None for what has no place in the patient.
        orientation: ``(6,)``: directions of a row and of a column.
        spacing: mm between rows and between columns.
        thickness: SliceThickness in mm; 0 where the header doesn't say.
        between: SpacingBetweenSlices, mm to the next slice; 0 where the header doesn't say.
        slope: Stored value times this …
        intercept: … plus this is the modality's value.
        order: Tells apart frames at one position: echo, b-value, time and such, in that order.
    """

    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    between: float
    slope: float
    intercept: float
    order: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Which data sets say where a frame lies: the object itself, or its functional groups."""

    position: Dataset
    orientation: Dataset
    measures: Dataset


def frames_of(dataset: Dataset) -> list[Frame]:
    """Return an object's frames in their stored order.

    Raises:
        ImageError: If its geometry or its rescaling can't be understood.
    """
    count = frame_count(dataset)
    if "PerFrameFunctionalGroupsSequence" in dataset:
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        groups = dataset.PerFrameFunctionalGroupsSequence
        if len(groups) != count:
            raise ImageError("bad-frames", f"{count} frames are declared and {len(groups)} described")
        return [_grouped_frame(dataset, shared, group, number) for number, group in enumerate(groups)]
    if count > 1 and "GridFrameOffsetVector" in dataset and "ImagePositionPatient" in dataset:
        return _offset_frames(dataset, count)
    if count > 1 and "RECON" in text(dataset, "ImageType") and "DetectorInformationSequence" in dataset:
        return _tomographic_frames(dataset, count)
    frame = _plain_frame(dataset)
    if count > 1 and frame.position is not None:
        raise ImageError("no-geometry", f"{count} frames have one position between them")
    return [frame] * count


def _plain_frame(dataset: Dataset) -> Frame:
    order = tuple(_number(dataset, keyword) for keyword in ORDER)
    return _frame(dataset, _Groups(dataset, dataset, dataset), _rescale(dataset), order)


def _offset_frames(dataset: Dataset, count: int) -> list[Frame]:
    """Frames stacked along the normal by GridFrameOffsetVector, as RT Dose has them."""
    first = _plain_frame(dataset)
    offsets = numbers(dataset, "GridFrameOffsetVector", count)
    return _along_normal(first, numbers(dataset, "ImagePositionPatient", 3), offsets - offsets[0])


def _tomographic_frames(dataset: Dataset, count: int) -> list[Frame]:
    """Slices of a reconstructed SPECT (PS3.3 C.8.4.11, C.8.4.15): the first one's place, and a distance with its sign."""
    detectors = dataset.DetectorInformationSequence
    between = _number(dataset, "SpacingBetweenSlices")
    if "GATED" in text(dataset, "ImageType") or len(detectors) != 1 or not between:
        raise ImageError("no-geometry", f"{count} frames of a gated reconstruction, or without SpacingBetweenSlices")
    orientation = numbers(detectors[0], "ImageOrientationPatient", 6)
    origin = numbers(detectors[0], "ImagePositionPatient", 3)
    first = replace(_plain_frame(dataset), orientation=orientation, spacing=_pair(numbers(dataset, "PixelSpacing", 2)))
    return _along_normal(first, origin, between * np.arange(count, dtype=np.float64))


def _along_normal(first: Frame, origin: NDArray[np.float64], offsets: NDArray[np.float64]) -> list[Frame]:
    """Return frames whose distances from the first are all that places them."""
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    same = replace(first, thickness=0.0, between=0.0, order=(0.0,))
    return [replace(same, position=origin + offset * normal) for offset in offsets]


def _grouped_frame(dataset: Dataset, shared: Dataset, group: Dataset, number: int) -> Frame:
    def of(name: str) -> Dataset:
        for place in (group, shared):
            if place.get(name):
                found: Dataset = place[name].value[0]
                return found
        return Dataset()

    groups = _Groups(of("PlanePositionSequence"), of("PlaneOrientationSequence"), of("PixelMeasuresSequence"))
    rescale = _rescale(of("PixelValueTransformationSequence"), otherwise=dataset)
    order = (
        _number(of("MREchoSequence"), "EffectiveEchoTime"),
        _number(of("MRDiffusionSequence"), "DiffusionBValue"),
        _number(of("FrameContentSequence"), "TemporalPositionIndex"),
        _number(of("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime"),
        float(number),
    )
    return _frame(dataset, groups, rescale, order)


def _frame(dataset: Dataset, groups: _Groups, rescale: tuple[float, float], order: tuple[float, ...]) -> Frame:
    placed = "ImagePositionPatient" in groups.position and "ImageOrientationPatient" in groups.orientation
    return Frame(
        position=numbers(groups.position, "ImagePositionPatient", 3) if placed else None,
        orientation=numbers(groups.orientation, "ImageOrientationPatient", 6) if placed else np.array([1.0, 0, 0, 0, 1, 0]),
        spacing=_pair(numbers(groups.measures, "PixelSpacing", 2)) if placed else _plane_spacing(dataset),
        thickness=_number(groups.measures, "SliceThickness"),
        between=_number(groups.measures, "SpacingBetweenSlices"),
        slope=rescale[0],
        intercept=rescale[1],
        order=order,
    )


def _rescale(item: Dataset, otherwise: Dataset | None = None) -> tuple[float, float]:
    """Return slope and intercept; empty means the identity."""
    source = item if "RescaleSlope" in item or otherwise is None else otherwise
    if "DoseGridScaling" in source:
        return _number(source, "DoseGridScaling") or 1.0, 0.0
    if "ModalityLUTSequence" in source:
        return 1.0, 0.0
    try:
        slope, intercept = (
            float(source.get(key) or default) for key, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
    except (TypeError, ValueError):
        slope = intercept = float("nan")
    if not np.isfinite([slope, intercept]).all():
        raise ImageError("bad-rescale", "RescaleSlope or RescaleIntercept isn't a number")
    return slope, intercept


def _plane_spacing(dataset: Dataset) -> tuple[float, float]:
    """Return the mm between rows and columns of an image without a place in the patient; 1 where nothing says."""
    for keyword in PLANE_SPACINGS:
        if dataset.get(keyword):
            return _pair(numbers(dataset, keyword, 2))
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) == 1 and regions[0].get("PhysicalUnitsXDirection") == 3:  # centimetres, PS3.3 C.8.5.5.1.15
        down, along = _number(regions[0], "PhysicalDeltaY"), _number(regions[0], "PhysicalDeltaX")
        if down and along:
            return abs(down) * 10.0, abs(along) * 10.0
    return 1.0, 1.0


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _number(item: Dataset, keyword: str) -> float:
    try:
        value = float(item.get(keyword) or 0.0)
    except (TypeError, ValueError):
        return 0.0
    return value if np.isfinite(value) else 0.0
