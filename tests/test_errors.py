import pickle

import pytest

from medray import errors


def _all_errors(kind):
    return [kind, *(found for child in kind.__subclasses__() for found in _all_errors(child))]


@pytest.mark.parametrize("kind", _all_errors(errors.MedrayError))
def test_every_error_survives_the_trip_between_processes(kind):
    made = kind("a-reason", "a detail") if issubclass(kind, errors.ImageError) else kind("what was wrong")
    back = pickle.loads(pickle.dumps(made))
    assert type(back) is kind
    assert str(back) == str(made)
    assert back.args == made.args


def test_errors_are_the_built_ins_that_they_refine():
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.NotFoundError, LookupError)


def test_all_is_sorted_and_complete():
    assert errors.__all__ == sorted(kind.__name__ for kind in _all_errors(errors.MedrayError))
