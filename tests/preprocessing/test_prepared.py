import numpy as np
import pytest

from medray.errors import InputError, NotFoundError
from medray.preprocessing.plan import plan
from medray.preprocessing.prepare import Preparation, prepare_case
from medray.preprocessing.prepared import Case, CaseRow, commit_prepared, open_prepared, read_case, write_case
from medray.storage.location import locate


def case(rng):
    image = rng.normal(size=(1, 5, 6, 7)).astype(np.float16)
    mask = rng.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    return Case("s1", image, mask, np.array([[1, 2, 3, 4]], np.int32))


def test_round_trip_is_memory_mapped_and_read_only(tmp_path, rng):
    place = locate(tmp_path).join("a.arrow")
    made = case(rng)
    write_case(place, made)
    back = read_case(place)
    assert back.series == "s1"
    for name in ("image", "mask", "foreground"):
        assert np.array_equal(getattr(back, name), getattr(made, name))
        assert not getattr(back, name).flags.writeable


def test_damage_and_absence_are_one_clear_error(tmp_path, rng):
    place = locate(tmp_path).join("a.arrow")
    write_case(place, case(rng))
    place.write(place.read()[:200])
    with pytest.raises(InputError, match="damaged"):
        read_case(place)
    with pytest.raises(NotFoundError, match="run medray prepare again"):
        read_case(locate(tmp_path).join("none"))


def test_prepared_json_means_completeness(tmp_path, phantom_cohort):
    recipe = plan(phantom_cohort)
    with pytest.raises(NotFoundError, match="run medray prepare"):
        open_prepared(tmp_path)
    rows = (CaseRow(series="s1", subject="p1", split="train", file="cases/x.arrow"),)
    made = commit_prepared(locate(tmp_path), "c0", recipe, rows)
    assert open_prepared(tmp_path) == made
    assert made.subjects("train") == ["p1"]
    assert made.of("val") == []


def test_cases_of_another_plan_get_other_names(tmp_path, phantom_cohort):
    row = phantom_cohort.rows[0]
    first = prepare_case(Preparation(phantom_cohort, plan(phantom_cohort), locate(tmp_path)), row)
    other = plan(phantom_cohort, changes={"spacing_mm": [3, 3, 3]})
    second = prepare_case(Preparation(phantom_cohort, other, locate(tmp_path)), row)
    assert first[1] != second[1]
    assert read_case(locate(tmp_path).join(first[1])).image.shape != read_case(locate(tmp_path).join(second[1])).image.shape
