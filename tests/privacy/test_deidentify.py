import json
from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.data import get_testdata_file

from medray.privacy.deidentify import deidentify
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Plain, Pseudonyms
from medray.privacy.words import cleaned
from tests.privacy.corpus import Tokens, token_slice

KEY = Pseudonyms(b"k" * 32)
BASIC = parse_profile("basic")


def saved(dataset):
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_no_token_survives_at_any_depth():
    tokens = Tokens()
    dataset = token_slice(tokens, 0, 1)
    result = deidentify(dataset, BASIC, KEY).dataset
    assert len(tokens.planted) > 1500
    data = saved(result) + json.dumps(result.to_json_dict()).encode() + str(result).encode()
    assert [token for token in tokens.planted if token.encode() in data] == []
    assert saved(dataset).count(b"TOKLAST") == 1, "the input stays as it was"


@pytest.mark.parametrize("options", ["dates", "descriptors", "dates+descriptors"])
def test_cleaning_options_let_no_token_through(options):
    tokens = Tokens()
    result = deidentify(token_slice(tokens, 0, 1), parse_profile(f"basic+{options}"), KEY).dataset
    data = saved(result)
    assert [token for token in tokens.planted if token.encode() in data] == []


def test_what_the_options_keep():
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    source.PatientWeight, source.PatientSex, source.SeriesDescription = "70", "M", "AX CHEST w/o Smith, J 12345"
    kept = deidentify(source, parse_profile("basic+dates+patient+device+uids+descriptors+institution"), KEY).dataset
    assert kept.PatientWeight == 70
    assert kept.PatientSex == "M"
    assert kept.SOPInstanceUID == source.SOPInstanceUID
    assert kept.SeriesDescription == "CHEST w/o"
    assert kept.StationName == source.StationName
    assert kept.InstitutionName == source.InstitutionName
    assert kept.StudyDate != source.StudyDate
    assert kept.StudyTime == source.StudyTime
    codes = [(item.CodeValue, item.CodingSchemeDesignator) for item in kept.DeidentificationMethodCodeSequence]
    assert codes == [(code, "DCM") for code in ("113100", "113107", "113105", "113109", "113112", "113108", "113110")]
    assert kept.LongitudinalTemporalInformationModified == "MODIFIED"
    assert kept.PatientIdentityRemoved == "YES"


def test_the_basic_profile_keeps_what_a_scan_is():
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    result = deidentify(source, BASIC, KEY).dataset
    for keyword in ("Modality", "PixelSpacing", "ImagePositionPatient", "KVP", "Manufacturer", "Rows", "SOPClassUID"):
        assert result[keyword].value == source[keyword].value
    assert result.PixelData == source.PixelData
    assert result.StudyDate in ("", None)
    assert "PatientWeight" not in result
    assert result.PatientName == result.PatientID == KEY.name("subject", source.PatientID)
    assert "SourceApplicationEntityTitle" not in result.file_meta
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID


def test_workers_agree_without_talking():
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    first, second = (deidentify(source, BASIC, Pseudonyms(b"k" * 32)).dataset for _ in range(2))
    assert saved(first) == saved(second)
    other = deidentify(source, BASIC, Pseudonyms(b"l" * 32)).dataset
    assert other.SOPInstanceUID != first.SOPInstanceUID


@given(st.dates(min_value=__import__("datetime").date(1920, 1, 1)), st.integers(0, 4000), st.text(min_size=1, max_size=12))
def test_shifts_keep_intervals_and_are_a_patients_own(day, later, patient):
    from datetime import datetime, timedelta

    dataset = Dataset()
    dataset.PatientID = patient
    try:
        follow_up = day + timedelta(days=later)
    except OverflowError:
        return
    dataset.StudyDate, dataset.SeriesDate = f"{day:%Y%m%d}", f"{follow_up:%Y%m%d}"
    result = deidentify(dataset, parse_profile("basic+dates"), KEY, patient=patient).dataset
    moved, moved_later = (datetime.strptime(value, "%Y%m%d").date() for value in (result.StudyDate, result.SeriesDate))
    assert (moved_later - moved).days == later
    assert 1 <= (day - moved).days <= 3650


def test_a_kept_text_that_repeats_the_patient_is_emptied():
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID, dataset.Manufacturer = "Doe^Johanna", "99887766", "Maker of Johanna's scan"
    dataset.ScanOptions = "ID99887766"
    result = deidentify(dataset, BASIC, KEY).dataset
    assert not result.get("Manufacturer")
    assert not result.get("ScanOptions")


def test_unknown_attributes_go():
    dataset = Dataset()
    dataset.add_new(0x00080FFE, "LO", "Doe")
    dataset.add_new(0x00091001, "LO", "Doe")
    assert "Doe" not in str(deidentify(dataset, BASIC, KEY).dataset)


def test_the_profile_none_changes_nothing():
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    assert saved_equal(deidentify(source, parse_profile("none"), Plain()).dataset, source)


def saved_equal(first, second):
    return first.to_json_dict() == second.to_json_dict()


def test_actions_are_counted():
    actions = deidentify(pydicom.dcmread(get_testdata_file("CT_small.dcm")), BASIC, KEY).actions
    assert actions["U"] >= 4
    assert actions["X"] > 5


@given(st.text(max_size=60))
def test_cleaned_texts_hold_only_known_words(text):
    from medray.privacy.words import WORDS

    for word in cleaned(text).split():
        assert word.lower() in WORDS or (word.isdigit() and len(word) <= 2)
