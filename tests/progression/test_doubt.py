"""How sure a network is of lesions' volumes, where how sure it is is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from medray.imaging.volume import Volume
from medray.inference.likely import SCALE
from medray.progression.change import amount_of, change_between
from medray.progression.doubt import doubted
from medray.progression.history import history_of
from medray.progression.lesions import found_in
from medray.progression.visit import TimePoint
from tests.progression.people import NAMES, person, scanned

SHAPE = (48, 40, 40)


def likely(*places, spacing=(1.0, 1.0, 1.0), softness=0.6):
    """Balls (centre in voxels, radius in mm) whose probability falls off by a logistic curve, and how fast in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    margins = [radius - np.linalg.norm((grid - centre) * spacing, axis=-1) for centre, radius in places]
    inside = expit(np.max(margins, axis=0) / softness)
    return np.rint(SCALE * inside).astype(np.uint8)


def found_with(said, spacing=(1.0, 1.0, 1.0)):
    mask = Volume((said > SCALE / 2)[np.newaxis].astype(np.uint8), np.diag([*spacing, 1.0]))
    return doubted(found_in(mask, 0), said).lesions


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0)])
def test_it_is_how_far_the_volume_varies_where_a_border_moves_as_one(spacing, rng):
    """By its definition: of thresholds anywhere between 0 and 1, the volume above them has this standard deviation."""
    said = likely(((20.3, 19.6, 20.2), 7), spacing=spacing, softness=0.3)
    [lesion] = found_with(said, spacing)
    voxel = np.prod(spacing)
    volumes = [voxel * np.count_nonzero(said > SCALE * threshold) for threshold in rng.uniform(0.001, 0.999, 2000)]
    low, high = np.quantile(volumes, [0.16, 0.84])
    assert lesion.doubt_mm3 == pytest.approx((high - low) / 2, rel=0.05)
    held = [abs(volume - lesion.volume_mm3) <= 1.96 * lesion.doubt_mm3 for volume in volumes]
    assert 0.9 <= np.mean(held) <= 0.99


def test_what_is_sure_is_not_doubted():
    [lesion] = found_with(likely(((20.3, 19.6, 20.2), 7), softness=0.001))
    assert lesion.doubt_mm3 == 0


def test_neighbours_share_what_lies_between_them():
    first, second = found_with(likely(((12, 20, 20), 6), ((30, 20, 20), 8)))
    [alone] = found_with(likely(((30, 20, 20), 8)))
    assert first.doubt_mm3 == pytest.approx(alone.doubt_mm3, rel=0.02)
    assert 0 < second.doubt_mm3 < first.doubt_mm3


def test_what_is_doubted_far_away_is_not_the_lesions():
    said = likely(((12, 20, 20), 5), softness=0.1)
    sure = found_with(said)[0].doubt_mm3
    said[36:] = SCALE // 3
    assert found_with(said)[0].doubt_mm3 == sure


def test_it_widens_intervals_of_volumes_and_changes():
    [doubtful], [sure] = found_with(likely(((20, 20, 20), 7))), found_with(likely(((20.3, 19.6, 20.2), 7), softness=0.001))
    amount, drawn = amount_of([doubtful]), amount_of([replace(doubtful, doubt_mm3=0.0)])
    assert amount.deviation_mm3 == pytest.approx(np.hypot(drawn.deviation_mm3, doubtful.doubt_mm3))
    low, high = change_between(amount_of([sure]), amount, 1.0).interval_mm3
    narrow = change_between(amount_of([sure]), drawn, 1.0).interval_mm3
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.slow
def test_a_history_is_as_sure_as_the_network_was():
    """Only the label that a network was asked about; others stand as drawn masks do."""
    points = []
    for at, subject in enumerate(person(4, lesions=2)):
        image, mask = scanned(subject, at)
        points.append(TimePoint(f"scan {at + 1}", 365.0 * at, image, mask=mask))
    soft = [np.where(point.mask.voxels[0] == NAMES["lesion"], 180, 60).astype(np.uint8) for point in points]
    doubtful = [replace(point, likely={"lesion": said}) for point, said in zip(points, soft, strict=True)]
    drawn, by_network = history_of(points, NAMES), history_of(doubtful, NAMES)
    for sure, unsure in zip(drawn.lesions, by_network.lesions, strict=True):
        for one, other in zip(sure.amounts, unsure.amounts, strict=True):
            assert one is not None
            assert other is not None
            assert other.mm3 == one.mm3
            assert other.deviation_mm3 > one.deviation_mm3 or one.mm3 == 0
    assert [one.amounts for one in drawn.structures] == [one.amounts for one in by_network.structures]
