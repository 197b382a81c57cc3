import os

import pytest

from medray.engine import cpus_each, stream
from medray.errors import InputError, ResourceError

pytestmark = pytest.mark.ray


def test_results_come_for_every_item(local_ray):
    assert sorted(stream(list(range(20)), lambda n: n * n)) == [n * n for n in range(20)]
    assert list(stream([], lambda n: n)) == []


def test_an_error_ends_the_map_and_says_what_it_was(local_ray):
    def fail(n):
        if n == 3:
            raise InputError("three is no number")
        return n

    with pytest.raises(InputError, match="three is no number"):
        list(stream(list(range(5)), fail))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(stream(list(range(5)), lambda n: 1 // n))


def test_a_worker_that_dies_costs_its_item(local_ray):
    def die(n):
        if n == 2:
            os._exit(1)
        return n

    assert sorted(stream(list(range(4)), die, on_crash=lambda n: -n)) == [-2, 0, 1, 3]
    with pytest.raises(ResourceError, match="1 of 4 items"):
        list(stream(list(range(4)), die))


def test_when_every_item_dies_and_other_tasks_live_each_is_to_blame(local_ray):
    assert sorted(stream([1, 2], lambda n: os._exit(1), on_crash=lambda n: -n)) == [-2, -1]


def test_when_workers_can_do_nothing_no_item_is_to_blame(local_ray, monkeypatch):
    monkeypatch.setattr("medray.engine._workers_live", lambda: False)
    with pytest.raises(ResourceError, match="2 of 2 items"):
        list(stream([1, 2], lambda n: os._exit(1), on_crash=lambda n: n))


@pytest.mark.parametrize(
    ("free", "processes", "each"), [([8, 8], 1, 8), ([8, 8], 3, 4), ([8, 8], 16, 1), ([0, 2, 5], 2, 2), ([2], 5, 1), ([], 1, 1)]
)
def test_cpus_are_shared_out_within_nodes(free, processes, each):
    assert cpus_each(free, processes) == each
