import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medray.imaging.volume import Volume
from medray.progression.change import VAGUE, Amount, amount_of, change_between, fate_of, structure_change
from medray.progression.diameters import diameters_of, slice_axis
from medray.progression.lesions import Track, found_in
from medray.progression.response import response_of
from medray.progression.trend import common_trend, trend_of
from tests.progression.test_lesions import balls

SEEDS = st.integers(0, 2**32 - 1)


def ellipsoid(rng, radii, spacing, shape=(40, 40, 40)):
    """A mask of an ellipsoid that lies anywhere between voxels, turned anyhow."""
    turned = Rotation.random(random_state=rng).as_matrix()
    affine = np.diag([*spacing, 1.0])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * spacing
    middle = np.array(shape) * spacing / 2 + rng.uniform(-0.5, 0.5, 3) * spacing
    inside = np.linalg.norm((grid - middle) @ turned / radii, axis=-1) <= 1
    return Volume(inside[None].astype(np.uint8), affine)


def test_the_interval_of_a_volume_holds_the_truth_as_often_as_it_says():
    rng, held, trials = np.random.default_rng(0), 0, 300
    for _ in range(trials):
        radii = rng.uniform(3, 7, 3)
        amount = amount_of(found_in(ellipsoid(rng, radii, rng.uniform(0.9, 1.4, 3)), 0).lesions)
        held += abs(amount.mm3 - 4 / 3 * math.pi * radii.prod()) < 1.96 * amount.deviation_mm3
    assert 0.93 <= held / trials <= 1.0


def test_repeatability_widens_it():
    [lesion] = found_in(balls(((20, 20, 20), 6)), 0).lesions
    assert amount_of([lesion], repeatability=0.1).deviation_mm3 == pytest.approx(0.1 * lesion.volume_mm3, rel=0.05)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_there_and_back_are_inverse(seed):
    rng = np.random.default_rng(seed)
    one, other = (Amount(mm3, mm3 * rng.uniform(0, 0.7)) for mm3 in rng.uniform(1, 1000, 2).tolist())
    years = float(rng.uniform(0.1, 5))
    there, back = change_between(one, other, years), change_between(other, one, -years)
    assert there.mm3 == pytest.approx(-back.mm3)
    assert there.percent is not None
    assert back.percent is not None
    assert (there.interval_percent is None) == (max(one.relative, other.relative) > VAGUE)
    assert (1 + there.percent / 100) * (1 + back.percent / 100) == pytest.approx(1)
    assert there.rate_per_year == pytest.approx(back.rate_per_year)
    low, high = there.interval_percent or (there.percent, there.percent)
    assert low <= there.percent <= high


def test_growth_rate_and_doubling_time():
    change = change_between(Amount(100, 1), Amount(200, 1), 2.0)
    assert change.rate_per_year == pytest.approx(math.log(2) / 2)
    assert change.doubling_days == pytest.approx(2 * 365.25)
    assert change_between(Amount(200, 1), Amount(100, 1), 2.0).doubling_days == pytest.approx(-2 * 365.25)
    assert change_between(Amount(0, 0), Amount(100, 1), 2.0).percent is None
    assert change_between(Amount(100, 1), Amount(0, 0), 2.0).percent == -100


def test_rates_have_intervals_and_doubling_where_it_is_sure():
    sure = change_between(Amount(100, 2), Amount(200, 4), 1.0)
    assert sure.rate_per_year == pytest.approx(math.log(2))
    low, high = sure.interval_rate or (0, 0)
    assert low < math.log(2) < high
    assert sure.interval_doubling == pytest.approx((365.25 * math.log(2) / high, 365.25 * math.log(2) / low))
    vague = change_between(Amount(100, 30), Amount(120, 30), 1.0)
    assert vague.doubling_days is not None
    assert vague.interval_doubling is None, "it may as well shrink"
    halved = change_between(Amount(200, 4), Amount(100, 2), 1.0)
    assert halved.interval_doubling == pytest.approx([-days for days in reversed(sure.interval_doubling or ())])
    backwards = change_between(Amount(100, 2), Amount(200, 4), -1.0).interval_rate or (0, 0)
    assert backwards[0] < backwards[1]


def test_of_what_is_too_unsure_only_the_difference_has_an_interval():
    change = change_between(Amount(19, 218), Amount(5000, 100), 1.0)
    assert change.interval_mm3[0] > 0
    assert (change.interval_percent, change.interval_rate, change.interval_doubling) == (None, None, None)
    assert change.percent == pytest.approx(100 * (5000 / 19 - 1))
    assert change.doubling_days == pytest.approx(365.25 * math.log(2) / math.log(5000 / 19))


