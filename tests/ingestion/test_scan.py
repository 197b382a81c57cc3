from medray.formats.dicom import DicomHeader
from medray.ingestion.scan import FileRecord, assemble, identify
from medray.storage.location import locate


def nifti(path):
    return FileRecord(path, "nifti")


def dicom(path, series="1.1", instance=None, acquired="20200101", patient="P", study="9", has_pixels=True):
    return FileRecord(path, "dicom", DicomHeader(patient, study, series, instance or path, "MR", acquired, has_pixels))


def pairs(records, glob="*_dseg.nii*"):
    series, problems = assemble(records, glob)
    return {item.series: item.label for item in series}, [(p.source, p.reason) for p in problems]


def test_dicom_groups_by_series_and_counts_an_object_once():
    series, _ = assemble([dicom("a", "1", "x"), dicom("b", "1", "y"), dicom("copy of a", "1", "x"), dicom("c", "2", "z")], "*")
    assert {item.series: len(item.files) for item in series} == {"1": 2, "2": 1}


def test_objects_without_pixels_are_named():
    assert pairs([dicom("sr.dcm", has_pixels=False)]) == ({}, [("sr.dcm", "no-pixels")])


def test_labels_go_with_the_image_of_their_name():
    records = [nifti(f"s/{name}") for name in ("a_T1w.nii.gz", "b_T1w.nii.gz", "a_dseg.nii.gz", "b_dseg.nii.gz")]
    assert pairs(records) == ({"s/a_T1w.nii.gz": "s/a_dseg.nii.gz", "s/b_T1w.nii.gz": "s/b_dseg.nii.gz"}, [])


def test_a_label_that_two_images_could_own_goes_to_neither():
    found = pairs([nifti("s/a_FLAIR.nii"), nifti("s/a_T1w.nii"), nifti("s/a_dseg.nii")])
    assert found == ({"s/a_FLAIR.nii": "", "s/a_T1w.nii": ""}, [("s/a_dseg.nii", "label-without-image")])


def test_plain_names_pair_too():
    records = [nifti(f"s/{name}") for name in ("case1.nii.gz", "case2.nii.gz", "case1_dseg.nii.gz", "case2_dseg.nii.gz")]
    assert pairs(records) == ({"s/case1.nii.gz": "s/case1_dseg.nii.gz", "s/case2.nii.gz": "s/case2_dseg.nii.gz"}, [])


def test_labels_go_with_the_one_dicom_series_near_them():
    records = [dicom("p1/ses/dicom/1"), nifti("p1/ses/anat/p1_dseg.nii.gz"), dicom("p2/dicom/1", "2.2")]
    assert pairs(records) == ({"1.1": "p1/ses/anat/p1_dseg.nii.gz", "2.2": ""}, [])


def test_a_label_map_that_fits_nothing_or_is_second_is_a_problem():
    found = pairs([nifti("a/x_T1w.nii"), nifti("a/y_T1w.nii"), nifti("a/z_dseg.nii"), nifti("q/r/lonely_dseg.nii")])
    assert found[1] == [("a/z_dseg.nii", "label-without-image"), ("q/r/lonely_dseg.nii", "label-without-image")]
    both = pairs([nifti("a/x_T1w.nii"), nifti("a/x_dseg.nii"), nifti("a/x_dseg.nii.gz")])
    assert len(both[1]) == 1


def test_time_points_follow_the_dates():
    records = [dicom("b", "2", acquired="20210101", study="late"), dicom("a", "1", acquired="20200101", study="early")]
    series, _ = assemble(records, "*_dseg*")
    assert [(item.series, item.time_point) for item in series] == [("1", 0), ("2", 1)]


def test_bids_names_give_subject_and_session():
    series, _ = assemble(
        [nifti("sub-A/ses-2/anat/sub-A_ses-2_T1w.nii"), nifti("sub-A/ses-1/anat/sub-A_ses-1_T1w.nii")], "*_dseg*"
    )
    assert [(item.subject, item.study, item.time_point, item.modality) for item in series] == [
        ("sub-A", "ses-1", 0, "MR"),
        ("sub-A", "ses-2", 1, "MR"),
    ]
    series, _ = assemble([nifti("patient7/scan.nii")], "*_dseg*")
    assert (series[0].subject, series[0].modality) == ("patient7", "OT")


def test_identify_never_raises(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "fake.dcm").write_text("hello")
    (tmp_path / "fake.nii.gz").write_text("hello")
    (tmp_path / "half.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    place = locate(tmp_path)
    kinds = {path: (identify(place, path).kind, identify(place, path).reason) for path, _ in place.files()}
    assert kinds["notes.txt"] == ("other", "")
    assert kinds["fake.dcm"] == ("bad", "not-dicom")
    assert kinds["fake.nii.gz"] == ("bad", "not-nifti")
    assert kinds["half.dcm"][0] == "bad"
    assert identify(place, "gone.dcm").reason == "unreadable"
