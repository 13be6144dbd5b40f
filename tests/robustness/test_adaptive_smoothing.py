import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from scipy import stats
from torch import Tensor, nn

from callbacks.guards.seeding import SeedEveryBatch
from callbacks.pretraining import Pretraining
from datamodules.batches import LabelledImageBatch
from datamodules.classification.digits import Digits
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.interfaces import Classifier, SmoothedClassifier
from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.adaptive_smoothing.attacks import (
    ascent,
    attack_objective,
    drawn_steps,
    randomised_attack,
    targeted_dlr,
)
from lightning_modules.robustness.adaptive_smoothing.mixing import (
    Mixed,
    MixedClassifier,
    lipschitz_radius,
    log_mixture,
    needed_margin,
    smoothing_radius,
    tight_smoothing_radius,
)
from lightning_modules.robustness.adaptive_smoothing.mixture import (
    AlphaRange,
    ClampedBatchNorm,
    MixingPerceptron,
    MixingResNet,
    Mixture,
)
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing, mixing_loss
from lightning_modules.robustness.attacks.ascent import size

alphas = st.floats(0.01, 0.99)
seeds = st.integers(0, 10_000)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simplex(count: int, classes: int, seed: int) -> Tensor:
    return normal(count, classes, seed=seed, scale=3).softmax(dim=1)


# mixture


@settings(max_examples=30, deadline=None)
@given(alpha=alphas, seed=seeds)
def test_softmax_of_the_mixture_is_the_convex_combination(alpha: float, seed: int) -> None:
    g, h = normal(6, 5, seed=seed, scale=4), normal(6, 5, seed=seed + 1, scale=4)
    expected = (1 - alpha) * g.softmax(dim=1) + alpha * h.softmax(dim=1)
    mixed = log_mixture(g, h, alpha)
    torch.testing.assert_close(mixed.softmax(dim=1), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.exp().sum(dim=1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    per_image = torch.linspace(0, 1, 6, dtype=torch.float64)
    expected = (1 - per_image)[:, None] * g.softmax(dim=1) + per_image[:, None] * h.softmax(dim=1)
    torch.testing.assert_close(log_mixture(g, h, per_image).exp(), expected, rtol=0, atol=1e-12)


def test_at_its_ends_the_mixture_is_one_classifier() -> None:
    g, h = normal(6, 5), normal(6, 5, seed=1)
    torch.testing.assert_close(log_mixture(g, h, 0.0), g.log_softmax(dim=1))
    torch.testing.assert_close(log_mixture(g, h, 1.0), h.log_softmax(dim=1))


def test_large_scales_do_not_underflow() -> None:
    """With logits of +-200 the probabilities of float32 and float16 vanish, and their logarithms do not."""
    g = 200 * torch.tensor([[1.0, -1.0, 0.5]])
    h = torch.tensor([[-150.0, 150.0, 0.0]])
    expected = np.logaddexp(
        np.log(0.1) + (g.double() - torch.logsumexp(g.double(), 1)).numpy(),
        np.log(0.9) + (h.double() - torch.logsumexp(h.double(), 1)).numpy(),
    )
    for dtype in (torch.float32, torch.float16):
        mixed = log_mixture(g.to(dtype), h.to(dtype), 0.9)
        assert mixed.dtype == torch.float32
        np.testing.assert_allclose(mixed.double().numpy(), expected, rtol=1e-5)


def test_a_weight_of_all_but_nothing_has_a_gradient() -> None:
    """sigmoid(60) is 1 in float32, where log(1 - alpha) would be infinite."""
    gamma = torch.tensor([60.0], requires_grad=True)
    alpha, complement = AlphaRange(2.0, 0.4).alpha(gamma)
    mixed = log_mixture(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 1.0]]), alpha, complement)
    (gradient,) = torch.autograd.grad(mixed[0, 0], gamma)
    assert mixed.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.51, 0.6, 0.75, 0.95])
