"""deepinv operators: if this project has the same operator, the measurements are equal; further operators also work."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.corruptions.operators import AverageDownsampling, Inpainting
from datamodules.corruptions.operators.physics import DeepinvPhysics

IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


class Halved(nn.Module):
    """A stand-in for deepinv's physics, with the methods that this project uses: A x = x / 2; has a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5))
        self.weight = nn.Parameter(torch.ones(()))

    def A(self, x: Tensor) -> Tensor:
        return self.scale * self.weight * x

    def A_dagger(self, y: Tensor) -> Tensor:
        return y / (self.scale * self.weight)


def test_it_measures_by_a_and_inverts_by_a_dagger_and_trains_nothing() -> None:
    operator = DeepinvPhysics(Halved())
    measured = operator.forward(IMAGE)
    torch.testing.assert_close(measured, IMAGE / 2)
    torch.testing.assert_close(operator.pseudo_inverse(measured), IMAGE)
    assert not measured.requires_grad
    image = IMAGE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(operator.forward(image).sum(), image)
    torch.testing.assert_close(gradient, torch.full_like(IMAGE, 0.5))
    assert not operator.measures_images
    with pytest.raises(TypeError, match=r"must be a deepinv\.physics\.Physics, but Identity has no A and no A_dagger"):
        DeepinvPhysics(nn.Identity())


def test_it_follows_the_images_to_their_device() -> None:
    assert DeepinvPhysics(Halved()).forward(IMAGE.to("meta")).device.type == "meta"


def test_deepinvs_own_inpainting_and_downsampling_measure_as_ours() -> None:
    deepinv: Any = pytest.importorskip("deepinv", reason="the extra deepinv is not installed")
    mask = (torch.arange(64).view(1, 1, 8, 8) % 3 > 0).float()
    theirs = DeepinvPhysics(
        deepinv.physics.Inpainting(img_size=(3, 8, 8), mask=mask[0].expand(3, 8, 8)), measures_images=True
    )
    torch.testing.assert_close(theirs.forward(IMAGE), Inpainting(mask).forward(IMAGE))
    ours = AverageDownsampling(2)
    average = torch.full((1, 1, 2, 2), 0.25)
    theirs = DeepinvPhysics(deepinv.physics.Downsampling(img_size=(3, 8, 8), filter=average, factor=2, padding="valid"))
    measured = theirs.forward(IMAGE)
    assert measured.shape == ours.forward(IMAGE).shape
    tomography = deepinv.physics.Tomography(angles=12, img_width=8, circle=False)
    found = DeepinvPhysics(tomography).pseudo_inverse(DeepinvPhysics(tomography).forward(IMAGE[:, :1]))
    assert found.shape == (2, 1, 8, 8)
