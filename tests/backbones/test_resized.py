import torch
from torch import nn

from lightning_modules.backbones.resized import Resized


def test_a_constant_image_stays_constant_and_a_ramp_keeps_its_mean() -> None:
    network = Resized(nn.Identity(), 20)
    torch.testing.assert_close(network(torch.full((2, 3, 8, 8), 0.3)), torch.full((2, 3, 20, 20), 0.3))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8) / 7
    enlarged = network(ramp)
    assert enlarged.shape == (1, 1, 20, 20)
    torch.testing.assert_close(enlarged.mean(), ramp.mean())
    assert (enlarged[0, 0, 0].diff() >= 0).all()