def test_a_class_of_sufficient_margin_is_never_outvoted(alpha: float, seed: int) -> None:
    g, h = simplex(20_000, 4, seed), simplex(20_000, 4, seed + 100)
    top = h.topk(2, dim=1).values
    safe = top[:, 0] - top[:, 1] >= needed_margin(alpha)
    kept = log_mixture(g.log(), h.log(), alpha).argmax(dim=1) == h.argmax(dim=1)
    assert safe.sum() > 20
    assert kept[safe].all()
    assert not kept[~safe].all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_up_to_one_half_any_class_can_be_outvoted(alpha: float) -> None:
    h, g = torch.tensor([[0.999, 0.0005, 0.0005]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert needed_margin(alpha) >= 1
    assert log_mixture(g.log(), h.log(), alpha).argmax() == 1
    assert lipschitz_radius(h, 1.0, alpha) < 0
    assert smoothing_radius(0.999, 0.0005, alpha, 0.5) < 0
    assert tight_smoothing_radius(0.999, alpha, 0.5) < 0


# radii


@settings(max_examples=50, deadline=None)
@given(p=st.floats(0.4, 0.9999), share=st.floats(0.01, 1), alpha=st.floats(0.05, 1), sigma=st.floats(0.1, 2))
def test_smoothing_radius(p: float, share: float, alpha: float, sigma: float) -> None:
    second = share * min(p, 1 - p)
    radius = float(smoothing_radius(p, second, alpha, sigma))
    assert radius <= float(smoothing_radius(p, second, min(alpha + 0.05, 1), sigma)) + 1e-9
    if alpha <= 0.5:
        assert radius < 0
    # The form of the authors' code, with mu = (1 - alpha) / alpha.
    mu = (1 - alpha) / alpha
    published = sigma / 2 * (stats.norm.ppf(p / (1 + mu)) - stats.norm.ppf((second + mu) / (1 + mu)))
    assert radius == pytest.approx(published, rel=1e-7, abs=1e-9)
    two_class = sigma / 2 * (stats.norm.ppf(p) - stats.norm.ppf(second))
    assert float(smoothing_radius(p, second, 1.0, sigma)) == pytest.approx(two_class)
    single = sigma * stats.norm.ppf(alpha * p)
    assert float(smoothing_radius(p, 1 - p, alpha, sigma)) == pytest.approx(single, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("distance", [0.1, 0.3, 0.8])
def test_flipping_a_smoothed_half_space_takes_the_certified_radius_whatever_g_is(alpha: float, distance: float) -> None:
    """h_0 is Phi(m / sigma) at distance m from the plane, and the worst g is all for class 1."""
    sigma = 0.5

    def robust(m: float) -> float:
        return float(stats.norm.cdf(m / sigma))

    radius = float(smoothing_radius(robust(distance), 1 - robust(distance), alpha, sigma))
    low, high = -5.0, 5.0
    for _ in range(80):  # the place where alpha h_0 = (1 - alpha) + alpha h_1
        middle = (low + high) / 2
        flipped = alpha * robust(middle) < 1 - alpha + alpha * (1 - robust(middle))
        low, high = (middle, high) if flipped else (low, middle)
    assert max(distance - high, 0) >= radius - 1e-9
    assert distance - high == pytest.approx(float(tight_smoothing_radius(robust(distance), alpha, sigma)), abs=1e-9)
    if alpha == 1:
        assert radius == pytest.approx(distance)


@pytest.mark.parametrize("alpha", [0.55, 0.7, 0.9, 1.0])
def test_lipschitz_radius_is_that_at_which_the_margin_is_used_up(alpha: float) -> None:
    h = simplex(200, 4, seed=3)
    constants = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    radius = lipschitz_radius(h, constants, alpha)
    for probability, r in zip(h, radius, strict=True):
        y = int(probability.argmax())
        others = [i for i in range(4) if i != y]
        moved = [  # h falls for y and rises for i as fast as it can
            probability[y] - r * constants[y] - probability[i] - r * constants[i] for i in others
        ]
        if r > 0:
            assert min(moved) == pytest.approx(needed_margin(alpha), abs=1e-12)
        else:
            assert min(probability[y] - probability[i] for i in others) <= needed_margin(alpha) + 1e-12
    one = lipschitz_radius(h, 1.5, alpha)
    top = h.topk(2, dim=1).values
    torch.testing.assert_close(one, (alpha * (top[:, 0] - top[:, 1]) + alpha - 1) / (3 * alpha))
    assert (lipschitz_radius(h, 1.5, 0.0) == -math.inf).all()


# mixing network


def pair(classes: int = 4, policy_graph: bool = True, **options: Any) -> Mixture:
    torch.manual_seed(0)
    g = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, classes))
    h = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, classes))
    mixture = Mixture(
        g,
        h,
        MixingPerceptron(11, [8]),
        accurate_features=["3"],
        robust_features=["3"],
        policy_graph=policy_graph,
        **options,
    )
    return mixture.double()


