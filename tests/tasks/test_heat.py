import numpy as np
import torch

from medray.tasks.heat import coarser, focal_loss, heat_of


def ball():
    mask = np.zeros((32, 32, 16), bool)
    mask[11:16, 18:22, 4:8] = True
    return torch.from_numpy(heat_of(mask))[None, None]


def answered(places):
    """Certain answers at some places of 8 voxels a side, as a coarse network gives them."""
    coarse = torch.full((1, 1, 4, 4, 2), -6.0)
    for place in places:
        coarse[0, 0][place] = 6.0
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)


def test_a_coarse_place_is_as_warm_as_its_warmest_voxel():
    logits, heat = coarser(answered([(1, 2, 0)]), ball(), 8)
    assert logits.shape == heat.shape == (1, 1, 4, 4, 2)
    assert (heat == 1).nonzero().tolist() == [[0, 0, 1, 2, 0]]
    assert (logits > 0).nonzero().tolist() == [[0, 0, 1, 2, 0]]
    flat, warm = coarser(answered([(1, 2, 0)])[..., :1], ball()[..., 5:6], 8)
    assert flat.shape == warm.shape == (1, 1, 4, 4, 1)


def test_a_coarse_network_that_is_right_pays_least():
    def loss(places, stride):
        return float(focal_loss(*coarser(answered(places), ball(), stride)))

    right = [(1, 2, 0)]
    assert loss(right, 8) < 0.05 * loss([], 8)
    assert loss(right, 1) > 100 * loss(right, 8), "by voxels, being right costs as much as all that is around the middle"
