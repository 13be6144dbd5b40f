import numpy as np
import torch

from datamodules.corruptions.operators import PhaseRetrieval

IMAGE = torch.rand(2, 1, 16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def test_magnitudes_are_those_of_the_padded_image() -> None:
    operator = PhaseRetrieval(2.0)
    padded = np.pad(IMAGE.numpy(), ((0, 0), (0, 0), (4, 4), (3, 3)))
    expected = np.fft.fftshift(np.abs(np.fft.fft2(padded, norm="ortho")), axes=(2, 3))
    found = operator.forward(IMAGE)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(found.square().sum(), IMAGE.square().sum())  # Parseval


def test_the_first_estimate_has_the_size_of_the_image_and_undoes_a_transform_without_phases() -> None:
    """The transform of an image that is even around its centre is real; if it is positive, it equals its magnitude."""
    operator = PhaseRetrieval(2.0)
    assert operator.pseudo_inverse(operator.forward(IMAGE)).shape == IMAGE.shape
    assert operator.pseudo_inverse(torch.ones(1, 1, 384, 384)).shape == (1, 1, 256, 256)
    point = torch.zeros(1, 1, 16, 12, dtype=torch.float64)
    point[..., 8, 6] = 1
    torch.testing.assert_close(operator.pseudo_inverse(operator.forward(point)), point)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(PhaseRetrieval(2.0).forward, IMAGE[:1, :, :8, :8].clone().requires_grad_(True))