def images(count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    return image, torch.randint(4, (count,), generator=generator)


def test_clamp_and_normalisation_in_training_and_their_running_statistics() -> None:
    norm = ClampedBatchNorm(momentum=0.01).double()
    reference = nn.BatchNorm1d(1, affine=False, momentum=0.01).double()
    for step in range(3):
        raw = normal(40, seed=step, scale=2).requires_grad_()
        mean, std = raw.detach().mean(), raw.detach().std(unbiased=True)
        clamped = raw.clamp(mean - 0.6 * std, mean + 0.6 * std)
        expected = reference(clamped[:, None])[:, 0]
        found = norm(raw)
        torch.testing.assert_close(found, expected)
        weight = normal(40, seed=9)
        (gradient,) = torch.autograd.grad((found * weight).sum(), raw)
        (wanted,) = torch.autograd.grad((expected * weight).sum(), raw)
        torch.testing.assert_close(gradient, wanted)
        outside = (raw - mean).abs() > 0.6 * std
        assert outside.any()
        assert (gradient[outside] == 0).all()
    torch.testing.assert_close(norm.running_mean, reference.running_mean[0])
    torch.testing.assert_close(norm.running_var, reference.running_var[0])
    raw = normal(7, seed=5)
    torch.testing.assert_close(norm.eval()(raw), reference.eval()(raw[:, None])[:, 0])


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0, 0.9), bias=st.floats(0, 0.1), seed=seeds)
def test_alpha_is_in_its_range_in_evaluation_and_not_brought_to_it_in_training(
    scale: float, bias: float, seed: int
) -> None:
    mixture = pair(alpha_scale=scale, alpha_bias=bias, gamma_scale=3.0, gamma_bias=-1.0).eval()
    image, _ = images(seed=seed)
    learned, raw = mixture.mixed(image), mixture.mix(image, mixture.in_training)
    assert ((learned.alpha >= bias) & (learned.alpha <= bias + scale)).all()
    torch.testing.assert_close(learned.alpha, torch.sigmoid(learned.gamma) * scale + bias)
    torch.testing.assert_close(raw.alpha, torch.sigmoid(raw.gamma))
    torch.testing.assert_close((learned.gamma + 1) / 3, (raw.gamma - 0.4) / 2)  # the same number before scale and bias
    g, h = mixture.accurate(image), mixture.robust(image)
    expected = (1 - learned.alpha)[:, None] * g.softmax(1) + learned.alpha[:, None] * h.softmax(1)
    torch.testing.assert_close(learned.log_probability.exp(), expected)
    torch.testing.assert_close(mixture(image), learned.log_probability)


def test_a_fixed_alpha_mixes_scaled_logits_and_its_ends_are_the_classifiers() -> None:
    mixture = pair(accurate_scale=2.0, robust_scale=0.5, alpha=0.7).eval()
    image, _ = images()
    g, h = 2 * mixture.accurate(image), 0.5 * mixture.robust(image)
    torch.testing.assert_close(mixture(image), log_mixture(g, h, 0.7))
    mixed = mixture.mix_at(image, 0.7)
    torch.testing.assert_close(torch.sigmoid(mixed.gamma), mixed.alpha)
    for alpha, logits, gamma in ((0.0, g, -math.inf), (1.0, h, math.inf)):
        mixed = mixture.mix_at(image, alpha)
        torch.testing.assert_close(mixed.log_probability, logits.log_softmax(1))
        assert (mixed.gamma == gamma).all()


