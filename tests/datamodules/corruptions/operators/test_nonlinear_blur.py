"""Nonlinear blur: one code per image, its derivative, and rejections."""

import pytest
import torch
from torch import Tensor, nn

from datamodules.corruptions.operators import NonlinearBlur


class Blur(nn.Module):
    """A smooth function of the image and the code, which has a trainable weight."""

    code_channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        assert code.shape[1:] == (2, image.shape[2] // 128, image.shape[3] // 128)
        return image.roll(1, -1) + self.weight * (image * code.mean(dim=(1, 2, 3)).view(-1, 1, 1, 1)).sin()


def test_each_image_has_its_own_blur_that_can_be_differentiated() -> None:
    operator, index = NonlinearBlur(Blur()), torch.tensor([7, 3])
    image = torch.rand(2, 1, 128, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    both = operator.of(index, (128, 256))
    measured = both.forward(image)
    assert torch.equal(measured, operator.of(index, (128, 256)).forward(image))  # the same code again
    alone = operator.of(index[1:], (128, 256)).forward(image[1:])
    torch.testing.assert_close(alone, measured[1:], rtol=0, atol=1e-12)
    swapped = operator.of(index.flip(0), (128, 256)).forward(image)
    assert (swapped - measured).abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert (NonlinearBlur(Blur(), seed=1).of(index, (128, 256)).forward(image) - measured).abs().max() > 0.01
    assert torch.equal(both.pseudo_inverse(measured), measured)
    assert both.forward(10 * image).abs().max() == 1
    assert not measured.requires_grad

    direction, covector = torch.randn_like(image), torch.randn_like(measured)
    given = image.clone().requires_grad_()
    (product,) = torch.autograd.grad(both.forward(given), given, covector)
    step = 1e-6
    change = (both.forward(image + step * direction) - both.forward(image - step * direction)) / (2 * step)
    torch.testing.assert_close((product * direction).sum(), (covector * change).sum(), rtol=1e-5, atol=1e-4)
    codes = NonlinearBlur(Blur(), strength=3.0).of(torch.arange(2000), (128, 128)).code
    assert abs(codes.std() - 3) < 0.15


def test_what_cannot_be_blurred_is_refused() -> None:
    operator = NonlinearBlur(Blur())
    with pytest.raises(ValueError, match="multiples of 128, got 128 x 130 pixels"):
        operator.of(torch.tensor([0]), (128, 130))
    with pytest.raises(TypeError, match=r"call NonlinearBlur.of\(index, size\) to get the operator"):
        operator.forward(torch.zeros(1, 1, 128, 128))
    with pytest.raises(TypeError, match="network must have `code_channels`, but Linear has none"):
        NonlinearBlur(nn.Linear(1, 1))
