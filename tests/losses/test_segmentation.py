import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.segmentation import dice_score

from lightning_modules.losses.segmentation import disagreement_weight, noise_weighted_dice, weighted_dice

B, H, W = 5, 6, 7


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    p = torch.rand(B, H, W, generator=random, dtype=torch.float64)
    return p, (torch.rand(B, H, W, generator=random, dtype=torch.float64) < 0.4).double()


def test_without_gamma_it_is_soft_dice_and_on_binary_predictions_one_minus_dice() -> None:
    p, y = example()
    soft = 1 - (2 * (p * y).sum(dim=(1, 2)) + 1e-5) / ((p + y).sum(dim=(1, 2)) + 1e-5)
    torch.testing.assert_close(noise_weighted_dice(p, y, gamma=0.0), soft, rtol=1e-13, atol=0)
    hard = (p > 0.5).long()
    overlap = dice_score(hard, y.long(), 2, include_background=False, input_format="index")
    torch.testing.assert_close(weighted_dice(hard.double(), y, eps=0.0), 1 - overlap.double(), rtol=0, atol=1e-6)


def test_right_binary_predictions_and_two_empty_masks_cost_nothing() -> None:
    _, y = example()
    for mask in (y, torch.zeros_like(y)):
        for loss in (noise_weighted_dice(mask, mask), weighted_dice(mask, mask)):
            assert loss.abs().max() < 1e-15


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 20))
def test_loss_lies_between_0_and_1_and_is_symmetric_for_fixed_weights(seed: int, gamma: float) -> None:
    p, y = example(seed)
    loss = noise_weighted_dice(p, y, gamma)
    assert ((loss >= -1e-12) & (loss <= 1)).all()
    w = disagreement_weight(p, y, gamma)
    torch.testing.assert_close(weighted_dice(p, y, w), weighted_dice(y, p, w), rtol=0, atol=0)
    torch.testing.assert_close(weighted_dice(p, y, w), loss, rtol=0, atol=0)


def test_an_opposite_pixel_weighs_e_to_minus_gamma_and_an_equal_one_1() -> None:
    p = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.25], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.00], dtype=torch.float64)
    expected = torch.tensor([math.exp(-3), math.exp(-3), 1, 1, math.exp(-3 * 0.75)], dtype=torch.float64)
    torch.testing.assert_close(disagreement_weight(p, y, 3.0), expected)


def test_gradient_at_an_opposite_pixel_vanishes_as_gamma_grows() -> None:
    gradients = []
    for gamma in (0.0, 3.0, 10.0, 30.0):
        p, y = example()
        p[:, 0, 0], y[:, 0, 0] = 1.0, 0.0
        p.requires_grad_()
        (gradient,) = torch.autograd.grad(noise_weighted_dice(p, y, gamma).sum(), p)
        gradients.append(gradient[:, 0, 0].abs())
    for smaller, greater in zip(gradients[1:], gradients, strict=False):
        assert (smaller < greater).all()
    assert (gradients[-1] < 1e-10 * gradients[0]).all()


def test_weights_carry_no_gradient() -> None:
    """The gradient treats the weights as constants; finite differences confirm it."""
    p, y = example()
    w = disagreement_weight(p, y, 3.0)
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: weighted_dice(p, y, w), p)
    (gradient,) = torch.autograd.grad(noise_weighted_dice(p, y, 3.0).sum(), p)
    (frozen,) = torch.autograd.grad(weighted_dice(p, y, w).sum(), p)
    torch.testing.assert_close(gradient, frozen, rtol=0, atol=0)


def test_samples_are_apart() -> None:
    p, y = example()
    whole = noise_weighted_dice(p, y, 3.0)
    for sample in range(B):
        alone = noise_weighted_dice(p[sample : sample + 1], y[sample : sample + 1], 3.0)
        torch.testing.assert_close(alone, whole[sample : sample + 1])
