import numpy as np

from medray.evaluation.interval import bootstrap_interval


def test_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        scores = {str(k): [float(value)] for k, value in enumerate(rng.normal(0.8, 0.1, 30))}
        low, high = bootstrap_interval(scores, seed=trial)
        hits += low <= 0.8 <= high
    assert 86 <= hits <= 100


def test_a_patient_with_many_studies_is_one_draw():
    many = bootstrap_interval({"a": [0.2] * 100, "b": [0.8]})
    assert many[0] <= 0.21
    assert many[1] >= 0.79


def test_one_patient_has_no_width():
    assert bootstrap_interval({"a": [0.5]}) == (0.5, 0.5)