def test_the_mixing_network_sees_the_named_features_and_nothing_stays_hooked() -> None:
    mixture = pair().eval()
    image, _ = images()
    expected = torch.cat([mixture.accurate[:4](image), mixture.robust[:4](image)], dim=1)  # type: ignore[index]
    seen: list[Tensor] = []
    assert mixture.mixing_network is not None
    mixture.mixing_network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mixture(image)
    torch.testing.assert_close(seen[0], expected)
    assert not any(module._forward_hooks for module in (*mixture.accurate.modules(), *mixture.robust.modules()))


def test_the_mixing_network_of_the_paper_has_its_size() -> None:
    with torch.device("meta"):
        network = MixingResNet(512 + 256, 1024 + 512)
        raw = network(torch.empty(2, 768, 32, 32), torch.empty(2, 1536, 16, 16))
    assert raw.shape == (2, 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 67_848_704


def test_every_shortcut_of_the_mixing_network_starts_after_the_activation() -> None:
    network = MixingResNet(2, 3, widths=(4, 5, 6)).double()
    first, second = torch.randn(2, 2, 16, 16).double(), torch.randn(2, 3, 8, 8).double()

    def rectified(x: Tensor) -> Tensor:
        return F.relu((x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt())

    x = first
    for stage in network.stages:
        for block, stride in zip(stage, (2, 1), strict=True):  # type: ignore[arg-type]
            a = rectified(x)
            shortcut = a if stride == 1 else F.conv2d(a, block.shortcut[0].weight, stride=2)
            hidden = rectified(F.conv2d(a, block.conv1.weight, stride=stride, padding=1))
            x = shortcut + F.conv2d(hidden, block.conv2.weight, padding=1)
        if stage is network.stages[0]:
            x = x + F.conv2d(second, network.second.weight)
    torch.testing.assert_close(network(first, second), x.mean((2, 3)) @ network.linear.weight.T)


# loss


@pytest.mark.parametrize("weights", [(1.5, 0.0, 0.2), (1.0, 0.5, 0.1)])
def test_gradient_of_the_loss_is_the_closed_form(weights: tuple[float, float, float]) -> None:
    bce, ce, product = weights
    log_p, gamma = normal(8, 5).log_softmax(1), normal(8, seed=1).requires_grad_()
    label, attacked = torch.arange(8) % 5, (torch.arange(8) % 2).double()
    losses = mixing_loss(Mixed(log_p, gamma, gamma.sigmoid()), label, attacked, bce, ce, product)
    (gradient,) = torch.autograd.grad(losses.mean(), gamma)
    of_label = -log_p.gather(1, label[:, None])[:, 0]
    torch.testing.assert_close(gradient, (bce + product * of_label) * (gamma.sigmoid() - attacked).detach() / 8)
    log_odds = torch.where(attacked == 1, -F.logsigmoid(gamma), -F.logsigmoid(-gamma))
    torch.testing.assert_close(losses, bce * log_odds + ce * of_label + product * log_odds * of_label)


# attacks


def test_targeted_dlr() -> None:
    z = torch.tensor([[4.0, 1.0, 3.0, 0.0, -2.0], [0.0, 5.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    found = targeted_dlr(z, torch.tensor([0, 4]), torch.tensor([2, 1]))
    torch.testing.assert_close(found, torch.tensor([-(4 - 3) / (4 - 0.5), -(4 - 5) / (5 - 1.5)], dtype=torch.float64))
    torch.testing.assert_close(targeted_dlr(z.log_softmax(1), torch.tensor([0, 4]), torch.tensor([2, 1])), found)


def test_the_objective_of_an_attack() -> None:
    mixed = Mixed(normal(6, 5).log_softmax(1), normal(6, seed=1), normal(6, seed=1).sigmoid())
    label, target, weight = torch.arange(6) % 5, (torch.arange(6) + 2) % 5, torch.linspace(0, 0.4, 6).double()
    targeted = torch.tensor([True, False] * 3)
    loss = torch.where(
        targeted,
        targeted_dlr(mixed.log_probability, label, target),
        F.nll_loss(mixed.log_probability, label, reduction="none"),
    )
    expected = (1 - weight) * loss + weight * torch.log1p(torch.exp(-mixed.gamma))
    torch.testing.assert_close(attack_objective(mixed, label, target, targeted, weight), expected)


def test_the_objective_of_an_attack_on_a_confident_mixture_keeps_its_digits() -> None:
    """In float32 -log p_y is 0 where p_y rounds to 1."""
    z = torch.tensor([[0.0, 30.0], [0.0, 31.0], [-5.0, 2.0]], requires_grad=True)
    mixed = Mixed(z.log_softmax(1), torch.zeros(3), torch.full((3,), 0.5))
    label, no_weight = torch.ones(3, dtype=torch.int64), torch.zeros(3)
    objective = attack_objective(mixed, label, label, torch.zeros(3, dtype=torch.bool), no_weight)
    (gradient,) = torch.autograd.grad(objective.sum(), z)
    exact = z.detach().double().softmax(1)
    torch.testing.assert_close(objective.double(), torch.log1p(exact[:, 0] / exact[:, 1]), rtol=1e-5, atol=0)
    expected = torch.stack([exact[:, 0], -exact[:, 0]], dim=1)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=0)


def untargeted(mixture: Mixture, image: Tensor, label: Tensor, weight: float, steps: int = 10) -> Tensor:
    torch.manual_seed(0)
    weights = torch.full((len(image),), weight, dtype=torch.float64)
    return ascent(
        lambda perturbed: mixture.mix(perturbed, mixture.in_training),
        image,
        lambda mixed: attack_objective(mixed, label, label, torch.zeros_like(label, dtype=torch.bool), weights),
        "linf",
        torch.full((len(image),), 0.1, dtype=torch.float64),
        steps,
        torch.zeros(len(image), dtype=torch.float64),
    )


def test_the_second_term_of_an_attack_lowers_gamma() -> None:
    mixture = pair().eval()
    image, label = images(64)
    gammas = [
        mixture.mix(untargeted(mixture, image, label, weight), mixture.in_training).gamma.mean()
        for weight in (0.0, 1.0)
    ]
    assert gammas[1] < gammas[0] - 0.01
    assert gammas[1] < mixture.mix(image, mixture.in_training).gamma.mean()


def test_an_attack_sees_the_mixing_network_unless_it_is_cut_off() -> None:
    image, label = images(16)
    whole, cut = pair().eval(), pair(policy_graph=False).eval()
    torch.testing.assert_close(whole(image), cut(image))
    gradients = []
    for mixture in (whole, cut):
        given = image.clone().requires_grad_()
        loss = F.nll_loss(mixture.mix(given, mixture.in_training).log_probability, label)
        gradients.append(torch.autograd.grad(loss, given)[0])
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4
    # Without the path the gradient is that of a mixture at constant alpha.
    given = image.clone().requires_grad_()
    alpha = cut.mix(image, cut.in_training).alpha.detach()
    constant = log_mixture(cut.accurate(given), cut.robust(given), alpha)
    torch.testing.assert_close(torch.autograd.grad(F.nll_loss(constant, label), given)[0], gradients[1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_ascent_keeps_its_budgets_and_raises_its_objective(norm: Any) -> None:
    mixture = pair().eval()
    image, label = images(32)
    budget = torch.linspace(0.02, 0.2, 32, dtype=torch.float64)

    def objective(mixed: Mixed) -> Tensor:
        return F.nll_loss(mixed.log_probability, label, reduction="none")

    perturbed = ascent(
        lambda given: mixture.mix(given, mixture.in_training), image, objective, norm, budget, 20, 0.5 * budget
    )
    assert (size(perturbed - image, norm) <= budget + 1e-12).all()
    assert ((perturbed >= 0) & (perturbed <= 1)).all()
    before, after = (objective(mixture.mix(given, mixture.in_training)) for given in (image, perturbed))
    assert (after > before).all()
    assert not perturbed.requires_grad


def test_momentum_keeps_a_part_of_the_former_gradient() -> None:
    """Of a linear objective the gradient is constant, so the sum only grows; one that turns shows what is kept."""
    image = torch.full((2, 1, 1, 1), 0.5, dtype=torch.float64)
    slopes = iter([1.0, -0.5, -0.5])
    seen = []

    def mixture(given: Tensor) -> Any:
        seen.append(given.detach().flatten() - 0.5)
        return given.flatten() * next(slopes)

    momentum = torch.tensor([0.0, 0.9], dtype=torch.float64)
    torch.manual_seed(0)
    end = ascent(mixture, image, lambda value: value, "linf", torch.full((2,), 0.4, dtype=torch.float64), 3, momentum)
    # Steps of 5/3 of the budget reach its end: +, then by the sign of -0.5 + m, then of -0.5 + m (-0.5 + m).
    torch.testing.assert_close(seen[1], torch.tensor([0.4, 0.4], dtype=torch.float64))
    torch.testing.assert_close(seen[2], torch.tensor([-0.4 + 0.4 - 4 / 15, 0.4], dtype=torch.float64))
    torch.testing.assert_close(
        end.flatten() - 0.5, torch.tensor([-0.4, 0.4 - 2 / 3 + 4 / 15 - 4 / 15], dtype=torch.float64)
    )


def test_numbers_of_steps_are_chi_squared() -> None:
    drawn = np.array([drawn_steps(20, (0, 0, batch)) for batch in range(4000)])
    assert drawn.min() >= 1
    assert stats.kstest(drawn + stats.uniform.rvs(-0.5, 1, 4000, random_state=0), stats.chi2(20).cdf).pvalue > 1e-3
    assert min(drawn_steps(1, (0, 0, batch)) for batch in range(200)) == 1


def test_numbers_of_steps_follow_seed_epoch_and_batch() -> None:
    places = [(seed, epoch, 0) for seed in range(3) for epoch in range(3)]
    rows = [tuple(drawn_steps(20, (seed, epoch, batch)) for batch in range(12)) for seed, epoch, _ in places]
    assert len(set(rows)) == len(places)
    assert rows[4] == tuple(drawn_steps(20, (1, 1, batch)) for batch in range(12))


def test_each_kind_of_attack_is_drawn_and_targets_follow_the_clean_prediction() -> None:
    mixture = pair().eval()
    image, label = images(64)
    torch.manual_seed(1)
    attacked = randomised_attack(
        lambda given: mixture.mix(given, mixture.in_training), image, label, "linf", 0.1, steps=5, num_targets=3
    )
    reach = size(attacked - image, "linf")
    assert (reach <= 0.11 + 1e-12).all()
    assert reach.max() > 0.09
    assert reach.min() < 0.06
    assert (attacked != image).flatten(1).any(dim=1).all()


def test_autocast_to_float16_does_not_reach_the_attack() -> None:
    mixture = pair().float()
    image, label = images()
    seen = set()

    def mixed(given: Tensor) -> Mixed:
        seen.add(torch.is_autocast_enabled("cpu"))
        return mixture.mix(given, mixture.in_training)

    with torch.autocast("cpu", torch.float16):
        randomised_attack(mixed, image.float(), label, "linf", 0.1, steps=2, num_targets=3)
    assert seen == {False}


# module


def module(**options: Any) -> AdaptiveSmoothing:
    built = AdaptiveSmoothing(pair(), num_classes=4, num_targets=3, epsilon=0.1, attack_steps=4, **options).double()
    built.log_dict = lambda *arguments, **given: None  # type: ignore[method-assign, assignment]

    class Started:
        current_epoch = 0

    built.trainer = Started()  # type: ignore[assignment]
    return built


def batch(count: int = 12) -> LabelledImageBatch:
    image, label = images(count)
    return {"image": image, "label": label, "index": torch.arange(count), "global_size": count}


def test_the_length_of_an_attack_is_drawn_for_each_run_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def attack(
        mixture: Any, image: Tensor, label: Tensor, norm: str, epsilon: float, steps: int, targets: int
    ) -> Tensor:
        lengths.append(steps)
        return image

    monkeypatch.setattr("lightning_modules.robustness.adaptive_smoothing.module.randomised_attack", attack)
    built, runs = module(), []
    for seed in ("0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        for number in range(6):
            built.training_step(batch(), number)
        runs.append(lengths[-6:])
    assert len(set(runs[0])) > 1
    assert runs[0] != runs[1]
    assert runs[1] == [drawn_steps(4, (1, 0, number)) for number in range(6)]


def test_a_step_trains_the_mixing_network_alone() -> None:
    built = module()
    built.train()
    before = {name: value.clone() for name, value in built.network.state_dict().items()}
    output = built.training_step(batch(), 0)
    output["loss"].backward()
    assert output["logits"].shape == (12, 4)
    assert not output["logits"].requires_grad
    assert built.network.training
    for part in (built.network.accurate, built.network.robust):
        assert not any(submodule.training for submodule in part.modules())
        assert all(parameter.grad is None for parameter in part.parameters())
    assert built.network.mixing_network is not None
    assert all(parameter.grad is not None for parameter in built.network.mixing_network.parameters())
    after = built.network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"normalization.running_mean", "normalization.running_var"}
    trained = {
        id(parameter) for group in built.configure_optimizers()[0][0].param_groups for parameter in group["params"]
    }
    assert trained == {id(parameter) for parameter in built.network.mixing_network.parameters()}


def test_a_step_is_the_loss_on_clean_and_attacked_images(monkeypatch: pytest.MonkeyPatch) -> None:
    built = module(clean_weight=2.0)
    built.train()
    given = batch()
    moved = (given["image"] + 0.05).clamp(0, 1)
    in_evaluation, seen = [], []

    def attack(mixture: Any, image: Tensor, *rest: Any) -> Tensor:
        in_evaluation.append(not built.network.normalization.training and not built.network.training)
        seen.append(mixture(image))
        return moved

    monkeypatch.setattr("lightning_modules.robustness.adaptive_smoothing.module.randomised_attack", attack)
    loss = built.training_step(given, 0)["loss"]
    assert in_evaluation == [True]
    again = module(clean_weight=2.0).eval()
    gamma = again.network.mixed(given["image"]).gamma - 1.3 + 0.4  # the bias of evaluation, and that of training
    torch.testing.assert_close(seen[0].gamma, gamma)
    torch.testing.assert_close(seen[0].alpha, gamma.sigmoid())
    again.train()
    mixed = again.network.mix(torch.cat([given["image"], moved]), again.network.in_training)
    attacked = torch.tensor([0.0] * 12 + [1.0] * 12, dtype=torch.float64)
    losses = mixing_loss(mixed, given["label"].repeat(2), attacked, 1.5, 0.0, 0.2)
    torch.testing.assert_close(loss, (2 * losses[:12].sum() + losses[12:].sum()) / 24)


def test_what_is_certified_is_the_smoothed_robust_classifier_at_the_least_alpha() -> None:
    built = module()
    assert isinstance(built, SmoothedClassifier)
    assert isinstance(built, Classifier)
    assert isinstance(built, MixedClassifier)
    built.eval()
    image, _ = images(5)
    noise = normal(5, 1, 4, 4)
    votes = built.smoothed_logits(image.float(), noise.float(), 0.25)
    torch.testing.assert_close(votes, built.network.robust(image + 0.25 * noise)[None], rtol=1e-5, atol=1e-6)
    assert built.certified_radius([0.9], 0.25) == pytest.approx(0.25 * stats.norm.ppf(0.84 * 0.9))
    assert built.certified_radius([0.55], 0.25) < 0
    fixed = module(alpha=0.7)
    assert fixed.certified_radius([0.9], 0.25) == pytest.approx(float(smoothing_radius(0.9, 0.1, 0.7, 0.25)))
    assert module(alpha=0.5).certified_radius([1.0], 0.25) <= 0
    tight = module(alpha=0.7, radius="tight")
    assert tight.certified_radius([0.9], 0.25) > fixed.certified_radius([0.9], 0.25)
    assert module(alpha=0.5, radius="tight").certified_radius([0.999], 0.25) == -math.inf
    assert len({one.certificate for one in (built, fixed, tight)}) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_votes_of_weights_in_half_precision_are_counted(dtype: torch.dtype) -> None:
    """Noise is added in float32, and the sum is rounded."""
    built = module().to(dtype).eval()
    image, noise = images(5)[0].float(), normal(5, 1, 4, 4).float()
    votes = built.smoothed_logits(image, noise, 0.25)
    assert torch.equal(votes, built.network.robust((image + 0.25 * noise).to(dtype))[None])


@pytest.mark.parametrize("earlier", [{}, {"network._extra_state": torch.tensor([math.nan, 1.0, 1.0])}])
def test_a_checkpoint_does_not_change_alpha(earlier: dict[str, Tensor]) -> None:
    learned, fixed = module(), module(alpha=0.9)
    fixed.load_state_dict({**learned.state_dict(), **earlier})
    assert fixed.network.alpha == 0.9
    torch.testing.assert_close(fixed(images()[0]), fixed.mix(images()[0], 0.9).log_probability)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", 1.5),
        ("epsilon", 0.0),
        ("attack_steps", 0),
        ("num_targets", 4),
        ("norm", "l1"),
        ("bce_weight", -1.0),
        ("ce_weight", -1.0),
        ("product_weight", -1.0),
        ("clean_weight", -1.0),
    ],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    arguments: dict[str, Any] = {"num_targets": 3, key: value}
    with pytest.raises(ValueError, match=key):
        AdaptiveSmoothing(pair(), num_classes=4, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accurate_scale": 0.0}, "accurate_scale must be positive, got 0"),
        ({"alpha_scale": 0.9, "alpha_bias": 0.2}, "together at most 1, got 0.9 and 0.2"),
        ({"momentum": 0.0}, r"momentum must be in \(0, 1\], got 0"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
    ],
)
def test_bad_mixtures_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(**options)


def test_features_must_be_there_for_a_mixing_network() -> None:
    def mlp() -> MLP:
        return MLP(16, [4], 3)

    with pytest.raises(ValueError, match="accurate_features: MLP has no submodule layers"):
        Mixture(mlp(), mlp(), MixingPerceptron(8, []), accurate_features=["layers.7"], robust_features=["layers.1"])
    with pytest.raises(ValueError, match="got 1 and 0"):
        Mixture(mlp(), mlp(), MixingPerceptron(8, []), accurate_features=["layers.1"])
    with pytest.raises(ValueError, match="alpha must be given"):
        AdaptiveSmoothing(Mixture(mlp(), mlp()), num_classes=3, num_targets=0)
    without = AdaptiveSmoothing(Mixture(mlp(), mlp(), alpha=0.8), num_classes=3, num_targets=0)
    assert not without.chooses_alpha
    assert without(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match="nothing to train"):
        without.setup("fit")


def digits_module() -> AdaptiveSmoothing:
    torch.manual_seed(3)
    mixture = Mixture(
        MLP(64, [12], 10),
        MLP(64, [6], 10),
        MixingPerceptron(18, [8]),
        accurate_features=["layers.1"],
        robust_features=["layers.1"],
    )
    return AdaptiveSmoothing(mixture, num_classes=10, epsilon=0.2, attack_steps=3)


def fitted(directory: Path, max_epochs: int, checkpoint: Path | None = None) -> AdaptiveSmoothing:
    """Trains with both first stages, of which a resumed run makes none."""

    def stage(network: nn.Module, part: str) -> Pretraining:
        return Pretraining(CrossEntropy(network, num_classes=10), Digits(train_size=200), 1, part=part)

    built = digits_module()
    first = [stage(MLP(64, [12], 10), "network.accurate"), stage(MLP(64, [6], 10), "network.robust")]
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        callbacks=[SeedEveryBatch(seed=1), *first],
        default_root_dir=directory,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(built, datamodule=Digits(train_size=300, seed=1), ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(directory / "end.ckpt")
    for callback, part in zip(first, (built.network.accurate, built.network.robust), strict=True):
        kept = callback.model.network.state_dict()  # type: ignore[union-attr]
        equal = all(torch.equal(value, kept[name]) for name, value in part.state_dict().items())
        assert equal == (checkpoint is None)
    return built


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "whole", 2)
    fitted(tmp_path / "first", 1)
    resumed = fitted(tmp_path / "second", 2, tmp_path / "first" / "end.ckpt")
    initial = digits_module().state_dict()
    for name, value in whole.state_dict().items():
        if value.dtype.is_floating_point:
            torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
    weights = "network.mixing_network.network.layers.0.weight"
    assert not torch.equal(whole.state_dict()[weights], initial[weights])