def test_fates():
    small, large = found_in(balls(((20, 20, 20), 4)), 0).lesions, found_in(balls(((20, 20, 20), 5)), 0).lesions
    two = found_in(balls(((10, 10, 10), 4), ((30, 30, 30), 4)), 0).lesions
    track = Track(1, (tuple(small), tuple(large), tuple(two), (), ()))
    fates = [fate_of(track, a, b) for a, b in ((0, 0), (0, 1), (1, 0), (0, 2), (2, 1), (2, 3), (3, 0), (3, 4))]
    assert fates == ["stable", "grown", "shrunk", "split", "merged", "vanished", "new", "absent"]
    assert fate_of(track, 0, 1, repeatability=0.5) == "stable"


def test_a_scanner_that_shows_everything_larger_is_no_growth():
    change = structure_change(Amount(1e6, 100), Amount(1.03e6, 100), 1.03, 1.0)
    assert change.percent == pytest.approx(0)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_diameters_of_an_ellipse(seed):
    rng = np.random.default_rng(seed)
    long, short = 12.0, 7.0
    angle = rng.uniform(0, np.pi)
    spacing = np.array([0.8, 0.8, 3.0])
    grid = np.stack(np.meshgrid(*map(np.arange, (48, 48, 9)), indexing="ij"), -1) * spacing
    middle = np.array([19.0, 19.0, 12.0]) + rng.uniform(-0.4, 0.4, 3)
    away = grid - middle
    along, across = (
        away[..., 0] * np.cos(angle) + away[..., 1] * np.sin(angle),
        -away[..., 0] * np.sin(angle) + away[..., 1] * np.cos(angle),
    )
    inside = (along / long) ** 2 + (across / short) ** 2 + (away[..., 2] / 8) ** 2 <= 1
    found = diameters_of(np.argwhere(inside), np.diag([*spacing, 1.0]))
    assert found.longest_mm == pytest.approx(2 * long, abs=1.3)
    assert found.perpendicular_mm == pytest.approx(2 * short, abs=1.3)
    assert found.slice_index == 4


def test_the_deviation_of_a_diameter_holds_the_truth(rng):
    """Twice the deviation about nine times in ten, of circles that lie anyhow."""
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), indexing="ij"), -1)
    held = []
    for _ in range(200):
        spacing, radius = rng.uniform(0.6, 1.5), rng.uniform(5, 10)
        inside = np.linalg.norm((grid - 20 - rng.uniform(-0.5, 0.5, 2)) * spacing, axis=-1) <= radius
        indices = np.concatenate([np.argwhere(inside), np.full((inside.sum(), 1), 3)], axis=1)
        found = diameters_of(indices, np.diag([spacing, spacing, 3.0, 1.0]))
        held.append(abs(found.longest_mm - 2 * radius) <= 2 * found.deviation_mm)
    assert np.mean(held) > 0.85


def test_a_new_lesion_that_may_be_none_is_no_progression():
    """Section 4.3.5: new lesions have to be unequivocal."""
    stable, new = tracks_of((20, 20), (0, 12))
    assert response_of([stable, new])[1].category == "PD"
    doubtful = tuple(replace(piece, doubt_mm3=0.7 * piece.volume_mm3) for piece in new.lesions[1])
    found = response_of([stable, replace(new, lesions=((), doubtful))])[1]
    assert (found.category, found.new_lesions) == ("SD", 0)
    assert found.deviation_mm > 0
    [later] = tracks_of((0, 12, 12))
    late = replace(later, lesions=((), doubtful, later.lesions[2]))
    categories = [(one.category, one.new_lesions) for one in response_of([*tracks_of((20, 20, 20)), late])[1:]]
    assert categories == [("SD", 0), ("PD", 1)], "it is new when it is sure"


def test_a_single_voxel_and_a_line_have_diameters():
    assert diameters_of(np.array([[3, 3, 3]]), np.diag([2.0, 1.0, 5.0, 1.0])).longest_mm == 2
    assert diameters_of(np.array([[3, 3, 3], [4, 3, 3], [5, 3, 3]]), np.eye(4)).longest_mm == 3


def test_slices_lie_across_the_coarsest_axis_or_the_body():
    assert slice_axis(np.diag([5.0, 1.0, 1.0, 1.0])) == 0
    assert slice_axis(np.diag([0.78, 0.78, 0.625, 1.0])) == 2, "slices may overlap"
    assert slice_axis(np.diag([1.0, 1.2, 1.4, 1.0])) == 2
    assert slice_axis(np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])) == 0


def tracks_of(*lengths):
    """Lesions that are so many voxels long at each time point."""
    tracks = []
    for number, of_one in enumerate(lengths, start=1):
        pieces = []
        for at, length in enumerate(of_one):
            voxels = np.zeros((1, 80, 5, 5), np.uint8)
            voxels[0, 2 : 2 + length, 1:4, 1:4] = 1
            pieces.append(tuple(found_in(Volume(voxels, np.eye(4)), at).lesions))
        tracks.append(Track(number, tuple(pieces)))
    return tracks


