from collections.abc import Sequence

import numpy as np

from medray.evaluation.interval import bootstrap_intervals


def mean(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values))}


def test_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        scores = {str(k): [float(value)] for k, value in enumerate(rng.normal(0.8, 0.1, 30))}
        low, high = bootstrap_intervals(scores, mean, seed=trial, resamples=500)["mean"]
        hits += low <= 0.8 <= high
    assert 86 <= hits <= 100


def test_a_patient_with_many_studies_is_one_draw():
    many = bootstrap_intervals({"a": [0.2] * 100, "b": [0.8]}, mean)["mean"]
    assert many[0] <= 0.21
    assert many[1] >= 0.79


def test_one_patient_has_no_width():
    assert bootstrap_intervals({"a": [0.5]}, mean)["mean"] == (0.5, 0.5)


def test_resamples_without_a_number_are_left_out_and_nothing_is_nan():
    def only_both(values: Sequence[float]) -> dict[str, float]:
        return {"both": 1.0 if len(set(values)) == 2 else float("nan"), "never": float("nan")}

    found = bootstrap_intervals({"a": [0.0], "b": [1.0]}, only_both)
    assert found["both"] == (1.0, 1.0)
    assert np.isnan(found["never"]).all()


def test_an_infinite_measure_has_an_infinite_end_and_no_warning():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_intervals({str(n): [value] for n, value in enumerate([1.0, 2.0, 3.0, np.inf])}, middle)
    assert 1 <= found["median"][0] <= 3
    assert found["median"][1] == np.inf


def middle(values):
    return {"median": float(sorted(values)[len(values) // 2])}
