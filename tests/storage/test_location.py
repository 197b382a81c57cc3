import pytest

from medray.errors import ConfigError, NotFoundError
from medray.storage.location import locate


def test_write_read_and_list(tmp_path):
    root = locate(tmp_path)
    root.join("a", "b.bin").write(b"12345")
    root.join("a", ".hidden").write(b"x")
    assert root.join("a", "b.bin").read() == b"12345"
    assert root.join("a", "b.bin").read(2) == b"12"
    assert list(root.files()) == [("a/b.bin", 5)]


def test_gzip_names_are_not_inflated(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"\x1f\x8bnot really")
    assert locate(tmp_path).join("x.nii.gz").read() == b"\x1f\x8bnot really"


def test_a_rewrite_leaves_no_temporary_files(tmp_path):
    place = locate(tmp_path).join("f")
    place.write(b"old")
    place.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert place.read() == b"new"


def test_missing_things_are_named(tmp_path):
    with pytest.raises(NotFoundError, match="no file"):
        locate(tmp_path).join("none").read()
    with pytest.raises(NotFoundError, match="no folder"):
        list(locate(tmp_path / "none").files())
    with pytest.raises(NotFoundError):
        locate(tmp_path).read()


@pytest.mark.parametrize("uri", ["gopher://x/y", "s3:///"])
def test_bad_uris_are_config_errors(uri):
    with pytest.raises(ConfigError, match="can't be opened"):
        locate(uri)
