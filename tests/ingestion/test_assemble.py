from dataclasses import replace

import numpy as np
import pytest

from medray.imaging.labels import LabelSchema
from medray.ingestion.assemble import assemble
from medray.ingestion.layouts import Layout, named_as
from medray.ingestion.scan import FileRecord, SeriesHeader
from medray.privacy.pseudonym import Plain

AXIAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
LAYOUT = Layout(LabelSchema({"x": 1}), "*_dseg.nii*")


def nifti(path):
    return FileRecord(path=path, kind="file", stamp=path)


def dicom(path, series="1.1", instance=None, **changes):
    facts = {
        "subject": "P", "study": "9", "series": series, "instance": instance or path, "when": "2020", "modality": "MR",
        "kind": "image", "size": (4, 4), "position": (0.0, 0.0, 0.0), "orientation": AXIAL, "localizer": False, "frames": 1,
        "references": (),
    }  # fmt: skip
    return FileRecord(path=path, kind="dicom", stamp=path, header=SeriesHeader(**facts | changes))


def pairs(records, layout=LAYOUT):
    series, problems = assemble(records, layout, Plain())
    named = {item.origin or item.series: "|".join(item.labels) for item in series}
    return named, [(p.source, p.reason) for p in problems]


def test_dicom_groups_by_series_and_counts_an_object_once():
    records = [dicom("a", "1", "x"), dicom("b", "1", "y"), dicom("copy of a", "1", "x"), dicom("c", "2", "z")]
    series, _ = assemble(records, LAYOUT, Plain())
    assert {item.origin: len(item.files) for item in series} == {"1": 2, "2": 1}
    assert [item.copies for item in series] == [(("a", "copy of a"),), ()]
    assert len(series[0].stamps) == 3, "another copy is another piece of work"


def test_a_copy_that_names_another_patient_is_refused():
    records = [dicom("a", "1", "x"), dicom("b", "1", "x", subject="Q")]
    assert pairs(records) == ({}, [("a", "mixed-patients")])


def test_a_stack_s_name_stays_when_others_come_and_grow():
    axial = [dicom(f"a{z}", position=(0.0, 0.0, float(z))) for z in range(9)]
    sagittal = [dicom(f"s{x}", position=(float(x), 0.0, 0.0), orientation=SAGITTAL) for x in range(12)]
    names = set()
    for some in (axial[:5], axial, [*axial, *sagittal[:7]], [*axial[:7], *sagittal], sagittal[4:]):
        series, _ = assemble(some, LAYOUT, Plain())
        names |= {(item.series, item.files[0][0]) for item in series}
    assert len(names) == 2


def test_slices_come_in_the_order_of_their_positions():
    records = [dicom(f"{z}", position=(5.0, 0.0, z)) for z in (3.0, -1.0, 2.0, 0.5)]
    series, _ = assemble(records, LAYOUT, Plain())
    assert series[0].files == ("-1.0", "0.5", "2.0", "3.0")


def test_objects_without_pixels_are_named():
    assert pairs([dicom("sr.dcm", kind="other")]) == ({}, [("sr.dcm", "no-pixels")])


@pytest.mark.parametrize("place", [0, 4])
def test_one_localizer_among_slices_costs_itself_alone(place):
    records = [dicom(f"m{z}", position=(0.0, 0.0, float(z)), localizer=z == place) for z in range(9)]
    series, problems = assemble(records, LAYOUT, Plain())
    assert [len(item.files) for item in series] == [8]
    assert [(p.source, p.reason) for p in problems] == [(f"m{place}", "localizer")]


def turned(angle):
    return (np.cos(angle), np.sin(angle), 0.0, -np.sin(angle), np.cos(angle), 0.0)


def test_stacks_a_little_apart_are_two_whoever_comes_with_them():
    radial = [dicom(f"{a}-{k}", position=(0.0, 0.0, k), orientation=turned(a / 50)) for a in range(3) for k in range(5)]
    names = {item.series for item in assemble(radial, LAYOUT, Plain())[0]}
    assert len(names) == 3
    assert assemble(radial[:5], LAYOUT, Plain())[0][0].series in names


def test_localizers_are_split_off():
    main = [dicom(f"m{z}", position=(0.0, 0.0, float(z))) for z in range(9)]
    mixed = [*main, dicom("s", orientation=SAGITTAL), dicom("o", size=(9, 9))]
    series, problems = assemble(mixed, LAYOUT, Plain())
    assert [len(item.files) for item in series] == [9]
    assert sorted((p.source, p.reason) for p in problems) == [("o", "localizer"), ("s", "localizer")]
    said_so = [dicom(f"l{z}", "2", position=(0.0, 0.0, float(z)), localizer=True) for z in range(9)]
    assert pairs(said_so) == ({}, [("l0", "localizer")])


def test_two_stacks_in_one_series_become_two():
    axial = [dicom(f"a{z}", position=(0.0, 0.0, float(z))) for z in range(9)]
    sagittal = [dicom(f"s{x}", position=(float(x), 0.0, 0.0), orientation=SAGITTAL) for x in range(7)]
    series, problems = assemble([*sagittal, *axial], LAYOUT, Plain())
    assert problems == []
    assert sorted(len(item.files) for item in series) == [7, 9]
    assert {item.origin for item in series} == {"1.1"}
    assert len({item.series for item in series}) == 2


