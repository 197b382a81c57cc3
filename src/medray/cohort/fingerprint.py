"""What a cohort is like, in the numbers that a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from medray.config import STRICT
from medray.imaging.labels import LabelSchema
from medray.imaging.volume import Volume
from medray.types import Mask

__all__ = ["Fingerprint", "SeriesStatistics", "combine", "measure"]

PERCENTILES = (0.5, 50.0, 99.5)
MAX_SAMPLED_VOXELS = 200_000


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SeriesStatistics:
    """What one series adds to the fingerprint.

    Attributes:
        percentiles: 0.5, 50 and 99.5 % of the foreground's intensities: labelled voxels or, without labels, those
            above the volume's mean.
        mean: The foreground's mean intensity.
        deviation: Its standard deviation.
        label_voxels: Label name to voxel count; empty without labels.
    """

    percentiles: tuple[float, float, float]
    mean: float
    deviation: float
    label_voxels: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Fingerprint:
    """Medians over a cohort's series.

    Attributes:
        series: How many.
        modalities: DICOM modality to count.
        spacing_mm: Median voxel spacing along L, P, S.
        extent_mm: Median field of view along L, P, S.
        percentiles: Medians of the series' foreground percentiles.
        mean: Median of the series' foreground means.
        deviation: Median of their deviations.
        label_share: Label name to its median share of the labelled voxels.
    """

    series: int
    modalities: Mapping[str, int]
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    percentiles: tuple[float, float, float]
    mean: float
    deviation: float
    label_share: Mapping[str, float]


def measure(volume: Volume, mask: Mask | None, schema: LabelSchema | None) -> SeriesStatistics:
    """Measure one series from at most 200,000 evenly spaced foreground voxels."""
    values = volume.voxels[0]
    foreground = values[mask > 0] if mask is not None and mask.any() else values[values > values.mean()]
    foreground = foreground if foreground.size else values.ravel()
    sample = foreground[:: max(1, foreground.size // MAX_SAMPLED_VOXELS)].astype(np.float64)
    low, middle, high = (float(value) for value in np.percentile(sample, PERCENTILES))
    voxels = {}
    if mask is not None and schema is not None:
        counts = np.bincount(mask.ravel(order="K"), minlength=256)
        voxels = {name: int(counts[value]) for name, value in schema.names.items()}
    return SeriesStatistics(
        percentiles=(low, middle, high), mean=float(sample.mean()), deviation=float(sample.std()), label_voxels=voxels
    )


def combine(rows: Sequence[Any]) -> Fingerprint:
    """Combine a manifest's rows (`medray.cohort.cohort.SeriesRow`) into a fingerprint; ``rows`` isn't empty."""
    spacing = np.median([row.spacing_mm for row in rows], axis=0)
    extent = np.median([np.multiply(row.shape, row.spacing_mm) for row in rows], axis=0)
    statistics = [row.statistics for row in rows]
    percentiles = np.median([item.percentiles for item in statistics], axis=0)
    modalities = {name: sum(row.modality == name for row in rows) for name in sorted({row.modality for row in rows})}
    labelled = [item.label_voxels for item in statistics if sum(item.label_voxels.values())]
    shares = [{name: count / sum(item.values()) for name, count in item.items()} for item in labelled]
    names = list(shares[0]) if shares else []
    return Fingerprint(
        series=len(rows),
        modalities=modalities,
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        extent_mm=(float(extent[0]), float(extent[1]), float(extent[2])),
        percentiles=(float(percentiles[0]), float(percentiles[1]), float(percentiles[2])),
        mean=float(np.median([item.mean for item in statistics])),
        deviation=float(np.median([item.deviation for item in statistics])),
        label_share={name: float(np.median([share.get(name, 0.0) for share in shares])) for name in names},
    )
