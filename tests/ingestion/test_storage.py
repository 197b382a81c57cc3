"""The whole way on object stores: source, cohort, plan and prepared cases live in a bucket."""

import contextlib
import shutil
import threading

import pyarrow.fs
import pytest

import medray
from medray.cohort.commit import commit_cohort
from medray.errors import StorageError
from medray.ingestion.verify import verify
from medray.storage.location import locate
from tests.cohort.test_commit import holding
from tests.phantoms import SMALL_PLAN, write_phantoms
from tests.services import Bucket, azure_server, azurite, gcs_server, ray_with, s3_server

pytestmark = [pytest.mark.services, pytest.mark.ray]


@contextlib.contextmanager
def seaweed(folder):
    with s3_server(folder) as server:
        yield Bucket(server.make_bucket("hospital"), server.environment)


@pytest.fixture(scope="module", params=["s3", "gcs", "azure"])
def bucket(request, tmp_path_factory):
    """A bucket whose credentials the workers have, too: a cluster of its own."""
    if request.param == "azure" and azurite() is None:
        pytest.skip("Azurite isn't installed: .ci/run does")
    server = {"s3": seaweed, "gcs": gcs_server, "azure": azure_server}[request.param]
    with server(tmp_path_factory.mktemp(request.param)) as bucket, ray_with(bucket.environment):
        yield bucket.uri


@pytest.fixture(scope="module")
def scans(bucket, phantom_source):
    place = locate(f"{bucket}/scans")
    pyarrow.fs.copy_files(str(phantom_source), place.path, destination_filesystem=place.filesystem)
    return f"{bucket}/scans"


def test_a_bucket_is_a_source_and_a_home(bucket, scans, phantom_cohort):
    cohort = medray.ingest(scans, f"{bucket}/cohort")
    assert cohort.index.id == phantom_cohort.index.id
    assert medray.open_cohort(f"{bucket}/cohort").rows == cohort.rows
    for row in cohort.rows:
        assert row.volume_checksum == cohort.root.join("volumes", f"part-{row.volume}.parquet").checksum() != ""
        assert row.label_checksum
    assert medray.ingest(scans, f"{bucket}/cohort").index.id == cohort.index.id
    prepared = medray.prepare(cohort, medray.plan(cohort, changes=SMALL_PLAN), f"{bucket}/prepared")
    assert len(prepared.cases) == 9
    assert verify(f"{bucket}/cohort") == []


def test_damage_in_the_bucket_is_named_by_the_store_s_own_checksum(bucket, scans):
    cohort = medray.ingest(scans, f"{bucket}/cohort2")
    assert verify(f"{bucket}/cohort2", quick=True) == []
    victim = cohort.root.join("volumes", f"part-{cohort.rows[3].volume}.parquet")
    data = bytearray(victim.read())
    data[len(data) // 2] ^= 1
    victim.write(bytes(data))
    cohort.root.join("labels", f"part-{cohort.rows[5].label}.parquet").remove()
    for quick in (True, False):
        problems = verify(f"{bucket}/cohort2", quick=quick)
        assert len(problems) == 2
        assert any(cohort.rows[3].series in problem for problem in problems)
        assert any("is missing" in problem for problem in problems)


def test_many_commit_to_a_bucket_at_once_and_nothing_is_lost(bucket):
    root = locate(f"{bucket}/together")
    threads = [threading.Thread(target=commit_cohort, args=(root, holding(name), {})) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert "".join(row.series for row in medray.open_cohort(root).rows) == "abcdef"


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_wrong_secret_ends_a_run_and_quarantines_nothing(bucket, scans, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="check the credentials"):
        medray.ingest(scans, f"{bucket}/cohort3")


def test_local_damage_is_named(local_disk_cohort):
    root, cohort = local_disk_cohort
    assert verify(root) == []
    victim = root / "volumes" / f"part-{cohort.rows[0].volume}.parquet"
    victim.write_bytes(victim.read_bytes()[:-100])
    other = root / "volumes" / f"part-{cohort.rows[1].volume}.parquet"
    shutil.copy(root / "volumes" / f"part-{cohort.rows[2].volume}.parquet", other)
    problems = verify(root)
    assert {problem.rpartition(" series ")[2] for problem in problems} == {
        f"{cohort.rows[0].series} can't be read",
        f"{cohort.rows[1].series} was changed",
    }


def test_an_edited_manifest_is_named(local_disk_cohort):
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, cohort = local_disk_cohort
    manifest = root / cohort.index.manifest
    table = pq.read_table(manifest)
    swapped = table.set_column(table.schema.get_field_index("subject"), "subject", pa.array(["x"] * table.num_rows))
    pq.write_table(swapped, manifest)
    assert any("is not what was committed" in problem for problem in verify(root))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("table", ["manifest", "quarantine"])
def test_a_damaged_table_is_named(local_disk_cohort, table, damage):
    root, cohort = local_disk_cohort
    path = root / getattr(cohort.index, table)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "flipped" else data[:-50])
    what = "is missing" if damage == "gone" else "is not what was committed"
    assert verify(root) == [f"{path.name} {what}"]


def test_an_edited_index_is_named(local_disk_cohort):
    root, _ = local_disk_cohort
    text = (root / "cohort.json").read_text()
    (root / "cohort.json").write_text(text.replace('"series": 3', '"series": 4', 1))
    assert any("differ" in problem for problem in verify(root))


def test_damage_is_repaired_by_the_next_ingestion(local_disk_cohort, tmp_path):
    root, _ = local_disk_cohort
    cohort = medray.ingest(tmp_path / "s", root)
    for row in cohort.rows[:2]:
        (root / "volumes" / f"part-{row.volume}.parquet").write_bytes(b"damaged")
    (root / "labels" / f"part-{cohort.rows[2].label}.parquet").unlink()
    assert len(verify(root, repair=True)) == 3
    assert medray.ingest(tmp_path / "s", root).index.id == cohort.index.id
    assert verify(root) == []
    assert not (root / "ledger" / "redo.json").exists()


@pytest.fixture
def local_disk_cohort(tmp_path):
    from tests.phantoms import take_in_all

    source = write_phantoms(tmp_path / "s", subjects=3)
    return tmp_path / "c", take_in_all(source, tmp_path / "c")
