from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.noisy_labels.early_learning_regularization import clamped_softmax, early_learning_term
from lightning_modules.noisy_labels.elr import ELR, updated_target

B, K = 6, 5


def elr_loss(logits: Tensor, label: Tensor, target: Tensor, strength: float) -> Tensor:
    return F.cross_entropy(logits, label) + strength * early_learning_term(clamped_softmax(logits), target)


@pytest.fixture
def example() -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (near zero, so that no probability is clamped), labels, and targets (with row sums below one)."""
    torch.manual_seed(0)
    logits = torch.randn(B, K, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(K, (B,)), 0.7 * torch.rand(B, K, dtype=torch.float64).softmax(dim=1)


def test_gradient_is_that_of_lemma_2(example: tuple[Tensor, Tensor, Tensor]) -> None:
    """dL/dz_i = (p - y + lambda g) / B with g_c = p_c (<t, p> - t_c) / (1 - <t, p>)."""
    logits, label, target = example
    (gradient,) = torch.autograd.grad(elr_loss(logits, label, target, strength=3.0), logits)
    p = logits.detach().softmax(dim=1)
    inner = (target * p).sum(dim=1, keepdim=True)
    g = p * (inner - target) / (1 - inner)
    torch.testing.assert_close(gradient, (p - F.one_hot(label, K) + 3.0 * g) / B, rtol=0, atol=1e-10)
    torch.testing.assert_close(g.sum(dim=1), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-12)


def test_term_is_never_positive_and_bounded_by_the_clamp() -> None:
    certain = torch.tensor([[100.0, 0.0, 0.0]], dtype=torch.float64)
    term = early_learning_term(clamped_softmax(certain), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(term, torch.tensor(1e-4, dtype=torch.float64).log())


def test_half_precision_logits_leave_the_term_finite() -> None:
    certain = torch.tensor([[100.0, 0.0, 0.0]], dtype=torch.float16)
    probability = clamped_softmax(certain)
    assert probability.dtype == torch.float32
    assert early_learning_term(probability, torch.tensor([[1.0, 0.0, 0.0]])).isfinite()


def test_target_rows_sum_to_one_minus_the_momentum_to_the_visits() -> None:
    rows = torch.zeros(3, K, dtype=torch.float64)
    for epoch in range(1, 6):
        rows = updated_target(rows, clamped_softmax(torch.randn(3, K, dtype=torch.float64)), 0.9)
        expected = torch.full((3,), 1 - 0.9**epoch, dtype=torch.float64)
        torch.testing.assert_close(rows.sum(dim=1), expected, rtol=0, atol=1e-9)


def test_a_clamped_prediction_is_made_to_sum_to_one_again() -> None:
    probability = clamped_softmax(torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64))
    target = updated_target(torch.tensor([[0.2, 0.3, 0.1]], dtype=torch.float64), probability, momentum=0.7)
    expected = [0.14 + 0.3 * 0.9999 / 1.0001, 0.21 + 0.3 * 0.0001 / 1.0001, 0.07 + 0.3 * 0.0001 / 1.0001]
    torch.testing.assert_close(target, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)


def test_value_and_gradient_of_a_step_are_the_equations() -> None:
    """The step sees the images for the second time, with beta = .9: t = .1 (.9 p_before + p), which is constant."""
    module = ELR(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3)), 3, strength=4.0, momentum=0.9).double()
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    module.targets.allocate(4, "cpu", torch.float64)
    x = torch.randn(2, 2, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch: Any = {"label": torch.tensor([0, 2]), "index": torch.tensor([3, 1]), "global_batch_size": 2}
    for image in x:
        module.zero_grad()
        out = module.training_step({**batch, "image": image}, 0)
        out["loss"].backward()
    weight, bias = (parameter.detach().numpy() for parameter in module.network.parameters())
    features = x.flatten(start_dim=2).numpy()
    before, p = (each / each.sum(axis=1, keepdims=True) for each in np.exp(features @ weight.T + bias))
    target = 0.1 * (0.9 * before + p)
    inner = (target * p).sum(axis=1, keepdims=True)
    cross_entropy = -np.log(p[[0, 1], [0, 2]]).mean()
    assert out["loss"].item() == pytest.approx(cross_entropy + 4 * np.log(1 - inner).mean(), abs=1e-12)
    by_logits = (p - np.eye(3)[[0, 2]] + 4 * p * (inner - target) / (1 - inner)) / 2  # lemma 2
    np.testing.assert_allclose(module.network[1].weight.grad, by_logits.T @ features[1], rtol=1e-10, atol=1e-14)  # type: ignore[index, union-attr]
