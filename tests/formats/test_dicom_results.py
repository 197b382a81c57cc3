"""What a model said, as DICOM: read again by medray's own reader, by highdicom, and by DCMTK's tools."""

import shutil
import subprocess
from functools import partial
from io import BytesIO

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from medray.errors import ImageError, InputError
from medray.formats.dicom import read_dicom_series
from medray.formats.dicom_codes import code_of
from medray.formats.dicom_labels import read_dicom_labels
from medray.formats.dicom_results import Finding, Measurement, Source, write_report, write_segmentation
from medray.formats.dicom_series import write_dicom_series
from medray.imaging.volume import Volume
from tests.formats.test_dicom import WHO, volume
from tests.phantoms import orientations

TARGETS = {"grey-matter": 3, "core": 1}
MODEL = "brain/7"


def scene(turn=0, rotation=(0, 0, 0), shape=(12, 10, 6)):
    files = write_dicom_series(volume(list(orientations())[turn], rotation, shape=shape), WHO)
    image = read_dicom_series([partial(bytes, data) for data in files]).volume
    mask = np.random.default_rng(turn).choice(np.array([0, 1, 3], np.uint8), (1, *image.shape))
    return files, image, Volume(mask, image.affine)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 47), st.tuples(*[st.floats(-40, 40)] * 3), st.randoms())
def test_every_voxel_comes_back_whatever_the_orientation_and_the_files_order(turn, rotation, chance):
    files, image, mask = scene(turn, rotation)
    chance.shuffle(files)
    written = write_segmentation(mask, Source.of([*files, files[0]]), TARGETS, MODEL)
    assert np.array_equal(read_dicom_labels(written, image, TARGETS), mask.voxels[0])


def test_another_library_finds_the_same_voxels_at_the_same_places():
    files, _, mask = scene(9, (10, -20, 5))
    found = highdicom.seg.segread(BytesIO(write_segmentation(mask, Source.of(files), TARGETS, MODEL)))
    there = found.get_volume(combine_segments=True, skip_overlap_checks=True)
    for index in np.ndindex(*there.array.shape):
        place = there.affine @ [*index, 1]
        i, j, k = np.rint((np.linalg.inv(mask.affine) @ place)[:3]).astype(int)
        assert [0, 3, 1][there.array[index]] == mask.voxels[0, i, j, k]


def test_it_says_what_it_is_about_and_who_made_it():
    files, _, mask = scene()
    slices = [dcmread(BytesIO(data)) for data in files]
    found = dcmread(BytesIO(write_segmentation(mask, Source.of(files), TARGETS, MODEL)))
    assert found.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert found.StudyInstanceUID == slices[0].StudyInstanceUID
    assert found.PatientID == slices[0].PatientID
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == slices[0].SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {item.SOPInstanceUID for item in slices}
    grey, core = found.SegmentSequence
    assert (grey.SegmentLabel, grey.SegmentAlgorithmType, grey.SegmentAlgorithmName) == ("grey-matter", "AUTOMATIC", "brain")
    assert grey.SegmentedPropertyTypeCodeSequence[0].CodeValue == "389081007"
    assert core.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MEDRAY"


def test_the_same_result_is_the_same_object_and_another_version_s_another():
    files, _, mask = scene()
    source = Source.of(files)
    first, again, newer = (
        dcmread(BytesIO(write_segmentation(mask, source, TARGETS, model))).SOPInstanceUID for model in (MODEL, MODEL, "brain/8")
    )
    assert first == again != newer


def test_targets_that_overlap_keep_their_voxels():
    files, image, _ = scene(3)
    both = np.random.default_rng(0).integers(0, 2, (2, *image.shape)).astype(np.uint8)
    found = highdicom.seg.segread(
        BytesIO(write_segmentation(Volume(both, image.affine), Source.of(files), {"whole": 1, "core": 1}, MODEL))
    )
    for number, channel in enumerate(both, start=1):
        there = found.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        assert there.array.sum() == channel.sum()


def test_an_empty_mask_is_a_result_too():
    files, image, mask = scene()
    written = write_segmentation(mask.with_voxels(mask.voxels * 0), Source.of(files), TARGETS, MODEL)
    assert not read_dicom_labels(written, image, TARGETS).any()


def test_what_can_t_be_referred_to_is_refused():
    files, _, mask = scene()
    moved = mask.affine.copy()
    moved[:3, 3] += 0.4
    with pytest.raises(ImageError, match="own pixels"):
        write_segmentation(Volume(mask.voxels, moved), Source.of(files), TARGETS, MODEL)
    nowhere = dcmread(BytesIO(files[0]))
    del nowhere.FrameOfReferenceUID
    buffer = BytesIO()
    nowhere.save_as(buffer)
    with pytest.raises(InputError, match="no frame of reference"):
        Source.of([buffer.getvalue()])


FINDINGS = [
    Finding("lesion", "lesion 1", [Measurement("volume", 1.25, "ml"), Measurement("diameter", 14.0, "mm")]),
    Finding("pneumothorax", "pneumothorax", [Measurement("probability", 0.97, "1")]),
]


def test_a_report_has_each_number_with_its_code_and_unit():
    files, _, _ = scene()
    written = dcmread(BytesIO(write_report(FINDINGS, Source.of(files), MODEL)))
    assert written.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    report = highdicom.sr.srread(BytesIO(write_report(FINDINGS, Source.of(files), MODEL)))
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = report.content.get_image_measurement_groups()
    found = [
        (
            group.tracking_identifier,
            group.finding_type.value,
            [(item.name.meaning, item.value, item.unit.value) for item in group.get_measurements()],
        )
        for group in groups
    ]
    assert found == [
        ("lesion 1", "52988006", [("Volume", 1.25, "ml"), ("Diameter", 14.0, "mm")]),
        ("pneumothorax", code_of("pneumothorax").value, [("Probability", 0.97, "1")]),
    ]
    evidence = written.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == len(files)


@pytest.mark.services
@pytest.mark.skipif(not shutil.which("dsrdump"), reason="needs dcmtk")
def test_dcmtk_reads_the_report(tmp_path):
    files, _, _ = scene()
    (tmp_path / "sr.dcm").write_bytes(write_report(FINDINGS, Source.of(files), MODEL))
    done = subprocess.run(["dsrdump", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True)
    assert '"1.25" (ml,UCUM' in done.stdout
    assert "Lesion" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "scheme"),
    [
        ("white-matter", "389080008", "SCT"),
        ("grey-matter", "389081007", "SCT"),
        ("Liver", "10200004", "SCT"),
        ("my own label", "my-own-label", "99MEDRAY"),
        ("...", "-", "99MEDRAY"),
    ],
)
def test_names_have_codes(name, value, scheme):
    assert (code_of(name).value, code_of(name).scheme_designator) == (value, scheme)
