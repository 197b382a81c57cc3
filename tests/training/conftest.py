"""The phantoms as training cases, without Ray."""

import pytest

from medray.preprocessing.bricks import read_case
from medray.preprocessing.planning import plan
from medray.preprocessing.prepare import Preparation, prepare_case
from medray.storage.location import locate
from tests.phantoms import SMALL_PLAN


@pytest.fixture(scope="module")
def recipe(phantom_cohort):
    return plan(phantom_cohort, changes=SMALL_PLAN)


@pytest.fixture(scope="module")
def cases(phantom_cohort, recipe, tmp_path_factory):
    work = Preparation(phantom_cohort, recipe, locate(tmp_path_factory.mktemp("prepared")))
    return [read_case(work.target.join(prepare_case(work, row)[1])) for row in phantom_cohort.rows]
