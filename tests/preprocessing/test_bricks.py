import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.errors import InputError, NotFoundError
from medray.preprocessing.bricks import BRICK, read_case, write_case
from medray.preprocessing.patches import crop
from medray.storage.location import locate
from tests.services import s3_server


def arrays(shape, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(channels, *shape)).astype(np.float16), rng.integers(0, 3, shape).astype(np.uint8)


def opened(folder, image, mask):
    place = locate(folder).join("a.arrow")
    write_case(place, "s1", image, mask)
    return read_case(place)


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 150)] * 3), st.integers(1, 2))
def test_the_whole_comes_back(tmp_path_factory, shape, channels):
    image, mask = arrays(shape, channels)
    case = opened(tmp_path_factory.mktemp("case"), image, mask)
    assert (case.series, case.shape, case.channels) == ("s1", shape, channels)
    assert np.array_equal(case.image, image)
    assert np.array_equal(case.mask, mask)
    assert not case.image.flags.writeable
    assert case.counts.sum(axis=0).tolist() == np.bincount(mask.ravel(), minlength=case.counts.shape[1]).tolist()


IMAGE, MASK = arrays((130, 70, 90))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("case"), IMAGE, MASK)


@settings(deadline=None)
@given(st.data())
def test_a_patch_is_the_crop_of_the_whole(case, data):
    size = data.draw(st.tuples(*[st.integers(1, 100)] * 3))
    start = tuple(data.draw(st.integers(-size[axis] + 1, n - 1)) for axis, n in enumerate(case.shape))
    image, mask = case.patch(start, size)
    assert np.array_equal(image, crop(IMAGE, start, size))
    assert np.array_equal(mask, crop(MASK, start, size))


def test_rare_labels_are_drawn_as_often_as_common_ones(tmp_path, rng):
    mask = np.zeros((100, 90, 80), np.uint8)
    mask[:50, :50, :50] = 1
    mask[90, 80, 70] = 2
    case = opened(tmp_path, np.zeros((1, *mask.shape), np.float16), mask)
    drawn = [case.labelled_voxel(rng, (1, 2)) for _ in range(400)]
    rare = sum(place == (90, 80, 70) for place in drawn)
    assert 140 < rare < 260
    assert all(mask[place] for place in drawn)
    common = np.array([place for place in drawn if place != (90, 80, 70)])
    assert common.min(axis=0).max() < 6, "every part of the label is reached"
    assert common.max(axis=0).min() > 43
    assert {case.labelled_voxel(rng, (2,)) for _ in range(20)} == {(90, 80, 70)}


def test_no_labels_give_no_voxel(tmp_path, rng):
    case = opened(tmp_path, np.zeros((1, 5, 5, 5), np.float16), np.zeros((5, 5, 5), np.uint8))
    assert case.labelled_voxel(rng, (1, 2)) is None


def test_a_case_without_a_label_map_is_all_background_and_a_third_smaller(tmp_path):
    image, mask = arrays((70, 20, 9))
    write_case(locate(tmp_path).join("with.arrow"), "s1", image, mask)
    write_case(locate(tmp_path).join("without.arrow"), "s1", image, None, present=["tumour", "oedema"])
    case = read_case(locate(tmp_path).join("without.arrow"))
    assert case.present == {"oedema", "tumour"}
    assert np.array_equal(case.image, image)
    assert case.mask.shape == mask.shape
    assert not case.mask.any()
    sizes = [(tmp_path / name).stat().st_size for name in ("without.arrow", "with.arrow")]
    assert sizes[0] < 0.75 * sizes[1]


def test_damage_and_absence_are_one_clear_error(tmp_path):
    opened(tmp_path, *arrays((5, 6, 7)))
    place = locate(tmp_path).join("a.arrow")
    place.write(place.read()[:200])
    with pytest.raises(InputError, match="damaged"):
        read_case(place)
    with pytest.raises(NotFoundError, match="run medray prepare again"):
        read_case(locate(tmp_path).join("none"))


@pytest.mark.services
def test_a_patch_from_a_bucket_reads_the_bricks_that_it_touches(tmp_path, monkeypatch):
    folder = tmp_path / "s3"
    folder.mkdir()
    with s3_server(folder) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        place = locate(server.make_bucket("cases")).join("a.arrow")
        image, mask = arrays((200, 200, 200))
        write_case(place, "s1", image, mask)
        case = read_case(place)
        read = []
        original = type(case)._brick

        def counted(self, number):
            read.append(number)
            return original(self, number)

        monkeypatch.setattr(type(case), "_brick", counted)
        found, _ = case.patch((10, 10, 10), (BRICK - 20,) * 3)
        assert read == [0]
        assert np.array_equal(found, image[:, 10:54, 10:54, 10:54])
        case.patch((60, 60, 60), (BRICK,) * 3)
        assert len(read) == 9
