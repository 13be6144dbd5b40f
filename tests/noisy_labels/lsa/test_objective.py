import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.losses.mixing import Mixing
from lightning_modules.noisy_labels.lsa.objective import (
    MixedBatch,
    cross_entropy_per_sample,
    uniformity_penalty,
    weighted_cross_entropy,
)

B, C, D = 6, 5, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_vanishing_weights_neither_divide_by_zero_nor_train() -> None:
    z = normal(B, C).requires_grad_()
    loss = weighted_cross_entropy(z, F.one_hot(torch.arange(B) % C, C), torch.zeros(B, dtype=torch.float64))
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert not z.grad.any()


def test_confident_wrong_logits_in_half_precision_give_a_finite_loss() -> None:
    """If the logarithm were taken of a softmax in half precision, it would be the logarithm of zero."""
    z = torch.tensor([[30.0, -30.0]], dtype=torch.float16)
    assert cross_entropy_per_sample(z, torch.tensor([[0.0, 1.0]])) == pytest.approx(60, rel=1e-3)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), scale=st.floats(0, 10))
def test_the_penalty_is_a_divergence_from_the_uniform_prediction(seed: int, scale: float) -> None:
    p = (scale * normal(C, seed=seed)).softmax(dim=0)
    uniform = torch.full((C,), 1 / C, dtype=torch.float64)
    expected = F.kl_div(p.log(), uniform, reduction="sum")
    torch.testing.assert_close(uniformity_penalty(p), expected, rtol=1e-9, atol=1e-12)
    assert uniformity_penalty(p) >= -1e-15


def test_the_penalty_is_zero_for_the_uniform_prediction_and_finite_for_a_certain_one() -> None:
    assert abs(uniformity_penalty(torch.full((C,), 1 / C, dtype=torch.float64))) < 1e-15
    assert torch.isfinite(uniformity_penalty(F.one_hot(torch.tensor(2), C).float()))


def test_terms_of_a_mixed_batch_are_the_equations() -> None:
    z, t = normal(B, C), normal(B, C, seed=1).softmax(dim=1)
    u, partner, part = normal(B, seed=2).sigmoid(), torch.tensor([3, 0, 5, 1, 2, 4]), 0.8
    mixed = MixedBatch(z, t, u, torch.arange(B), Mixing(part, partner), B)
    own = -(t * z.log_softmax(dim=1)).sum(dim=1)
    others = -(t[partner] * z.log_softmax(dim=1)).sum(dim=1)
    expected = part * (u * own).sum() / u.sum() + (1 - part) * (u[partner] * others).sum() / u.sum()
    torch.testing.assert_close(mixed.classification(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(mixed.penalty(), (1 / C / z.softmax(dim=1).mean(dim=0)).log().mean())
    h, other = normal(B, D, seed=3), normal(B, D, seed=4)
    category = t.argmax(dim=1)
    similarity = F.normalize(h, dim=1) @ F.normalize(other, dim=1).T / 0.2
    a = (category[:, None] == category).double()
    a = a / a.sum(dim=1, keepdim=True)
    rows = F.cross_entropy(similarity, part * a + (1 - part) * a[partner])
    found = mixed.contrastive(h, other, 0.2, confidence=False)
    torch.testing.assert_close(found, rows, rtol=1e-10, atol=0)


def test_the_contrast_of_pls_takes_classes_of_mixed_targets_and_mixes_its_matrix_before_it_divides() -> None:
    size, lam = 24, 0.55
    generator = torch.Generator().manual_seed(3)
    t = normal(size, C, seed=1).mul(3).softmax(dim=1)
    u, o = normal(size, seed=2).sigmoid(), torch.randperm(size, generator=generator)
    h, other = normal(size, D, seed=3), normal(size, D, seed=4)
    category = (lam * t + (1 - lam) * t[o]).argmax(dim=1)
    assert not torch.equal(category, t.argmax(dim=1))  # otherwise the mixture would have no effect
    rows = torch.cat([u[:, None] * F.one_hot(category, C), torch.diag(1 - u)], dim=1)
    a = rows @ rows.T
    a = lam * a + (1 - lam) * a[o]
    expected = F.cross_entropy(F.cosine_similarity(h[:, None], other, dim=2) / 0.2, a / a.sum(dim=1, keepdim=True))
    mixed = MixedBatch(normal(size, C), t, u, torch.randperm(size, generator=generator), Mixing(lam, o), size)
    torch.testing.assert_close(mixed.contrastive(h, other, 0.2, confidence=True), expected, rtol=1e-10, atol=0)
