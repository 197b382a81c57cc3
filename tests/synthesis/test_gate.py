from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medray.errors import InputError
from medray.evaluation.fidelity import describe, thumbnail
from medray.synthesis.gate import Gate, Seen, judge

SHAPE = (24, 24, 20)
NAMES = {"tissue": 1, "rest": 2}


def seen(name, seed, *, mean=1.0, deviation=0.2, image_seed=None):
    rng = np.random.default_rng(seed)
    mask = np.ones(SHAPE, np.uint8)
    mask[int(rng.integers(8, 16)) :] = 2
    noise = np.random.default_rng(image_seed if image_seed is not None else seed + 1000)
    bumps = 8 * gaussian_filter(noise.normal(0, 1, SHAPE), 4)
    image = np.where(mask == 1, mean + noise.normal(0, 0.02), 2) + bumps + noise.normal(0, deviation, SHAPE)
    image = image.astype(np.float32)[None]
    return Seen(name, name, describe(image, mask, NAMES), thumbnail(image))


REAL = [seen(f"real-{n}", n) for n in range(12)]


def test_images_of_the_same_kind_pass():
    found = judge(Gate(), [seen(f"made-{n}", n + 50) for n in range(10)], REAL, 1)
    assert found.passed, found.why
    assert found.copies == ()
    assert found.mean_off["tissue"] < 0.1
    assert abs(found.discrepancy) < 0.3


@pytest.mark.parametrize(
    ("settings", "word"), [({"mean": 1.6}, "too bright"), ({"deviation": 0.02}, "texture"), ({"deviation": 0.9}, "texture")]
)
def test_images_of_another_kind_are_refused(settings, word):
    found = judge(Gate(), [seen(f"made-{n}", n + 50, **settings) for n in range(10)], REAL, 1)
    assert not found.passed
    assert any(word in sentence for sentence in found.why)


def test_copies_are_named_and_too_many_refuse_all():
    made = [seen(f"made-{n}", n + 50) for n in range(9)]
    one = [*made, Seen("copy", "copy", REAL[3].labels, REAL[3].thumbnail)]
    found = judge(Gate(), one, REAL, 1)
    assert found.copies == ("copy",)
    assert found.passed, "one in ten may be left out"
    assert found.nearest == pytest.approx(1)
    three = [*made, *(Seen(f"copy-{n}", f"copy-{n}", REAL[n].labels, REAL[n].thumbnail) for n in range(3))]
    assert not judge(Gate(), three, REAL, 1).passed


def test_too_few_images_can_t_be_judged():
    with pytest.raises(InputError, match="1 synthetic image"):
        judge(Gate(), REAL[:1], REAL, 1)
    with pytest.raises(InputError, match="3 training images of 3 people"):
        judge(Gate(), REAL[:2], REAL[:3], 1)
    with pytest.raises(InputError, match="12 training images of 1 people"):
        judge(Gate(), REAL[:2], [replace(seen, subject="one") for seen in REAL], 1)


def test_a_person_who_was_scanned_twice_hides_no_copy():
    thumb = REAL[3].thumbnail + np.random.default_rng(0).normal(0, 1e-4, REAL[3].thumbnail.shape)
    again = replace(REAL[3], series="again", thumbnail=thumb / np.linalg.norm(thumb))
    made = [seen(f"made-{n}", n + 50) for n in range(9)]
    found = judge(Gate(), [*made, replace(again, series="copy", subject="copy")], [*REAL, again], 1)
    assert found.copies == ("copy",)
    assert found.nearest_real < 0.99


def test_a_label_that_one_image_lacks_is_no_difference():
    bare = replace(REAL[0], labels={name: found for name, found in REAL[0].labels.items() if name != "rest"})
    made = [seen(f"made-{n}", n + 50) for n in range(10)]
    found = judge(Gate(), made, [bare, *REAL[1:]], 1)
    assert found.passed
    assert set(found.mean_off) == set(NAMES)
