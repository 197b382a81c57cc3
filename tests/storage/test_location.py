import contextlib
import errno
import itertools
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from medray.errors import ConfigError, NotFoundError, StorageError
from medray.storage.location import Entry, locate
from tests.proxies import throttling_proxy
from tests.services import AZURITE_KEY, Bucket, azure_server, azurite, gcs_server, s3_server

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def gcs(tmp_path_factory):
    with gcs_server(tmp_path_factory.mktemp("gcs")) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    if azurite() is None:
        pytest.skip("Azurite isn't installed: .ci/run does")
    with azure_server(tmp_path_factory.mktemp("azure")) as bucket:
        yield bucket


@pytest.fixture(params=["local", "s3", "gcs", "azure"])
def root(request, tmp_path, monkeypatch):
    """An empty place on each kind of store."""
    if request.param == "local":
        return locate(tmp_path)
    found = request.getfixturevalue(request.param)
    bucket = found if isinstance(found, Bucket) else Bucket(found.make_bucket("contract"), found.environment)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return locate(f"{bucket.uri}/{tmp_path.name}")


@pytest.fixture
def on_s3(s3, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3, f"{s3.make_bucket('contract')}/{tmp_path.name}"


def test_write_read_list_and_remove(root):
    root.join("a", "b.bin").write(b"12345")
    root.join("a", ".hidden").write(b"x")
    assert root.join("a", "b.bin").read() == b"12345"
    assert root.join("a", "b.bin").read(2) == b"12"
    assert root.join("a", "b.bin").exists()
    (entry,) = root.entries()
    assert (entry.name, entry.size) == ("a/b.bin", 5)
    assert entry.modified_ns > 1.7e18
    root.join("a", "b.bin").remove()
    root.join("a", "b.bin").remove()
    assert not root.join("a", "b.bin").exists()


def test_a_rewrite_replaces_the_whole(root):
    place = root.join("f")
    place.write(b"old and long")
    place.write(b"new")
    assert place.read() == b"new"
    assert [entry.name for entry in root.entries()] == ["f"]


def test_a_reader_never_sees_a_part_of_a_write(root):
    """It may be told that the object changes at the moment."""
    place, whole, seen = root.join("f"), (b"a" * 300_000, b"b" * 300_000), []
    place.write(whole[0])
    stop = threading.Event()

    def read():
        while not stop.is_set():
            with contextlib.suppress(StorageError):
                seen.append(place.read())

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 60
    for number in itertools.count():
        place.write(whole[number % 2])
        if (number > 10 and len(seen) > 5) or time.monotonic() > deadline:
            break
    stop.set()
    reader.join(30)
    assert len(seen) > 5
    assert set(seen) <= set(whole)
    assert [entry.name for entry in root.entries()] == ["f"]


def test_gzip_names_are_not_inflated(root):
    root.join("x.nii.gz").write(b"\x1f\x8bnot really")
    assert root.join("x.nii.gz").read() == b"\x1f\x8bnot really"


def test_an_object_store_gives_a_checksum_of_its_own(root):
    written = root.join("f").write(b"12345")
    assert bool(written) != root.is_local
    assert root.join("f").checksum() == written
    assert root.join("f").write(b"54321") != written or root.is_local


def test_missing_things_are_named(root):
    with pytest.raises(NotFoundError, match="no file"):
        root.join("none").read()
    with pytest.raises(NotFoundError, match="no file or folder"):
        root.join("none").entries()


def test_places_travel_between_processes(root):
    root.join("f").write(b"1")
    again = pickle.loads(pickle.dumps(root))
    assert again.join("f").read() == b"1"


def test_folders_are_not_files(tmp_path):
    with pytest.raises(NotFoundError, match="is a folder"):
        locate(tmp_path).read()


def test_a_local_rewrite_leaves_no_temporary_files(tmp_path):
    locate(tmp_path).join("f").write(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/DOE^JOHN")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="no space left") as caught:
        locate(tmp_path).join("DOE^JOHN").write(b"1")
    assert "DOE" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["gopher://x/y", "s3:///", "abfs://"])
def test_bad_uris_are_config_errors(uri):
    with pytest.raises(ConfigError, match=r"unknown|names no bucket|can't be opened"):
        locate(uri)


def test_large_objects_go_up_in_parts_and_carry_the_servers_checksum(on_s3):
    _, uri = on_s3
    place = locate(uri).join("large")
    data = bytes(range(256)) * (24 << 12)
    checksum = place.write(data)
    assert checksum == place.checksum()
    assert checksum.endswith("-3")  # S3's ETag of a multipart upload ends with the number of its parts
    assert place.read() == data
    assert "-" not in locate(uri).join("small").write(b"12345")


def refuses(place, hint):
    for attempt in (lambda: place.write(b"1"), place.read, place.entries, place.exists):
        with pytest.raises(StorageError, match=rf"refuses .*{hint}") as caught:
            attempt()
        assert "DOE" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.refused


def test_a_wrong_secret_is_refused_in_one_line_without_names(on_s3, monkeypatch):
    _, uri = on_s3
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refuses(locate(uri).join("DOE^JOHN"), "check the credentials")


def test_a_wrong_key_of_azure_is_refused_in_one_line_without_names(azure, monkeypatch):
    for name, value in azure.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY.replace("GMG", "GMH"))
    refuses(locate(azure.uri).join("DOE^JOHN"), "AZURE_STORAGE_ACCOUNT_KEY")


