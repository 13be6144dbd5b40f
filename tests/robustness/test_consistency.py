import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.robustness.consistency import Consistency
from lightning_modules.robustness.smoothed_training.consistency_regularization import consistency, loss_on_copies
from lightning_modules.robustness.smoothed_training.noisy_copies import noisy_copies


def test_copies_are_independent_and_have_the_stated_noise_level() -> None:
    torch.manual_seed(0)
    image = torch.full((4, 1, 64, 64), 0.5)
    noise = noisy_copies(image, sigma=0.25, num_copies=2) - image
    assert noise.shape == (2, 4, 1, 64, 64)
    torch.testing.assert_close(noise.std(), torch.tensor(0.25), rtol=0.02, atol=0)
    correlation = (noise[0] * noise[1]).mean() / 0.25**2
    assert abs(correlation) < 4 / math.sqrt(noise[0].numel())


def test_copies_are_not_clipped() -> None:
    copies = noisy_copies(torch.ones(2, 1, 8, 8, dtype=torch.float64), sigma=1.0, num_copies=3)
    assert copies.dtype == torch.float64
    assert copies.max() > 2
    assert copies.min() < 0


def test_agreeing_copies_have_no_divergence_and_their_own_entropy() -> None:
    logits = torch.randn(1, 5, 7, dtype=torch.float64).expand(3, 5, 7)
    divergence, entropy = consistency(logits)
    torch.testing.assert_close(divergence, torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits[0]).entropy())


def test_two_confident_opposite_copies_diverge_by_the_closed_form() -> None:
    """With p = (1 - d, d) and (d, 1 - d) the mean is uniform: KL = -log 2 - log(d (1 - d)) / 2."""
    d = torch.tensor(0.01, dtype=torch.float64)
    logits = torch.stack([torch.stack([1 - d, d]).log(), torch.stack([d, 1 - d]).log()])[:, None]
    divergence, entropy = consistency(logits)
    torch.testing.assert_close(divergence, (-math.log(2) - (d * (1 - d)).log() / 2)[None])
    torch.testing.assert_close(entropy, torch.tensor([math.log(2)], dtype=torch.float64))


def test_divergence_is_that_of_the_distributions() -> None:
    logits = torch.randn(4, 3, 6, dtype=torch.float64)
    copies = [torch.distributions.Categorical(logits=z) for z in logits]
    mean = torch.distributions.Categorical(probs=logits.softmax(dim=-1).mean(dim=0))
    expected = sum(torch.distributions.kl_divergence(mean, copy) for copy in copies) / 4
    divergence, entropy = consistency(logits)
    torch.testing.assert_close(divergence, expected)
    torch.testing.assert_close(entropy, mean.entropy())


def test_gradient_agrees_with_finite_differences() -> None:
    logits = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: consistency(z), logits)


def test_floor_clamps_the_probabilities_and_bounds_the_divergence() -> None:
    """Written with probabilities: log of clamped softmax, and the mean clamped before its log."""
    logits = torch.tensor([[[40.0, 0.0, -3.0]], [[0.0, 40.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    p = logits.detach().softmax(dim=-1)
    mean = p.mean(dim=0).clamp(min=1e-6)
    expected = (mean * (mean.log() - p.clamp(min=1e-6).log())).sum(dim=-1).mean(dim=0)
    divergence, entropy = consistency(logits, floor=1e-6)
    torch.testing.assert_close(divergence, expected)
    torch.testing.assert_close(entropy, -(mean * mean.log()).sum(dim=-1))
    assert divergence < -math.log(1e-6)
    (gradient,) = torch.autograd.grad(divergence.sum(), logits)
    assert gradient.isfinite().all()


def test_logits_far_apart_leave_the_terms_finite_in_half_precision() -> None:
    logits = torch.tensor([[[60.0, 0.0]], [[0.0, 60.0]]], dtype=torch.float16)
    divergence, entropy = consistency(logits)
    assert divergence.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(divergence, torch.tensor([30 - math.log(2)]), rtol=1e-5, atol=0)


def test_loss_adds_the_three_terms_over_all_copies() -> None:
    logits, label = torch.randn(3, 5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 2])
    entropies = torch.stack([F.cross_entropy(z, label) for z in logits]).mean()
    divergence, entropy = consistency(logits)
    expected = entropies + 7.0 * divergence.mean() + 0.3 * entropy.mean()
    torch.testing.assert_close(loss_on_copies(logits, label, 7.0, 0.3), expected)


def test_one_copy_is_training_with_noise_alone() -> None:
    logits, label = torch.randn(1, 5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 2])
    torch.testing.assert_close(loss_on_copies(logits, label, 7.0, 0.3), F.cross_entropy(logits[0], label))


class Recorder(torch.nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 3)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return self.linear(image.flatten(1))


def test_a_step_shows_the_network_every_copy_and_returns_the_first_ones_logits() -> None:
    network = Recorder()
    module = Consistency(network, num_classes=3, sigma=0.5, num_copies=4)
    image, label = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    output = module.training_step(
        {"image": image, "label": label, "index": torch.arange(6), "global_size": 6}, batch_idx=0
    )
    (seen,) = network.seen
    assert seen.shape == (24, 1, 4, 4)
    noise = (seen.unflatten(0, (4, 6)) - image) / 0.5
    assert 0.7 < float(noise.detach().std()) < 1.3
    logits = network.linear(seen.flatten(1)).unflatten(0, (4, 6))
    torch.testing.assert_close(output["loss"], loss_on_copies(logits, label, 10.0, 0.5))
    torch.testing.assert_close(output["logits"], logits[0])
    assert not output["logits"].requires_grad


@pytest.mark.parametrize(
    ("key", "value"), [("sigma", 0.0), ("num_copies", 0), ("consistency_weight", -1.0), ("entropy_weight", -1.0)]
)
def test_bad_arguments_are_named(key: str, value: float) -> None:
    arguments: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=key):
        Consistency(torch.nn.Identity(), num_classes=2, **arguments)
