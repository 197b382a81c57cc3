import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.cohort.shards import content_hash, read_shard, shard_location, write_shard
from medray.errors import InputError, NotFoundError
from medray.imaging.volume import Volume
from medray.storage.location import locate


def volume(dtype=np.int16, fill=3):
    return Volume(np.full((1, 3, 4, 5), fill, dtype), np.diag([1.0, 2.0, 3.0, 1.0]), {"modality": "CT"})


@settings(deadline=None, max_examples=20)
@given(dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.float32]), fortran=st.booleans())
def test_round_trip(tmp_path_factory, dtype, fortran):
    folder = locate(tmp_path_factory.mktemp("shards"))
    scan = volume(dtype)
    if fortran:
        scan = scan.with_voxels(np.asfortranarray(scan.voxels))
    back = read_shard(folder, write_shard(folder, scan).digest)
    assert back.voxels.dtype == dtype
    assert np.array_equal(back.voxels, scan.voxels)
    assert np.array_equal(back.affine, scan.affine)
    assert dict(back.meta) == {"modality": "CT"}
    assert not back.voxels.flags.writeable


def test_any_parquet_reader_reads_it(tmp_path):
    folder = locate(tmp_path)
    digest = write_shard(folder, volume()).digest
    row = pq.read_table(tmp_path / f"part-{digest}.parquet").to_pylist()[0]
    assert np.frombuffer(row["voxels"], row["dtype"]).reshape(row["shape"]).sum() == 180


def test_the_hash_follows_the_content_alone():
    assert content_hash(volume()) == content_hash(volume().with_voxels(np.asfortranarray(volume().voxels)))
    assert content_hash(volume()) != content_hash(volume(fill=4))
    assert content_hash(volume()) != content_hash(volume(np.uint16))
    moved = Volume(volume().voxels, np.diag([1.0, 2.0, 3.1, 1.0]), volume().meta)
    assert content_hash(volume()) != content_hash(moved)


def test_damage_is_one_clear_error(tmp_path):
    folder = locate(tmp_path)
    digest = write_shard(folder, volume()).digest
    place = shard_location(folder, digest)
    place.write(place.read()[:-40])
    with pytest.raises(InputError, match="damaged"):
        read_shard(folder, digest)
    with pytest.raises(NotFoundError):
        read_shard(folder, "nothing")
