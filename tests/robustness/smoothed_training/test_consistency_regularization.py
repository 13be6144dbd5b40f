import math

import torch
import torch.nn.functional as F

from lightning_modules.robustness.smoothed_training.consistency_regularization import consistency, loss_on_copies
from tests.robustness.smoothed_training.by_hand import loss_by_hand


def test_agreeing_copies_have_no_divergence_and_their_own_entropy() -> None:
    logits = torch.randn(1, 5, 7, dtype=torch.float64).expand(3, 5, 7)
    divergence, entropy = consistency(logits)
    torch.testing.assert_close(divergence, torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits[0]).entropy())


def test_two_confident_opposite_copies_diverge_by_the_closed_form() -> None:
    """The mean of (1 - d, d) and (d, 1 - d) is uniform, so that KL = -log 2 - log(d (1 - d)) / 2."""
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
    """The expected value clamps probabilities before each log: those of every copy, and their mean."""
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


def test_loss_adds_the_three_terms_over_all_copies_and_one_copy_is_noise_alone() -> None:
    label = torch.tensor([0, 3, 1, 2, 2])
    for copies in (1, 3):
        logits = torch.randn(copies, 5, 4, dtype=torch.float64)
        expected = loss_by_hand(logits, label, 7.0, 0.3)
        torch.testing.assert_close(loss_on_copies(logits, label, 7.0, 0.3), expected)
    torch.testing.assert_close(loss_on_copies(logits[:1], label, 7.0, 0.3), F.cross_entropy(logits[0], label))


def test_soft_labels_that_are_certain_are_labels() -> None:
    logits, label = torch.randn(2, 5, 7, dtype=torch.float64), torch.arange(5)
    soft = F.one_hot(label, 7).double()
    torch.testing.assert_close(loss_on_copies(logits, soft, 10.0, 0.5), loss_on_copies(logits, label, 10.0, 0.5))
