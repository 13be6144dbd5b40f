from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.noisy_labels.early_learning_regularization import clamped_softmax, early_learning_term
from lightning_modules.noisy_labels.elr import ELR, updated_target

B, K = 6, 5


def elr_loss(logits: Tensor, label: Tensor, target: Tensor, strength: float) -> Tensor:
    return F.cross_entropy(logits, label) + strength * early_learning_term(clamped_softmax(logits), target)


@pytest.fixture
def example() -> tuple[Tensor, Tensor, Tensor]:
    """Logits near zero, so that no probability is clamped, labels, and targets whose rows sum to less than one."""
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


def test_term_pulls_towards_a_certain_target_and_away_from_the_rest(example: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, _, _ = example
    target = F.one_hot(torch.full((B,), 2), K).double()
    (gradient,) = torch.autograd.grad(early_learning_term(clamped_softmax(logits), target), logits)
    assert (gradient[:, 2] < 0).all()
    assert (gradient[:, [0, 1, 3, 4]] > 0).all()


def test_without_strength_the_loss_is_cross_entropy(example: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, label, target = example
    assert torch.equal(elr_loss(logits, label, target, strength=0.0), F.cross_entropy(logits, label))


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
    memory = PerSample(K).allocate(20, "cpu", torch.float64)
    index = torch.tensor([3, 17, 5])
    for visit in range(1, 6):
        probability = clamped_softmax(torch.randn(3, K, dtype=torch.float64))
        rows = memory.update(index, probability, lambda old, new: updated_target(old, new, 0.9))
        torch.testing.assert_close(
            rows.sum(dim=1), torch.full((3,), 1 - 0.9**visit, dtype=torch.float64), rtol=0, atol=1e-9
        )
    untouched = memory.gathered()[[i for i in range(20) if i not in index]]
    assert (untouched == 0).all()
    assert not memory.gathered().requires_grad


def test_without_momentum_the_target_is_the_prediction() -> None:
    probability = clamped_softmax(torch.randn(B, K, dtype=torch.float64))
    target = updated_target(torch.rand(B, K, dtype=torch.float64), probability, momentum=0.0)
    torch.testing.assert_close(target, probability / probability.sum(dim=1, keepdim=True))


def test_a_clamped_prediction_is_made_to_sum_to_one_again() -> None:
    probability = clamped_softmax(torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64))
    target = updated_target(torch.tensor([[0.2, 0.3, 0.1]], dtype=torch.float64), probability, momentum=0.7)
    expected = [0.14 + 0.3 * 0.9999 / 1.0001, 0.21 + 0.3 * 0.0001 / 1.0001, 0.07 + 0.3 * 0.0001 / 1.0001]
    torch.testing.assert_close(target, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_step_adds_lambda_times_the_term_to_cross_entropy() -> None:
    """Of an image that is seen for the second time, with beta .9: t = .1 (.9 p_before + p)."""
    module = ELR(torch.nn.Flatten(), num_classes=3, strength=4.0, momentum=0.9)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    module.targets = PerSample(3).allocate(4, "cpu", torch.float64)
    logits = torch.tensor([[[2.0, 0.5, -1.0], [0.0, 1.0, 0.3]], [[1.0, 1.5, -0.5], [-1.0, 2.0, 0.0]]]).double()
    batch: Any = {"label": torch.tensor([0, 2]), "index": torch.tensor([3, 1]), "global_size": 2}
    for image in logits:
        loss = module.training_step({**batch, "image": image[:, :, None, None]}, 0)["loss"]
    before, p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=2, keepdims=True)
    cross_entropy = -np.log(p[[0, 1], [0, 2]]).mean()
    term = np.log(1 - (0.1 * (0.9 * before + p) * p).sum(axis=1)).mean()
    assert float(loss) == pytest.approx(cross_entropy + 4 * term, abs=1e-12)


def test_memory_belongs_to_the_sample_and_not_to_its_place_in_the_batch() -> None:
    index, value = torch.randperm(50)[:B], torch.rand(B, K, dtype=torch.float64)
    order = torch.randperm(B)
    rows = []
    for these in (torch.arange(B), order):
        memory = PerSample(K).allocate(50, "cpu", torch.float64)
        memory.update(index[these], value[these], lambda old, new: 0.5 * old + 0.5 * new)
        rows.append(memory.gathered())
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=0)


def test_half_precision_storage_rounds_and_nothing_else() -> None:
    memory = PerSample(K).allocate(4, "cpu", torch.float16)
    value = torch.rand(2, K)
    rows = memory.update(torch.tensor([0, 2]), value, lambda old, new: new)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, value.half().float(), rtol=0, atol=0)


def test_state_of_another_size_is_refused() -> None:
    memory = PerSample(K)
    memory.restore(torch.zeros(4, K))
    with pytest.raises(ValueError, match=r"\[4, 5\].*\[6, 5\]"):
        memory.allocate(6, "cpu")


@pytest.mark.parametrize(("key", "value"), [("strength", -1.0), ("momentum", 1.0), ("momentum", -0.1)])
def test_bad_arguments_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        ELR(torch.nn.Identity(), num_classes=2, **{key: value})
