"""The distribution of the cells, and the objectives, compared with closed forms and with the authors' expressions."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from datamodules.corruptions.image_noise import CounterRNG
from lightning_modules.dynamics.noise_mask.policy import (
    MaskPolicy,
    drawn_cells,
    log_densities,
    mix_log_parameters,
    paper_code,
    reinforce,
    update_base,
)
from tests.numbers import numbers

B, K = 5, 9


def cells(seed: int = 3) -> Tensor:
    return numbers(B, K, seed=seed).sigmoid()


def test_the_law_mixes_base_and_policy_and_the_base_follows_the_mean() -> None:
    base, own = numbers(2, K), numbers(B, 2, K, seed=1)
    for b in range(B):
        torch.testing.assert_close(mix_log_parameters(base, own)[b], 0.9 * base + 0.1 * own[b], rtol=0, atol=1e-12)
    expected = 0.99 * base + 0.01 * sum(own) / B
    torch.testing.assert_close(update_base(base, own.mean(dim=0)), expected, rtol=0, atol=1e-12)


def test_the_policy_gives_both_heads_one_after_the_other() -> None:
    torch.manual_seed(0)
    policy = MaskPolicy(nn.Flatten(), 12, grid=3).double()
    image = numbers(4, 3, 2, 2)
    found = policy(image)
    assert found.shape == (4, 2 * 9)
    a = policy.heads[0]
    hidden = a[0](image.flatten(1))
    hidden = torch.relu((hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt())
    hidden = a[3](hidden)
    hidden = torch.relu((hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(found[:, :9], a[6](hidden), rtol=0, atol=1e-10)


def test_the_papers_policy_is_as_large_as_counted() -> None:
    import timm

    with torch.device("meta"):
        policy = MaskPolicy(timm.create_model("resnet10t", num_classes=0), 512, grid=64)
    assert sum(parameter.numel() for parameter in policy.parameters()) / 1e6 == pytest.approx(10.18, abs=0.01)


def test_the_objective_is_that_of_the_code() -> None:
    log_a, log_b, logits = numbers(B, K), numbers(B, K, seed=1), numbers(B, 4, seed=2)
    label = torch.arange(B) % 4
    law = torch.distributions.Beta(log_a.exp(), log_b.exp())
    code = torch.mean(torch.log(torch.sum(law.log_prob(cells()).exp(), 1)) * F.cross_entropy(logits, label))
    density = log_densities(cells(), log_a, log_b).logsumexp(dim=1)
    ours = paper_code(F.cross_entropy(logits, label, reduction="none"), density)
    torch.testing.assert_close(ours, code, rtol=0, atol=1e-12)
    uniform = log_densities(cells(), torch.zeros(B, K).double(), torch.zeros(B, K).double()).logsumexp(dim=1)
    torch.testing.assert_close(uniform, torch.full_like(uniform, math.log(K)), rtol=0, atol=1e-12)


def test_gradients_of_the_objective() -> None:
    """The policy's gradient comes only from the density, the classifier's from the cross-entropy times the factor."""
    log_a, log_b = numbers(B, K).requires_grad_(), numbers(B, K, seed=1).requires_grad_()
    logits, label = numbers(B, 4, seed=2).requires_grad_(), torch.arange(B) % 4
    density = log_densities(cells(), log_a, log_b)
    cost = F.cross_entropy(logits, label, reduction="none")
    by_a, by_logits = torch.autograd.grad(paper_code(cost, density.logsumexp(dim=1)), (log_a, logits))
    a, b = log_a.detach().exp(), log_b.detach().exp()
    of_density = a * (cells().log() - torch.digamma(a) + torch.digamma(a + b))
    expected = cost.mean().detach() / B * density.detach().softmax(dim=1) * of_density
    torch.testing.assert_close(by_a, expected, rtol=0, atol=1e-12)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, label), logits)
    factor = density.detach().logsumexp(dim=1).mean()
    torch.testing.assert_close(by_logits, factor * plain, rtol=0, atol=1e-12)


def test_reinforce_leaves_cross_entropy_to_the_classifier() -> None:
    log_a, log_b = numbers(B, K).requires_grad_(), numbers(B, K, seed=1)
    logits, label = numbers(B, 4, seed=2).requires_grad_(), torch.arange(B) % 4
    cost = F.cross_entropy(logits, label, reduction="none")
    density = log_densities(cells(), log_a, log_b).sum(dim=1)
    by_a, by_logits = torch.autograd.grad(
        reinforce(cost, density, torch.tensor(0.7, dtype=torch.float64)), (log_a, logits)
    )
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, label), logits)
    torch.testing.assert_close(by_logits, plain, rtol=0, atol=1e-12)
    a, b = log_a.detach().exp(), log_b.exp()
    of_density = a * (cells().log() - torch.digamma(a) + torch.digamma(a + b))
    expected = (cost.detach() - 0.7)[:, None] / B * of_density
    torch.testing.assert_close(by_a, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_reinforce_has_the_gradient_of_the_expected_cost(baseline: float) -> None:
    """The cost M has the expectation a / (a + b), whose derivative with respect to log a is a b / (a + b)^2."""
    count = 400_000
    log_a, log_b = (torch.full((count, 1), value, dtype=torch.float64) for value in (0.3, -0.2))
    drawn = drawn_cells(log_a, log_b, CounterRNG(0, 0, torch.arange(count)))
    parameter = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    density = log_densities(drawn, parameter.expand(count, 1), log_b).sum(dim=1)
    (gradient,) = torch.autograd.grad(reinforce(drawn[:, 0], density, torch.tensor(baseline)), parameter)
    a, b = math.exp(0.3), math.exp(-0.2)
    assert float(gradient) == pytest.approx(a * b / (a + b) ** 2, abs=3e-3)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 0.5), (2.5, 0.7), (40.0, 30.0)])
def test_cells_follow_their_law(a: float, b: float) -> None:
    log_a, log_b = (torch.full((4000, 1), math.log(value), dtype=torch.float64) for value in (a, b))
    drawn = drawn_cells(log_a, log_b, CounterRNG(1, 0, torch.arange(4000)))
    assert stats.kstest(drawn[:, 0].numpy(), stats.beta(a, b).cdf).pvalue > 1e-3
    assert 1e-6 <= float(drawn.min()) < float(drawn.max()) <= 1 - 1e-6


def test_cells_are_of_their_sample_in_whatever_batch_and_have_no_gradient() -> None:
    log_a, log_b = numbers(B, K).requires_grad_(), numbers(B, K, seed=1)
    index = torch.tensor([7, 3, 0, 11, 5])
    drawn = drawn_cells(log_a, log_b, CounterRNG(0, 2, index))
    assert not drawn.requires_grad
    part = drawn_cells(log_a[2:4], log_b[2:4], CounterRNG(0, 2, index[2:4]))
    assert part.equal(drawn[2:4])
    assert not drawn_cells(log_a, log_b, CounterRNG(0, 3, index)).equal(drawn)


def test_very_sharp_laws_have_finite_densities() -> None:
    log_a = torch.tensor([[12.0, -6.0, 12.0]])
    drawn = drawn_cells(log_a, -log_a, CounterRNG(0, 0, torch.tensor([0])))
    assert bool(log_densities(drawn, log_a, -log_a).isfinite().all())
