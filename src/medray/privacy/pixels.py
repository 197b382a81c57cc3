"""Names burned into pixels: which images are at risk, and what can be blanked.

The Basic Profile leaves pixels alone, and a header's BurnedInAnnotation is often wrong, so that risk follows from how an image
came to be: ultrasound and captured screens carry banners, reconstructed slices don't. What is at risk is redacted or refused,
never passed on in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medray.errors import ImageError
from medray.types import Voxels

__all__ = ["at_risk", "can_look", "redacted"]

SLICES = frozenset(("CT", "MR", "PT", "NM", "RTDOSE", "RTIMAGE", "SEG", "CR", "DX", "MG", "PX", "OCT", "IVOCT", "OPT", "PA"))
"""Modalities whose devices compute their images; all others, retired and unknown ones among them, may paint into them."""
RISKY_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture, all kinds
    "1.2.840.10008.5.1.4.1.1.3",  # ultrasound cines, retired ones too
    "1.2.840.10008.5.1.4.1.1.6",  # ultrasound images, retired ones too
    "1.2.840.10008.5.1.4.1.1.12.",  # X-ray angiography and fluoroscopy
    "1.2.840.10008.5.1.4.1.1.77.",  # visible light
)
USUALLY_CLEAN = frozenset(("CR", "DX", "MG", "PX"))
"""Radiographs: their header is believed when it says NO, and only then."""
MOST_COVERED = 0.9
MARGIN = 4
"""Pixels around a text that are blanked with it."""
MOST_LOOKS = 256
"""More frames than this are looked at some at a time, as the brightest and the darkest of them; a look takes 0.2 s."""
ALIKE = 0.9
"""Share of a plane's range above which its percentiles show nothing else."""
READABLE_SCORE, READABLE_LETTERS = 0.6, 3

Box = tuple[int, int, int, int]
"""First and last column, first and last row, both inside."""


def can_look() -> bool:
    """Tell whether there is a detector for text."""
    return find_spec("rapidocr_onnxruntime") is not None


def at_risk(header: Dataset) -> bool:
    """Tell whether an image may show text that somebody burned into it."""
    sop_class = str(header.get("SOPClassUID", ""))
    image_type = "\\".join(str(part) for part in header.get("ImageType") or []).upper()
    annotated, modality = str(header.get("BurnedInAnnotation", "")).upper(), str(header.get("Modality", "")).upper()
    return (
        annotated == "YES"
        or (modality in USUALLY_CLEAN and annotated != "NO")
        or modality not in SLICES
        or sop_class.startswith(RISKY_CLASSES)
        or "ConversionType" in header
        or "SCREEN" in image_type
    )


def redacted(voxels: Voxels, header: Dataset | None, *, samples: int = 1) -> Voxels:
    """Blank what may name a patient in an image at risk.

    Ultrasound keeps its scan regions alone (PS3.3 C.8.5.5); what text is left anywhere is found by an OCR detector and blanked,
    and looked for again.

    Args:
        voxels: ``(C, I, J, K)``; channels are frames x colour samples.
        header: Of the first object; None for a picture, which has none.
        samples: Colour samples of a frame.

    Returns:
        The same array when nothing was found, else a copy.

    Raises:
        ImageError: If neither regions nor a detector can vouch for it, or text is left after blanking.
    """
    header = header if header is not None else Dataset()
    regions = _regions(header)
    result = _outside_blanked(voxels, regions) if regions else voxels
    if not can_look():
        if regions and not _cover(regions, voxels.shape) and str(header.get("BurnedInAnnotation", "")).upper() != "YES":
            return result
        raise ImageError(
            "burned-in-text", "this kind of image may show names and nothing here can look: pip install 'medray[ocr]'"
        )
    found = [[box for picture in _pictures(plane) for box in _texts(picture)] for plane in _planes(result, samples)]
    if not any(found):
        return result
    result = _blanked(result, [box for boxes in found for box in boxes])
    # Where nothing was found before, nothing would be found now. Planes are the same ones; their pictures may be others now.
    again = (plane for boxes, plane in zip(found, _planes(result, samples), strict=True) if boxes)
    if any(_readable(picture) for plane in again for picture in _pictures(plane)):
        raise ImageError("burned-in-text", "text is left after blanking what was found: look at it before taking it in")
    return result


