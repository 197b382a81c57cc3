import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medray.inference import sliding_window
from medray.inference.sliding_window import slide, slide_all, window_of
from medray.models.spec import NetworkSpec
from medray.preprocessing.planning import plan
from tests.phantoms import SMALL_PLAN

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(phantom_cohort):
    return plan(phantom_cohort, changes=SMALL_PLAN)


@settings(deadline=None, max_examples=40)
@given(sides=st.tuples(*[st.integers(1, 70)] * 3), most=st.integers(5_000, 200_000))
def test_a_window_holds_the_image_or_is_small_enough(recipe, sides, most):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sliding_window, "MAX_WINDOW_VOXELS", most)
        window = window_of(sides, recipe)
    assert recipe.network.fits(window)
    assert all(length >= patch for length, patch in zip(window, recipe.patch, strict=True))
    holds = all(length >= side for length, side in zip(window, sides, strict=True))
    assert holds or np.prod(window) <= max(most, np.prod(recipe.patch))


def test_a_network_of_fixed_size_looks_at_patches(recipe):
    spec = NetworkSpec(name="unetr", features=(4, 24))
    assert window_of((40, 40, 40), dataclasses.replace(recipe, network=spec)) == recipe.patch
    instance = dataclasses.replace(recipe, network=NetworkSpec(features=(4, 8), norm="instance"))
    assert window_of((40, 40, 40), instance) == recipe.patch, "its norm depends on how much it sees"


def test_what_it_says_doesn_t_depend_on_the_window(recipe, rng, monkeypatch):
    """A network that looks at one voxel at a time, so that an image's parts have no edges."""
    layer = torch.nn.Conv3d(1, 3, kernel_size=1)
    image = rng.normal(size=(1, 40, 36, 30)).astype(np.float32)

    def network(patch):
        return layer(patch), patch.flatten(2).mean(dim=2)

    with torch.inference_mode():
        whole = slide(network, image, recipe, CPU).whole()
        monkeypatch.setattr(sliding_window, "MAX_WINDOW_VOXELS", 24**3)
        pieces = slide(network, image, recipe, CPU).whole()
    assert whole.shape == pieces.shape == (3, 40, 36, 30)
    assert np.allclose(whole, pieces, atol=1e-5)


def test_each_window_s_embedding_is_there_when_the_map_is(recipe, rng, monkeypatch):
    image = rng.normal(size=(1, 40, 36, 30)).astype(np.float32)
    monkeypatch.setattr(sliding_window, "MAX_WINDOW_VOXELS", 24**3)
    windows = []

    def network(patch):
        windows.append(patch)
        return patch, patch.flatten(2).mean(dim=2)

    blocks = slide(network, image, recipe, CPU)
    assert not blocks.embeddings
    blocks.whole()
    assert np.allclose(blocks.embeddings, [[float(patch.mean())] for patch in windows], atol=1e-6)
    together = dict(slide_all(lambda patch: (patch, patch.flatten(2).mean(dim=2)), [image[:, :16, :16, :16]] * 3, recipe, CPU))
    assert [len(found.embeddings) for found in together.values()] == [1, 1, 1]
