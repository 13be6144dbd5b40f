import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.losses.contrastive import contrastive_loss


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_orthonormal_features_have_the_closed_form(temperature: float) -> None:
    basis = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q[:6]
    loss = contrastive_loss(basis, basis, basis, temperature)
    expected = torch.tensor(math.log1p(5 * math.exp(-1 / temperature)), dtype=torch.float64)
    torch.testing.assert_close(loss, expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 6), others=st.integers(0, 6))
def test_the_loss_is_cross_entropy_of_cosines_whatever_the_lengths_and_the_order(
    seed: int, size: int, others: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    f, g = torch.randn(2, size, 5, dtype=torch.float64, generator=random)
    more = torch.randn(others, 5, dtype=torch.float64, generator=random)
    cosines = F.cosine_similarity(f[:, None], torch.cat([g, more])[None], dim=2)
    expected = F.cross_entropy(cosines / 0.2, torch.arange(size))
    length = 0.1 + torch.rand(size, 1, dtype=torch.float64, generator=random)
    found = contrastive_loss(length * f, g / length, torch.cat([3 * more, g]), 0.2)
    torch.testing.assert_close(found, expected)


def test_the_loss_is_not_computed_in_half_precision() -> None:
    f, g = torch.randn(2, 7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = contrastive_loss(f, g, g, 0.2)
    assert torch.equal(mixed, contrastive_loss(f, g, g, 0.2))
