import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.adaptive_smoothing.mixing import log_mixture
from lightning_modules.robustness.adaptive_smoothing.mixture import (
    AlphaRange,
    ClampedBatchNorm,
    MixingPerceptron,
    MixingResNet,
    Mixture,
)
from tests.robustness.adaptive_smoothing.small_mixture import images, normal, pair


def test_a_weight_of_all_but_nothing_has_a_gradient() -> None:
    """In float32, alpha = sigmoid(60) is rounded to 1, for which log(1 - alpha) would be infinite."""
    gamma = torch.tensor([60.0], requires_grad=True)
    alpha, complement = AlphaRange(2.0, 0.4, 1.0, 0.0).alpha(gamma)
    mixed = log_mixture(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 1.0]]), alpha, complement)
    (gradient,) = torch.autograd.grad(mixed[0, 0], gamma)
    assert mixed.isfinite().all()
    assert gradient.isfinite().all()


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
@given(scale=st.floats(0, 0.9), bias=st.floats(0, 0.1), seed=st.integers(0, 10_000))
def test_alpha_is_in_its_range_in_evaluation_and_not_brought_to_it_in_training(
    scale: float, bias: float, seed: int
) -> None:
    mixture = pair(evaluation=AlphaRange(3.0, -1.0, scale, bias)).eval()
    image, _ = images(seed=seed)
    learned, raw = mixture.mixture_output(image), mixture.mix(image, mixture.in_training)
    assert ((learned.alpha >= bias) & (learned.alpha <= bias + scale)).all()
    torch.testing.assert_close(learned.alpha, torch.sigmoid(learned.gamma) * scale + bias)
    torch.testing.assert_close(raw.alpha, torch.sigmoid(raw.gamma))
    torch.testing.assert_close((learned.gamma + 1) / 3, (raw.gamma - 0.4) / 2)  # the same value before scale and bias
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
    # Without the path through alpha, the gradient is that of a mixture with constant alpha.
    given = image.clone().requires_grad_()
    alpha = cut.mix(image, cut.in_training).alpha.detach()
    constant = log_mixture(cut.accurate(given), cut.robust(given), alpha)
    torch.testing.assert_close(torch.autograd.grad(F.nll_loss(constant, label), given)[0], gradients[1])


def test_features_must_be_there_for_a_mixing_network() -> None:
    g, h, mixing = MLP(16, [4], 3), MLP(16, [4], 3), MixingPerceptron(8, [])
    with pytest.raises(ValueError, match=r"accurate_features: there is no layer named layers\.7; .*MLP has: layers"):
        Mixture(g, h, mixing, accurate_features=["layers.7"], robust_features=["layers.1"])
    with pytest.raises(ValueError, match="got 1 and 0"):
        Mixture(g, h, mixing, accurate_features=["layers.1"])
    with pytest.raises(ValueError, match=r"their sum at most 1, got 0\.9 and 0\.2"):
        AlphaRange(alpha_scale=0.9, alpha_bias=0.2)
    with pytest.raises(ValueError, match="widths must be three"):
        MixingResNet(2, 3, widths=(4, 5))