def _regions(header: Dataset) -> list[Box]:
    boxes = []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        try:
            left, right = int(region.RegionLocationMinX0), int(region.RegionLocationMaxX1)
            top, bottom = int(region.RegionLocationMinY0), int(region.RegionLocationMaxY1)
        except (AttributeError, TypeError, ValueError):
            return []
        if left > right or top > bottom:
            return []
        boxes.append((left, right, top, bottom))
    return boxes


def _cover(regions: Sequence[Box], shape: Sequence[int]) -> bool:
    """Tell whether scan regions leave no room for a banner, so that one may lie inside them."""
    covered = np.zeros(shape[1:3], bool)
    for left, right, top, bottom in regions:
        covered[left : right + 1, top : bottom + 1] = True
    return bool(covered.mean() > MOST_COVERED)


def _outside_blanked(voxels: Voxels, regions: Sequence[Box]) -> Voxels:
    result = np.full_like(voxels, voxels.min())
    for left, right, top, bottom in regions:
        window = np.s_[:, left : right + 1, top : bottom + 1]
        result[window] = voxels[window]
    return result


def _blanked(voxels: Voxels, boxes: Sequence[Box]) -> Voxels:
    result, lowest = voxels.copy(), voxels.min()
    for left, right, top, bottom in boxes:
        result[:, max(0, left - MARGIN) : right + MARGIN + 1, max(0, top - MARGIN) : bottom + MARGIN + 1] = lowest
    return result


def _planes(voxels: Voxels, samples: int) -> Iterator[NDArray[Any]]:
    """Yield planes ``(S, I, J)`` to look for text in: every frame of every slice, for a name may be in a single one."""
    frames = voxels.reshape(-1, samples, *voxels.shape[1:])
    flat = np.moveaxis(frames, 4, 1).reshape(-1, samples, *voxels.shape[1:3])
    for some in np.array_split(flat, min(len(flat), MOST_LOOKS)):
        yield some.max(axis=0)
        if len(some) > 1:
            yield some.min(axis=0)


def _pictures(plane: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures ``(J, I, 3)`` of a plane: in its own range, and without its few brightest and darkest pixels.

    Bright text stands out from bright tissue in the one, and shows beside a hot pixel in the other.
    """
    lowest, highest = float(plane.min()), float(plane.max())
    yield _picture(plane, lowest, highest)
    low, high = (float(value) for value in np.percentile(plane, (0.1, 99.9)))
    if high - low < ALIKE * (highest - lowest):
        yield _picture(plane, low, high)


def _picture(plane: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (plane.astype(np.float32) - np.float32(low)) * np.float32(255.0 / max(high - low, 1e-6))
    grey = scaled.clip(0, 255).transpose(2, 1, 0).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey[:, :, :3])


def _texts(picture: NDArray[np.uint8]) -> list[Box]:
    found, _ = _detector()(picture, use_det=True, use_cls=False, use_rec=False)
    corners = [np.array(outline) for outline in (found if found is not None else [])]
    return [
        (int(points[:, 0].min()), int(points[:, 0].max()) + 1, int(points[:, 1].min()), int(points[:, 1].max()) + 1)
        for points in corners
    ]


def _readable(picture: NDArray[np.uint8]) -> bool:
    """Tell whether a picture still shows something that reads as text: the detector alone also sees lines in tissue."""
    found, _ = _detector()(picture, use_det=True, use_cls=False, use_rec=True)
    return any(
        float(score) >= READABLE_SCORE and sum(letter.isalnum() for letter in text) >= READABLE_LETTERS
        for _, text, score in found or []
    )


_loaded: list[Callable[..., Any]] = []


def _detector() -> Callable[..., Any]:
    if not _loaded:
        from rapidocr_onnxruntime import RapidOCR  # noqa: PLC0415 - 2 s to load, for images at risk alone

        _loaded.append(RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1))
    return _loaded[0]
