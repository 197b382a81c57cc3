from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from medray.inference.check import Check
from medray.inference.use_page import use_page
from medray.monitoring.alarm import Watch, looked
from medray.monitoring.arms import arms_of
from medray.monitoring.record import PredictionRecord, sample_of

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def records(rng, count=80, **facts):
    for number in range(count):
        yield PredictionRecord(
            **{
                "id": f"{facts.get('version', 1)}{facts.get('role', '')}{number}",
                "at": NOW + timedelta(hours=number),
                "model": "ball",
                "version": 1,
                "task": "segmentation",
                "input_bytes": 10_000_000,
                "numbers": {"noise": rng.random() + facts.get("version", 1), "volume ball": rng.random(), "confidence": 0.9},
                "groups": {"site": f"site<{number % 2}>", "modality": "MR"},
                "latencies": {"wait": 100.0, "network": 10.0 * facts.get("version", 1), "decode": 2.0},
                **facts,
            }
        )


def test_versions_stand_side_by_side(rng):
    some = [
        *records(rng),
        *records(rng, 40, version=2, role="challenger", agreement={"ball": 0.8}),
        *records(rng, 5, version=2, role="challenger", status=503),
        *records(rng, 5, version=2, role="challenger", status=400),
    ]
    champion, challenger = arms_of(some)
    assert (champion.version, champion.role, champion.predictions, champion.failed) == (1, "champion", 80, 0)
    assert (challenger.version, challenger.role, challenger.predictions, challenger.failed) == (2, "challenger", 45, 5)
    assert (champion.p50_ms, challenger.p50_ms) == (12, 22), "waiting isn't a version's own time"
    assert challenger.agreement == pytest.approx({"ball": 0.8})
    assert champion.medians["volume ball"] == pytest.approx(np.median([one.numbers["volume ball"] for one in some[:80]]))


def test_the_page_says_what_is_known(rng):
    some = list(records(rng))
    drifted = looked(sample_of(some), sample_of(list(records(rng, 50, version=2))), Watch())
    evaluation = {
        "measure": "dice",
        "split": "test",
        "at": "2026-11-01T00:00:00",
        "cohort": "c0ffee",
        "patients": 9,
        "overall": {"summary": {"ball": {"dice": 0.912}}, "intervals": {"ball": {"dice": (0.9, 0.93)}}},
    }
    page = use_page("ball", some, Check("ball/1", 50, 80, drifted), {"ball/1": [evaluation]})
    for text in ("80 requests", "0.80 GB", "Alarm", "noise", "0.912 (0.900 to 0.930)", "site&lt;0&gt;", "data:image/png"):
        assert text in page
    assert "src='http" not in page
    calm = looked(sample_of(some), sample_of(list(records(rng, 50))), Watch())
    assert "No alarm" in use_page("ball", some, Check("ball/1", 50, 80, calm), {})


def test_it_says_so_where_nothing_is_known(rng):
    assert "Nothing was predicted" in use_page("ball", [], None, {})
    page = use_page("ball", list(records(rng, 3)), None, {"ball/1": []})
    assert "medray monitor baseline" in page
    assert "medray evaluate" in page
    few = looked(sample_of(list(records(rng))), sample_of(list(records(rng, 3))), Watch())
    assert "too few" in use_page("ball", list(records(rng, 3)), Check("ball/1", 3, 80, few), {})
