"""A data set that holds a unique token wherever PS3.15's table names an attribute."""

from itertools import count

import numpy as np
from pydicom import DataElement, Dataset, Sequence
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medray.privacy.profile import table

DATE = 19870000
TEXTS = {"LO", "SH", "ST", "LT", "UT", "UC", "PN", "UR", "CS", "AE"}


class Tokens:
    """Hands out tokens and remembers them."""

    def __init__(self):
        self.numbers = count(1)
        self.planted = set()

    def value(self, vr):
        number = next(self.numbers)
        if vr == "UI":
            token = f"1.9.87.{9_000_000 + number}"
        elif vr == "DA":
            token = f"1987{1 + number % 12:02d}{1 + number % 28:02d}"
        elif vr == "DT":
            token = f"1987{1 + number % 12:02d}{1 + number % 28:02d}010203"
        elif vr in TEXTS or vr in {"UN", "OB"}:
            token = f"TOK{number:06d}Q"
        else:
            return None
        self.planted.add(token)
        return token.encode() if vr in {"UN", "OB"} else token


def plant(dataset, tokens, *, depth):
    """Give every listed attribute a token, and nest the same below an unlisted sequence."""
    for row in table():
        if "X" in row["tag"] or row["tag"].startswith("0002") or row["tag"] in {"00080016", "0020000D"}:
            continue
        tag = int(row["tag"], 16)
        if tag >> 16 in {0x0000, 0x0004}:
            continue
        vr = dictionary_VR(tag).split(" ")[0] if dictionary_has_tag(tag) else "UN"
        if vr == "SQ":
            item = Dataset()
            item.PatientName = tokens.value("PN")
            item.StudyDate = tokens.value("DA")
            item.add_new(0x00081155, "UI", tokens.value("UI"))
            dataset.add(DataElement(tag, "SQ", Sequence([item])))
            continue
        value = tokens.value(vr)
        if value is not None:
            dataset.add(DataElement(tag, vr, value))
    plant_private(dataset, tokens)
    for group in (0x6000, 0x6002):
        dataset.add_new(group << 16 | 0x0010, "US", 4)
        dataset.add_new(group << 16 | 0x0022, "LO", tokens.value("LO"))
        dataset.add_new(group << 16 | 0x3000, "OB", tokens.value("OB"))
        dataset.add_new(group << 16 | 0x4000, "LT", tokens.value("LT"))
    dataset.add_new(0x50000022, "LO", tokens.value("LO"))
    dataset.add_new(0x50003000, "OB", tokens.value("OB"))
    if depth:
        inner = Dataset()
        plant(inner, tokens, depth=depth - 1)
        dataset.add(DataElement(0x00189346, "SQ", Sequence([inner])))  # CTDI Phantom Type Code Sequence: unlisted


def plant_private(dataset, tokens):
    block = dataset.private_block(0x0019, "TOKEN VENDOR", create=True)
    block.add_new(0x01, "LO", tokens.value("LO"))
    block.add_new(0x02, "UN", tokens.value("UN"))
    inner = Dataset()
    inner.PatientName = tokens.value("PN")
    block.add_new(0x03, "SQ", Sequence([inner]))


def token_slice(tokens, k, series, *, depth=2):
    """One CT slice of a series, full of tokens."""
    dataset = Dataset()
    plant(dataset, tokens, depth=depth)
    dataset.PatientID, dataset.PatientName, dataset.IssuerOfPatientID = "TOKPATIENTID", "TOKLAST^TOKFIRST", "TOKISSUER"
    tokens.planted |= {"TOKPATIENTID", "TOKLAST", "TOKFIRST", "TOKISSUER"}
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.9.88.{series}.{k}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.9.88.1", f"1.9.88.2.{series}"
    tokens.planted |= {dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID}
    dataset.Modality = "CT"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 2.0 * k], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1.5, 1.25], 2
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 6, 8, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = np.random.default_rng(k).integers(0, 4000, (6, 8), dtype=np.uint16).tobytes()
    for name in ("NumberOfFrames", "IconImageSequence"):
        if name in dataset:
            del dataset[name]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = tokens.value("AE")
    dataset.file_meta = meta
    return dataset