def test_images_without_a_place_stand_for_themselves():
    records = [dicom("pa", position=(), orientation=()), dicom("lateral", position=(), orientation=(), size=(9, 9))]
    series, problems = assemble(records, LAYOUT, Plain())
    assert len({item.series for item in series}) == 2
    assert {item.origin for item in series} == {"1.1"}
    assert problems == []
    assert len(assemble([dicom("e1", frames=20), dicom("e2", frames=20)], LAYOUT, Plain())[0]) == 2


def test_segmentations_go_with_the_series_that_they_refer_to():
    seg = dicom("seg", "7", kind="segmentation", references=("1.1",), position=(), orientation=())
    structures = dicom("rt", "8", kind="structures", references=("1.1",), position=(), orientation=())
    lost = dicom("lost", "9", kind="segmentation", references=("5.5",))
    found = pairs([dicom("a"), seg, structures, lost])
    assert found == ({"1.1": "rt|seg"}, [("lost", "label-without-image")])


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


def test_labels_below_derivatives_are_found_by_their_entities():
    images = [nifti(f"sub-{n}/anat/sub-{n}_T1w.nii.gz") for n in (1, 2)]
    label = nifti("derivatives/me/sub-2/anat/sub-2_space-orig_desc-manual_dseg.nii.gz")
    found, problems = pairs([*images, label])
    assert problems == []
    assert found["sub-2/anat/sub-2_T1w.nii.gz"] == label.path


def test_a_label_map_that_fits_nothing_is_a_problem():
    found = pairs([nifti("a/x_T1w.nii"), nifti("a/y_T1w.nii"), nifti("a/z_dseg.nii"), nifti("q/r/lonely_dseg.nii")])
    assert found[1] == [("a/z_dseg.nii", "label-without-image"), ("q/r/lonely_dseg.nii", "label-without-image")]


def test_listed_pairs_win_over_names():
    layout = Layout(None, "*_dseg*", {"labelsTr/c1.nii.gz": "imagesTr/c1.nii.gz"}, "CT")
    records = [nifti("imagesTr/c1.nii.gz"), nifti("imagesTr/c2.nii.gz"), nifti("labelsTr/c1.nii.gz")]
    series, problems = assemble(records, layout, Plain())
    assert problems == []
    assert [(item.subject, item.modality, item.labels) for item in series] == [
        ("c1", "CT", ("labelsTr/c1.nii.gz",)),
        ("c2", "CT", ()),
    ]


def test_pictures_count_only_with_a_table():
    picture = FileRecord(path="img/1.png", kind="picture", stamp="1")
    assert pairs([picture]) == ({}, [])
    series, _ = assemble([picture], Layout(None, "*_dseg*", findings={"1.png": ("effusion",)}), Plain())
    assert series[0].findings == ("effusion",)


def test_bids_names_give_subject_and_session():
    named = named_as("sub-A/ses-2/anat/sub-A_ses-2_T1w.nii", LAYOUT)
    assert (named.subject, named.study, named.modality) == ("sub-A", "ses-2", "MR")
    named = named_as("patient7/scan.nii", LAYOUT)
    assert (named.subject, named.modality) == ("patient7", "OT")


def test_work_is_known_by_files_settings_and_labels():
    first, _ = assemble([nifti("s/a.nii")], LAYOUT, Plain())
    again, _ = assemble([nifti("s/a.nii")], LAYOUT, Plain())
    labelled, _ = assemble([nifti("s/a.nii"), nifti("s/a_dseg.nii")], LAYOUT, Plain())
    assert first[0].key("x") == again[0].key("x")
    assert len({first[0].key("x"), first[0].key("y"), labelled[0].key("x")}) == 3


def test_a_series_of_two_patients_or_studies_is_refused():
    for change in ({"subject": "Q"}, {"study": "8"}):
        records = [dicom("a"), dicom("b", position=(0.0, 0.0, 1.0), **change)]
        assert pairs(records) == ({}, [("a", "mixed-patients")])


def test_a_little_jitter_splits_nothing():
    jitter = [(1.0, 0.0, 0.005 + sign * 1e-5, 0.0, 1.0, 0.0) for sign in (1, -1) * 5]
    records = [dicom(f"{z}", position=(0.0, 0.0, float(z)), orientation=turned) for z, turned in enumerate(jitter)]
    series, problems = assemble(records, LAYOUT, Plain())
    assert ([len(item.files) for item in series], problems) == ([10], [])


def test_objects_without_a_uid_stay_apart():
    records = [dicom(f"{n}", instance="", position=(), orientation=()) for n in range(3)]
    for record in records:
        assert record.header is not None
    bare = [
        FileRecord(path=r.path, kind="dicom", stamp=r.stamp, header=replace(r.header, instance="")) for r in records if r.header
    ]
    assert len({item.series for item in assemble(bare, LAYOUT, Plain())[0]}) == 3


def test_a_label_is_no_other_images():
    found = pairs([nifti("s/anna.nii.gz"), nifti("s/bert_dseg.nii.gz")])
    assert found == ({"s/anna.nii.gz": ""}, [("s/bert_dseg.nii.gz", "label-without-image")])


def test_folders_of_a_set_are_no_subjects():
    assert named_as("train/patient0.nii.gz", LAYOUT).subject == "patient0"
    assert named_as("train/p7/t1.nii.gz", LAYOUT).subject == "p7"
