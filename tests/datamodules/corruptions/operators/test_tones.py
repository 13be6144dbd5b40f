import pytest
import torch

from datamodules.corruptions.operators import HighDynamicRange, Quantisation


def test_tones_beyond_half_of_the_range_are_lost() -> None:
    image = torch.tensor([-0.9, -0.5, -0.2, 0.0, 0.3, 0.7], dtype=torch.float64, requires_grad=True)
    measured = HighDynamicRange().forward(image)
    torch.testing.assert_close(measured.detach(), torch.tensor([-1, -1, -0.4, 0, 0.6, 1], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(measured.sum(), image)
    assert gradient[[0, 2, 3, 4, 5]].tolist() == [0, 2, 2, 2, 0]
    torch.testing.assert_close(HighDynamicRange().pseudo_inverse(measured)[2:5], image[2:5])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_levels_are_those_nearest_and_gradients_pass(bits: int) -> None:
    operator, image = Quantisation(bits), torch.linspace(-1, 1, 101, dtype=torch.float64, requires_grad=True)
    measured = operator.forward(image)
    levels = torch.linspace(-1, 1, 2**bits, dtype=torch.float64)
    distance = (image.detach()[:, None] - levels).abs()
    torch.testing.assert_close((measured.detach() - image.detach()).abs(), distance.min(dim=1).values)
    assert len(measured.detach().round(decimals=9).unique()) == 2**bits
    (gradient,) = torch.autograd.grad(measured.sum(), image)
    assert gradient.eq(1).all()
    assert torch.equal(operator.pseudo_inverse(measured), measured)
