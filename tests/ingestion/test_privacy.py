"""Nothing of a patient leaves: a corpus with a unique token wherever one can hide, and a search of every byte that came out."""

import json
import logging
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from isal import igzip
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset

import medray
from tests.privacy.corpus import Tokens, token_slice

pytestmark = pytest.mark.ray


def dicom_bytes(dataset):
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def structured_report(tokens):
    report, item = Dataset(), Dataset()
    item.ValueType, item.TextValue, item.PersonName = "TEXT", tokens.value("UT"), tokens.value("PN")
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", tokens.value("UI")
    report.StudyInstanceUID, report.SeriesInstanceUID = tokens.value("UI"), tokens.value("UI")
    report.Modality, report.PatientID, report.ContentSequence = "SR", tokens.value("LO"), Sequence([item])
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    report.file_meta.MediaStorageSOPClassUID, report.file_meta.MediaStorageSOPInstanceUID = (
        report.SOPClassUID,
        report.SOPInstanceUID,
    )
    return dicom_bytes(report)


def nifti(tokens):
    image = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 99, (6, 5, 4)).astype(np.int16), np.eye(4))
    image.header["descrip"], image.header["aux_file"] = tokens.value("UN"), tokens.value("UN")
    image.header["db_name"], image.header["intent_name"] = tokens.value("UN"), tokens.value("UN")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", tokens.value("UN")))
    return image.to_bytes()


