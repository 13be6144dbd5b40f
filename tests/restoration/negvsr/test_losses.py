import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.restoration.negvsr.losses import (
    adversarial,
    average_pool_clips,
    discriminating,
    negative_distance,
    real_or_fake_loss,
)


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*(shape or (2, 3, 1, 8, 8)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("detached", [False, True])
def test_the_negative_term_pulls_both_results_equally_hard(detached: bool) -> None:
    negative, positive = clip().requires_grad_(), clip(seed=1).requires_grad_()
    negative_distance(negative, positive, detached).backward()
    expected = (negative - positive).sign() / negative.numel()
    torch.testing.assert_close(negative.grad, expected)
    if detached:
        assert positive.grad is None
    else:
        torch.testing.assert_close(positive.grad, -expected)


def test_targets_of_cleaning_are_means_of_squares() -> None:
    given = clip(2, 3, 1, 8, 12)
    made = average_pool_clips(given, 4)
    assert made.shape == (2, 3, 1, 2, 3)
    torch.testing.assert_close(made[1, 2, 0, 1, 2], given[1, 2, 0, 4:, 8:].mean())
    area = F.interpolate(given.flatten(0, 1), scale_factor=0.25, mode="area")
    torch.testing.assert_close(made.flatten(0, 1), area)


def test_judgements_are_cross_entropies() -> None:
    score = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    for real in (True, False):
        expected = F.binary_cross_entropy_with_logits(score, torch.full_like(score, float(real)))
        torch.testing.assert_close(real_or_fake_loss(score, real), expected)


def test_each_network_gets_the_gradient_of_its_own_term() -> None:
    torch.manual_seed(0)
    discriminator = nn.Conv2d(1, 1, 3, padding=1).double()
    clean, made = clip(), clip(seed=1).requires_grad_()
    (0.05 * adversarial(discriminator, made) + discriminating(discriminator, clean, made)).backward()
    own = {name: parameter.grad for name, parameter in discriminator.named_parameters()}
    image = made.grad
    assert all(parameter.requires_grad for parameter in discriminator.parameters())
    made.grad = None
    discriminator.zero_grad()
    (0.05 * F.softplus(-discriminator(made.flatten(0, 1))).mean()).backward()
    torch.testing.assert_close(image, made.grad)
    discriminator.zero_grad()
    real, false = (discriminator(each.detach().flatten(0, 1)) for each in (clean, made))
    (F.softplus(-real).mean() + F.softplus(false).mean()).backward()
    for name, parameter in discriminator.named_parameters():
        torch.testing.assert_close(own[name], parameter.grad)