def test_what_a_killed_write_left_on_azure_is_swept(azure, monkeypatch):
    for name, value in azure.environment.items():
        monkeypatch.setenv(name, value)
    root = locate(f"{azure.uri}/swept")
    root.join("g").write(b"1")
    left = root.join(".tmp-killed", "h")
    with root.filesystem.open_output_stream(left.path) as stream:
        stream.write(b"1")
    assert [entry.name for entry in root.entries()] == ["g"]
    root.sweep()
    assert left.exists(), "it may be at work"
    root.sweep(older_s=-60.0)
    assert not left.exists()
    assert root.join("g").read() == b"1"


def test_an_azure_account_comes_from_the_uri_or_the_environment(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY)
    assert locate("abfs://images@clinic.dfs.core.windows.net/a/b").path == "images/a/b"
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        locate("abfs://images/a/b")


def test_what_may_not_be_listed_is_an_entry_that_may_not_be_read(tmp_path, monkeypatch):
    for name in ("open/a", "closed/b", "odd/c"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"1")
    scandir, look = os.scandir, Path.stat

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    def failing(path, **options):
        if path.name == "c":
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return look(path, **options)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(Path, "stat", failing)
    assert [entry.name for entry in locate(tmp_path).entries()] == ["closed", "odd/c", "open/a"]
    with pytest.raises(StorageError, match="may not be read"):
        locate(tmp_path / "closed").entries()


def test_an_edit_in_place_that_hides_its_time_is_seen(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    (before,) = locate(tmp_path).entries()
    facts = path.stat()
    path.write_bytes(b"54321")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (after,) = locate(tmp_path).entries()
    assert path.stat().st_mtime_ns == facts.st_mtime_ns
    assert after != before


def test_a_missing_bucket_is_named(on_s3):
    with pytest.raises(StorageError, match="no bucket nowhere"):
        locate("s3://nowhere/x").entries()


def test_throttled_requests_are_sent_again(on_s3, monkeypatch):
    server, uri = on_s3
    with throttling_proxy(server.port, refusals=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        locate(uri).join("f").write(b"1" * 1000)
        assert locate(uri).join("f").read() == b"1" * 1000
    assert proxy.refused == 3


def test_a_server_that_is_down_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.setattr("medray.storage.filesystems.MAX_ATTEMPTS", 2)
    folder = tmp_path / "s3"
    folder.mkdir()
    with s3_server(folder) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        uri = server.make_bucket("gone")
        locate(uri).join("f").write(b"1")
    with pytest.raises(StorageError, match=r"network_connection|run again"):
        locate(uri).join("f").read()


def test_entries_are_sorted_by_name(root):
    for name in ("b", "a/c", "a/b"):
        root.join(name).write(name.encode())
    assert [entry.name for entry in root.entries()] == ["a/b", "a/c", "b"]
    assert all(isinstance(entry, Entry) for entry in root.entries())
