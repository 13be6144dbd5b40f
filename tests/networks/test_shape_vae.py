import math

import torch
from torch import Tensor

from datamodules.segmentation.ellipses import Ellipses
from lightning_modules.networks.shape_vae import ShapeVAE, kl_to_standard_normal, reconstruction_error


def test_kl_is_zero_for_the_standard_normal_alone_and_agrees_with_torch() -> None:
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert torch.equal(kl_to_standard_normal(zeros, zeros), zeros[:, 0])
    mean, log_variance = torch.randn(2, 4, 5, dtype=torch.float64)
    own = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_reconstruction_error_is_minus_the_log_likelihood() -> None:
    logits = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    mask = (torch.rand(3, 1, 4, 4) < 0.5).double()
    likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(mask).sum(dim=(1, 2, 3))
    torch.testing.assert_close(reconstruction_error(logits, mask), -likelihood)
    undecided = reconstruction_error(torch.zeros_like(logits), mask)
    torch.testing.assert_close(undecided, torch.full_like(undecided, 16 * math.log(2)))


def test_negative_elbo_is_the_sum_of_both() -> None:
    vae, mask = ShapeVAE(32, 3, (2, 2, 2, 2)).double(), (torch.rand(4, 1, 32, 32) < 0.3).double()
    noise = torch.randn(4, 3, dtype=torch.float64)
    mean, log_variance = vae.encode(mask)
    logits = vae.decoder(mean + log_variance.exp().sqrt() * noise)
    expected = reconstruction_error(logits, mask) + 0.7 * kl_to_standard_normal(mean, log_variance)
    torch.testing.assert_close(vae.negative_elbo(mask, 0.7, noise), expected)
    torch.testing.assert_close(vae(mask), vae.decoder(mean))


def trained(vae: ShapeVAE, masks: Tensor, steps: int, batch_size: int, lr: float) -> list[float]:
    """Fit to masks `[N, 1, H, W]`, and return the loss of each step."""
    optimizer, losses = torch.optim.Adam(vae.parameters(), lr), []
    for _ in range(steps):
        loss = vae.negative_elbo(masks[torch.randint(len(masks), (batch_size,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns_ellipses() -> None:
    """In 500 steps the bound improves, and held-out masks are reconstructed with a Dice above 0.9."""
    torch.manual_seed(0)
    shapes, vae = Ellipses(600), ShapeVAE(32, 8, (16, 32, 32, 32))
    masks = shapes.masks(torch.arange(600), 32, seed=0)[:, None].float()
    losses = trained(vae, masks[:400], 500, batch_size=8, lr=1e-3)
    first, middle, last = (sum(losses[at : at + 50]) / 50 for at in (0, 200, 450))
    assert first > middle > last
    with torch.no_grad():
        again = (vae(masks[400:]) > 0).float()
    dice = 2 * (again * masks[400:]).sum(dim=(1, 2, 3)) / (again + masks[400:]).sum(dim=(1, 2, 3))
    assert dice.mean() > 0.9
