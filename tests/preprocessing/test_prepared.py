from dataclasses import replace

import pytest

from medray.cohort.cohort import Cohort
from medray.errors import ConfigError, InputError, NotFoundError
from medray.preprocessing.bricks import read_case
from medray.preprocessing.planning import plan
from medray.preprocessing.prepare import Preparation, prepare, prepare_case
from medray.preprocessing.prepared import CaseRow, commit_prepared, open_prepared
from medray.storage.location import locate


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
    assert read_case(locate(tmp_path).join(first[1])).shape != read_case(locate(tmp_path).join(second[1])).shape


def test_a_cohort_of_one_person_can_t_be_split(tmp_path, phantom_cohort):
    one = Cohort(phantom_cohort.root, phantom_cohort.index)
    one.__dict__["rows"] = tuple(replace(row, subject="somebody") for row in phantom_cohort.rows)
    with pytest.raises(InputError, match="1 subjects can't be split by subject"):
        prepare(one, plan(one), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_what_another_medray_prepared_is_refused(tmp_path, phantom_cohort):
    commit_prepared(locate(tmp_path), "c0", plan(phantom_cohort), ())
    file = tmp_path / "prepared.json"
    file.write_text(file.read_text().replace('"schema_version": 3', '"schema_version": 2'))
    with pytest.raises(ConfigError, match="schema version 2; this medray reads 3"):
        open_prepared(tmp_path)
