import pytest
import torch
from torch import Tensor, nn

from lightning_modules.baselines.self2self import Self2Self, self2self_loss
from lightning_modules.networks.unet import UNet


def test_the_loss_is_over_hidden_values_and_their_estimates_do_not_see_them() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(2, 2, 3, padding=1).double()
    noisy = torch.rand(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    kept = (torch.rand(1, 2, 6, 7) >= 0.4).double()
    loss = self2self_loss(network, noisy, kept, 0.4)
    output = network(torch.where(kept.bool(), noisy / 0.6, 0))
    torch.testing.assert_close(loss, (output - noisy)[kept == 0].square().mean())
    (seen,) = torch.autograd.grad(output.sum(), noisy)
    assert not seen[kept == 0].any()


def test_the_estimate_is_a_mean_over_masks_and_dropouts() -> None:
    """The mean of b y / (1 - p) over b is y; masks hide values with probability p, separately for each channel."""
    module, noisy = Self2Self(nn.Conv2d(3, 3, 1), hidden=0.3, steps=1, predictions=400), torch.rand(1, 3, 8, 8)
    torch.manual_seed(1)
    mask = torch.cat([module.mask(noisy) for _ in range(400)])
    assert float(mask.mean()) == pytest.approx(0.7, abs=0.01)
    assert not torch.equal(mask[:, 0], mask[:, 1])
    module.learning_rate = 1e-12  # the network is unchanged
    seen: list[Tensor] = []
    module.network.register_forward_hook(lambda network, _, output: seen.append(network.weight.detach()))
    estimate = module.restore(noisy, torch.Generator().manual_seed(0))
    assert len(seen) == 401
    exact = torch.einsum("oi,nihw->nohw", seen[-1][..., 0, 0], noisy)
    assert not estimate.requires_grad
    assert float((estimate - exact - (estimate - exact).mean(dim=(2, 3), keepdim=True)).abs().max()) < 0.15


def test_dropout_of_the_network_is_active_in_estimates() -> None:
    torch.manual_seed(0)
    network, noisy = UNet(1, 1, [4, 8], dropout=0.5), torch.rand(1, 1, 8, 8)
    assert not torch.equal(network(noisy), network(noisy))
    assert torch.equal(network.eval()(noisy), network(noisy))
