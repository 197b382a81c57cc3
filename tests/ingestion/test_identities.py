import pytest

from medray.audit import open_trail
from medray.errors import ConfigError, NotFoundError
from medray.ingestion.identities import find_identity, write_identities
from tests.phantoms import take_in_all, write_phantoms

pytestmark = pytest.mark.ray


@pytest.fixture
def cohort(tmp_path):
    source = write_phantoms(tmp_path / "s", subjects=4)
    return take_in_all(source, tmp_path / "c")


def test_a_map_exists_only_when_asked_for_and_only_the_key_opens_it(local_ray, cohort, tmp_path, monkeypatch):
    assert not list(tmp_path.rglob("*.map"))
    file = tmp_path / "who.map"
    assert write_identities(cohort, tmp_path / "s", file) == 4
    assert (file.stat().st_mode & 0o777) == 0o600
    assert b"sub-0" not in file.read_bytes()
    names = {find_identity(file, subject)[0].patient for subject in cohort.subjects}
    assert names == {f"sub-0{n}" for n in range(4)}
    row = cohort.rows[0]
    assert find_identity(file, row.study)[0].subject == row.subject
    with pytest.raises(NotFoundError, match="doesn't know"):
        find_identity(file, "nobody")
    assert [event.action for event in open_trail().events()][:2] == ["identities.write", "identities.read"]
    assert open_trail().verify().problems == ()
    monkeypatch.setenv("MEDRAY_KEY", "7b" * 32)
    with pytest.raises(ConfigError, match="another key"):
        find_identity(file, row.subject)


def test_it_never_lies_inside_the_cohort(local_ray, cohort, tmp_path):
    with pytest.raises(ConfigError, match="inside the cohort"):
        write_identities(cohort, tmp_path / "s", tmp_path / "c" / "who.map")


def test_without_a_key_there_is_none(local_ray, cohort, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDRAY_KEY")
    with pytest.raises(ConfigError, match="make one"):
        find_identity(write_nothing(tmp_path), "x")


def write_nothing(tmp_path):
    (tmp_path / "x.map").write_bytes(b"x" * 99)
    return tmp_path / "x.map"
