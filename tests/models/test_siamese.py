"""The network of two time points: exchanging them exchanges what was lost and gained, whatever the weights."""

import pytest
import torch

from medray.errors import ConfigError
from medray.models.ends import Ends
from medray.models.siamese import Siamese
from medray.models.spec import NetworkSpec

SPEC = NetworkSpec(name="siamese", features=(4, 8, 16))


@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_exchanged_scans_exchange_the_answer(states, norm):
    torch.manual_seed(0)
    spec = NetworkSpec(name="siamese", features=(4, 8, 16), norm=norm)
    network = Siamese(spec, Ends(2, states**2, (16, 16, 8))).eval()
    image = torch.randn(2, 2, 16, 16, 8)
    with torch.inference_mode():
        said, turned = network(image), network(image.flip(1))
    for was in range(states):
        for became in range(states):
            there, back = said[:, was + states * became], turned[:, became + states * was]
            assert torch.allclose(there, back, atol=1e-5)
    assert (said - turned).abs().max() > 1e-3, "and it isn't blind to which came first"


def test_it_learns_what_was_lost_and_gained():
    torch.manual_seed(0)
    network = Siamese(SPEC, Ends(2, 4, (16, 16)))
    steps = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        scans = (torch.rand(8, 2, 4, 4) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
        truth = (scans[:, 0] + 2 * scans[:, 1]).long()
        loss = torch.nn.functional.cross_entropy(network(scans), truth)
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize("ends", [Ends(3, 4, (8, 8, 8)), Ends(2, 3, (8, 8, 8))])
def test_what_is_no_pair_is_refused(ends):
    with pytest.raises(ConfigError, match="compares two time points"):
        Siamese(SPEC, ends)
