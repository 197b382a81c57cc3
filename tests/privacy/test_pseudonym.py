import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medray.config import read_key
from medray.errors import ConfigError
from medray.privacy.profile import parse_profile
from medray.privacy.pseudonym import Plain, Pseudonyms, naming

KEY = Pseudonyms(b"k" * 32)


@given(st.text(min_size=1))
def test_names_are_stable_kinds_apart_and_hold_nothing_of_the_identifier(identifier):
    name = KEY.name("subject", identifier)
    assert name == Pseudonyms(b"k" * 32).name("subject", identifier)
    assert name != KEY.name("series", identifier)
    assert name != Pseudonyms(b"l" * 32).name("subject", identifier)
    assert len(name) == 16
    assert name.isalnum()


def test_the_key_is_in_no_representation():
    assert "kkk" not in repr(KEY)
    assert "kkk" not in f"{KEY}"


def test_profiles():
    assert naming(parse_profile("none")) == Plain()
    assert Plain().name("subject", "x") == "x"
    assert isinstance(naming(parse_profile("basic")), Pseudonyms)


def test_sites_keep_equal_identifiers_apart():
    here, there = Pseudonyms(b"k" * 32, "here"), Pseudonyms(b"k" * 32, "there")
    assert here.name("subject", "1") != there.name("subject", "1")
    assert here.uid("1.2.3") == there.uid("1.2.3"), "UIDs are unique in the world already"
    assert Plain("here").name("subject", "1") == "here-1"


@given(st.text(min_size=1))
def test_uids_are_valid_and_keyed(uid):
    made = KEY.uid(uid)
    assert re.fullmatch(r"2\.25\.(0|[1-9]\d{0,38})", made)
    assert made == KEY.uid(uid)
    assert made != Pseudonyms(b"l" * 32).uid(uid)


def test_a_missing_key_says_how_to_make_one(monkeypatch):
    monkeypatch.delenv("MEDRAY_KEY")
    with pytest.raises(ConfigError, match="openssl rand -hex 32"):
        read_key()


@pytest.mark.parametrize("text", ["xyz", "ab" * 8, ""])
def test_a_short_or_odd_key_is_refused(monkeypatch, tmp_path, text):
    monkeypatch.delenv("MEDRAY_KEY")
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    monkeypatch.setenv("MEDRAY_KEY_FILE", str(file))
    with pytest.raises(ConfigError, match="32 bytes of hex"):
        read_key()


def test_key_files_must_be_private(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDRAY_KEY")
    file = tmp_path / "key"
    file.write_text("ab" * 32)
    file.chmod(0o644)
    monkeypatch.setenv("MEDRAY_KEY_FILE", str(file))
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key()
    file.chmod(0o600)
    assert read_key() == b"\xab" * 32
    monkeypatch.setenv("MEDRAY_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no key file"):
        read_key()