def picture(tokens):
    out, info = BytesIO(), PngInfo()
    info.add_text("Comment", tokens.value("LO"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 8), dtype=np.uint8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def write_corpus(folder, tokens):
    """Good and bad files, whose names are tokens too."""

    def name():
        return tokens.value("LO")

    series = folder / name()
    series.mkdir(parents=True)
    for k in range(4):
        (series / f"{name()}.dcm").write_bytes(dicom_bytes(token_slice(tokens, k, 1)))
    holes = folder / name()
    holes.mkdir()
    for k in (0, 1, 2, 4):
        (holes / f"{name()}.dcm").write_bytes(dicom_bytes(token_slice(tokens, k, 2)))
    (folder / f"{name()}.dcm").write_bytes(structured_report(tokens))
    (folder / f"{name()}.dcm").write_text(f"not DICOM but {name()}")
    (folder / f"{name()}.dcm").write_bytes(dicom_bytes(token_slice(tokens, 0, 3))[:3000])
    for _ in range(2):
        (folder / f"{name()}.nii").write_bytes(nifti(tokens))
    (folder / f"{name()}.nii.gz").write_bytes(nifti(tokens)[:400])
    (folder / f"{name()}.png").write_bytes(picture(tokens))
    (folder / "labels.csv").write_text("file,label\n")


def everything_below(folder):
    """All that a cohort's files say, out of their containers."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        yield str(file.relative_to(folder)).encode()
        data = file.read_bytes()
        yield data
        if file.suffix == ".parquet":
            rows = pq.read_table(file).to_pylist()
            yield json.dumps([{k: v for k, v in row.items() if not isinstance(v, bytes)} for row in rows], default=str).encode()
        if file.name.endswith(".json.gz"):
            yield igzip.decompress(data)


def survivors(tokens, blobs):
    blobs = list(blobs)
    return sorted(token for token in tokens if any(token.encode() in blob for blob in blobs))


@pytest.mark.parametrize("profile", ["basic", "basic+dates+descriptors"])
def test_no_token_in_any_output_byte(local_ray, tmp_path, monkeypatch, capfd, caplog, profile):
    import ray

    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MEDRAY_HOME", str(tmp_path / "home"))
    tokens = Tokens()
    write_corpus(tmp_path / "source", tokens)
    cohort = medray.ingest(tmp_path / "source", tmp_path / "cohort", profile=profile)
    assert len(cohort.rows) == 4
    assert {row.reason for row in cohort.quarantine} >= {"missing-slices", "no-pixels", "not-an-image", "truncated"}
    medray.ingest(tmp_path / "source", tmp_path / "cohort", profile=profile)
    out = capfd.readouterr()
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    blobs = [
        *everything_below(tmp_path / "cohort"), *everything_below(tmp_path / "home"), *everything_below(logs),
        out.out.encode(), out.err.encode(), caplog.text.encode(),
    ]  # fmt: skip
    assert len(tokens.planted) > 10_000
    assert sum(len(blob) for blob in blobs) > 50_000
    assert survivors(tokens.planted, blobs) == []


def test_the_search_would_find_a_token(tmp_path):
    tokens = Tokens()
    write_corpus(tmp_path / "source", tokens)
    assert len(survivors(tokens.planted, everything_below(tmp_path / "source"))) > 0.85 * len(tokens.planted)


def test_a_name_where_the_body_part_should_be_reaches_no_meta(tmp_path):
    from tests.phantoms import take_in_all

    tokens = Tokens()
    (tmp_path / "s").mkdir()
    for k in range(3):
        item = token_slice(tokens, k, 1)
        item.PatientName, item.BodyPartExamined = "MUELLER^HANS", "MUELLER_HANS"
        (tmp_path / "s" / f"{k}.dcm").write_bytes(dicom_bytes(item))
    cohort = take_in_all(tmp_path / "s", tmp_path / "c")
    assert "MUELLER" not in str(cohort.volume(cohort.rows[0]).meta).upper()


def test_headers_are_kept_as_dicom_json_and_signed(local_ray, tmp_path):
    tokens = Tokens()
    (tmp_path / "s").mkdir()
    for k in range(3):
        (tmp_path / "s" / f"{k}.dcm").write_bytes(dicom_bytes(token_slice(tokens, k, 1)))
    cohort = medray.ingest(tmp_path / "s", tmp_path / "c")
    meta = cohort.volume(cohort.rows[0]).meta
    header = Dataset.from_json(meta["dicom"])
    assert header.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in header.DeidentificationMethodCodeSequence] == ["113100"]
    assert header.PatientID == cohort.rows[0].subject
    assert header.Rows == 6
    assert len(meta["instances"].split("\\")) == 3
    assert header.SOPInstanceUID == meta["instances"].split("\\")[0]


def ultrasound(text=""):
    from PIL import ImageDraw

    pixels = np.random.default_rng(0).normal(60, 12, (240, 320)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if text:
        ImageDraw.Draw(picture).text((10, 6), text, fill=250)
    item = token_slice(Tokens(), 0, 9, depth=0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del item[keyword]
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    item.Modality, item.BitsAllocated, item.BitsStored, item.HighBit = "US", 8, 8, 7
    item.Rows, item.Columns, item.PixelData = 240, 320, np.asarray(picture).tobytes()
    return dicom_bytes(item), np.asarray(picture)


def test_burned_in_names_are_blanked_or_refused(local_ray, tmp_path, monkeypatch):
    from medray.privacy import pixels

    data, picture = ultrasound("DOE, JOHN 1950-01-01")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "us.dcm").write_bytes(data)
    cohort = medray.ingest(tmp_path / "s", tmp_path / "c")
    kept = cohort.volume(cohort.rows[0]).voxels[0, :, :, 0].T
    assert not pixels._readable(next(pixels._pictures(kept.T[None])))
    assert (kept[30:] == picture[30:]).mean() > 0.99, "the image below the banner stays"
    header = Dataset.from_json(cohort.volume(cohort.rows[0]).meta["dicom"])
    assert header.BurnedInAnnotation == "NO"
    assert [item.CodeValue for item in header.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert (kept[4:20, 8:120] != picture[4:20, 8:120]).any()
    plain, _ = ultrasound()
    (tmp_path / "s" / "us.dcm").write_bytes(plain)
    assert len(medray.ingest(tmp_path / "s", tmp_path / "d").rows) == 1


def test_what_nothing_can_look_at_is_quarantined(tmp_path, monkeypatch):
    from tests.phantoms import take_in_all

    monkeypatch.setattr("medray.privacy.pixels.find_spec", lambda name: None)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "us.dcm").write_bytes(ultrasound("DOE, JOHN")[0])
    cohort = take_in_all(tmp_path / "s", tmp_path / "c")
    assert [row.reason for row in cohort.quarantine] == ["burned-in-text"]
    assert len(take_in_all(tmp_path / "s", tmp_path / "d", profile="none").rows) == 1
