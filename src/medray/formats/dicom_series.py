"""A `Volume` to a DICOM MR or CT series, one single-frame object a slice (PS3.3 A.3 and A.4).

This is how medray's samples and tests come as hospitals' scanners send them. Identifiers are given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medray.errors import ImageError
from medray.imaging.volume import Volume

__all__ = ["SeriesIdentity", "write_dicom_series"]

SOP_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}
CT_INTERCEPT = -1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesIdentity:
    """Who and when a written series is.

    Attributes:
        patient: PatientID.
        study: Entropy for the study's UID: equal text gives an equal UID.
        series: Entropy for the series' UID.
        date: StudyDate, ``YYYYMMDD``.
        modality: ``"MR"`` or ``"CT"``.
    """

    patient: str
    study: str
    series: str
    date: str = "20200101"
    modality: str = "MR"


def write_dicom_series(volume: Volume, identity: SeriesIdentity) -> list[bytes]:
    """Write an int16 volume as a series, explicit VR little endian.

    MR values must be from 0 to 65535 with slope 1 and intercept 0; CT values are HU, stored with intercept -1024.

    Args:
        volume: One channel of integers whose axes are perpendicular.
        identity: Patient, study and series.

    Returns:
        One file a slice, K ascending.

    Raises:
        ImageError: If the values don't fit 16 unsigned bits after the intercept, or the axes are skewed.
    """
    stored = volume.voxels[0].astype(np.int32) - _intercept(identity.modality)
    if volume.voxels.shape[0] != 1 or stored.min() < 0 or stored.max() > 65535:
        raise ImageError("not-writable", "one channel of values that fit 16 unsigned bits is needed")
    directions = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise ImageError("not-writable", "the voxel axes aren't perpendicular; a DICOM series can't say that")
    return [_slice_file(volume, stored, k, identity) for k in range(volume.shape[2])]


def _slice_file(volume: Volume, stored: NDArray[np.int32], k: int, identity: SeriesIdentity) -> bytes:
    series_uid = generate_uid(entropy_srcs=[identity.patient, identity.series])
    uid = generate_uid(entropy_srcs=[identity.patient, identity.series, str(k)])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SOP_CLASSES[identity.modality]
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    item.SOPClassUID, item.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    item.StudyInstanceUID = generate_uid(entropy_srcs=[identity.patient, identity.study])
    item.SeriesInstanceUID = series_uid
    item.FrameOfReferenceUID = generate_uid(entropy_srcs=[identity.patient, identity.series, "frame"])
    item.PatientID, item.PatientName = identity.patient, identity.patient
    item.PatientBirthDate, item.PatientSex = "", ""
    item.StudyDate, item.StudyTime = identity.date, "120000"
    item.AccessionNumber, item.StudyID, item.ReferringPhysicianName = "", "", ""
    item.Modality, item.Manufacturer, item.SeriesNumber = identity.modality, "medray samples", 1
    item.InstanceNumber, item.PositionReferenceIndicator = k + 1, ""
    _write_plane(item, volume, k)
    _write_pixels(item, stored, k)
    _write_technique(item, identity.modality)
    buffer = BytesIO()
    item.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _write_plane(item: FileDataset, volume: Volume, k: int) -> None:
    along, down, through = volume.spacing_mm
    directions = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    position = volume.affine[:3, 3] + k * volume.affine[:3, 2]
    item.ImagePositionPatient = [f"{value:.10g}" for value in position]
    item.ImageOrientationPatient = [f"{value:.10f}" for value in (*directions[:, 0], *directions[:, 1])]
    item.PixelSpacing = [f"{down:.10g}", f"{along:.10g}"]
    item.SliceThickness = item.SpacingBetweenSlices = f"{through:.10g}"


def _write_pixels(item: FileDataset, stored: NDArray[np.int32], k: int) -> None:
    rows = stored[:, :, k].T
    bits = max(12, int(stored.max()).bit_length())
    item.Rows, item.Columns = rows.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, bits, bits - 1, 0
    item.RescaleSlope, item.RescaleIntercept = "1", str(_intercept(item.Modality))
    item.PixelData = np.ascontiguousarray(rows, dtype="<u2").tobytes()


def _write_technique(item: FileDataset, modality: str) -> None:
    item.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if modality == "CT" else ["DERIVED", "SECONDARY", "OTHER"]
    if modality == "CT":
        item.RescaleType, item.KVP, item.AcquisitionNumber = "HU", "120", 1
    else:
        item.ScanningSequence, item.SequenceVariant, item.ScanOptions = "GR", "NONE", ""
        item.MRAcquisitionType, item.EchoTime, item.EchoTrainLength, item.RepetitionTime = "3D", "3", 1, "2000"


def _intercept(modality: str) -> int:
    return CT_INTERCEPT if modality == "CT" else 0