@pytest.mark.parametrize(
    ("lengths", "categories"),
    [
        ([(20, 20)], ["SD"]),
        ([(20, 13)], ["PR"]),
        ([(20, 15)], ["SD"]),
        ([(20, 24)], ["SD"]),
        ([(20, 26)], ["PD"]),
        ([(20, 0)], ["CR"]),
        ([(40, 20, 24)], ["PR", "PR"]),
        ([(40, 20, 26)], ["PR", "PD"]),
        ([(20, 20), (0, 12)], ["PD"]),
        ([(20, 10, 10), (0, 0, 12)], ["PR", "PD"]),
        ([(6, 30)], [None]),
        ([(6, 30), (0, 12)], ["PD"]),
        ([(20, 20, 20), (0, 12, 12)], ["PD", "PD"]),
        ([(20, 0), (6, 6)], ["PR"]),
        ([(20, 0, 4)], ["CR", "PD"]),
    ],
)
def test_recist(lengths, categories):
    """By the guideline's own thresholds: -30 % of baseline, +20 % and 5 mm of the least."""
    responses = response_of(tracks_of(*lengths))
    assert responses[0].category is None
    assert [response.category for response in responses[1:]] == categories


def test_a_target_that_is_not_shown_makes_a_time_point_not_evaluable():
    """Section 4.4.2: unless what is shown is progression by itself."""
    [one, other] = tracks_of((20, 20, 20), (20, 20, 20))
    hidden = replace(other, unseen=frozenset({1}))
    assert [response.category for response in response_of([one, hidden])] == [None, "NE", "SD"]
    [grown] = tracks_of((20, 50, 50))
    assert response_of([grown, hidden])[1].category == "PD"
    [new] = tracks_of((0, 20, 20))
    assert response_of([one, replace(new, unseen=frozenset({0}))])[1].category == "SD", "baseline didn't show its place"


def test_trends_of_few_and_many_points_are_weighed_by_how_sure_they_are():
    sure = trend_of([0.0, 1.0, 2.0, 3.0], [Amount(100 * math.exp(0.2 * year), 1.0) for year in range(4)])
    vague = trend_of([0.0, 1.0, 2.0], [Amount(100 * math.exp(0.6 * year), 20.0) for year in range(3)])
    assert sure
    assert vague
    common = common_trend([sure, vague])
    assert common is not None
    assert abs(common.rate_per_year - 0.2) < abs(common.rate_per_year - 0.6)
    assert common_trend([vague]) == vague


def test_pieces_of_a_target_are_added_up():
    first, second = np.zeros((2, 1, 60, 5, 5), np.uint8)
    first[0, 2:42, 1:4, 1:4] = 1
    second[0, 2:21, 1:4, 1:4] = second[0, 23:42, 1:4, 1:4] = 1
    track = Track(1, tuple(tuple(found_in(Volume(voxels, np.eye(4)), at).lesions) for at, voxels in enumerate((first, second))))
    assert track.pieces(1) == 2
    assert response_of([track])[1].category == "SD"


def test_at_most_five_targets():
    [baseline, _] = response_of(tracks_of(*[(20 + number, 20) for number in range(7)]))
    longest = [math.hypot(20 + number, 2) for number in range(2, 7)]
    assert baseline.sum_mm == pytest.approx(sum(longest), abs=3)


def test_a_trend_is_the_line_through_logarithms():
    years = [0.0, 0.5, 1.2, 2.0]
    amounts = [Amount(100 * math.exp(0.4 * year), 1.0) for year in years]
    trend = trend_of(years, amounts)
    assert trend is not None
    assert trend.rate_per_year == pytest.approx(0.4)
    assert trend.doubling_days == pytest.approx(365.25 * math.log(2) / 0.4)
    assert trend_of(years[:2], amounts[:2]) is None
    assert trend_of([1.0] * 4, amounts) is None


def seen(rng, rate):
    """The trend of a lesion that grows at a rate, seen with noise."""
    years = [0.0, 0.5, 1.0, 1.5]
    values = 500 * np.exp(rate * np.array(years)) * (1 + rng.normal(0, 0.04, 4))
    trend = trend_of(years, [Amount(value, 0.04 * value) for value in values])
    assert trend is not None
    return trend


def test_its_interval_holds_the_truth_as_often_as_it_says():
    rng, held, trials = np.random.default_rng(0), 0, 500
    for _ in range(trials):
        low, high = seen(rng, 0.3).interval
        held += low <= 0.3 <= high
    assert held / trials >= 0.93


def test_what_lesions_have_in_common_holds_the_truth_though_they_differ():
    rng, held, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        common = common_trend([seen(rng, rng.normal(0.3, 0.2)) for _ in range(8)])
        assert common is not None
        held += common.interval[0] <= 0.3 <= common.interval[1]
    assert held / trials >= 0.9
    assert common_trend([]) is None
