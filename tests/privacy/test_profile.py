import importlib

import pytest

from medray.errors import ConfigError
from medray.privacy.profile import METHOD_CODES, parse_profile, table


def test_the_table_agrees_with_a_second_source_on_every_basic_action():
    """dicom-anonymizer carries the basic column of an edition of the same year, made from the standard by other people."""
    theirs = importlib.import_module("dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c")
    names = ("D", "Z", "X", "U", "Z_D", "X_Z", "X_D", "X_Z_D", "X_Z_U_STAR")
    other = {tuple(tag[:2]): name for name in names for tag in getattr(theirs, f"{name}_TAGS")}
    exact = [row for row in table() if "X" not in row["tag"]]
    found = {
        (int(row["tag"][:4], 16), int(row["tag"][4:], 16)): row["basic"].replace("/", "_").replace("*", "_STAR")
        for row in exact
    }
    shared = found.keys() & other.keys()
    assert len(shared) > 640
    assert {tag: found[tag] for tag in shared} == {tag: other[tag] for tag in shared}


def test_options_change_only_what_the_standard_lets_them():
    basic, dates = parse_profile("basic"), parse_profile("basic+dates")
    assert basic.action(0x00080020) == "Z"
    assert dates.action(0x00080020) == "C"
    assert basic.action(0x00101030) == "X"
    assert parse_profile("basic+patient").action(0x00101030) == "K"
    assert parse_profile("basic+uids").action(0x0020000D) == "K"
    assert basic.action(0x0020000D) == "U"
    assert parse_profile("basic+descriptors").action(0x0008103E) == "C"
    assert basic.action(0x00091001) == "X"
    assert basic.action(0x50200010) == "X"
    assert basic.action(0x60023000) == "X"
    assert basic.action(0x00280010) is None


def test_words_of_a_profile():
    assert str(parse_profile("basic+uids+dates")) == "basic+dates+uids"
    assert str(parse_profile("none")) == "none"
    assert parse_profile("none").identified
    for text in ("strict", "basic+names", "dates", "none+dates"):
        with pytest.raises(ConfigError, match="options are dates"):
            parse_profile(text)


def test_every_option_has_its_method_code():
    assert set(METHOD_CODES) >= {"basic", "dates", "uids", "device", "institution", "patient", "descriptors"}
