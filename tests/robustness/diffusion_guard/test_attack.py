import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.robustness.diffusion_guard.attack import distance_to_grey, first_step, noise_norm, protected
from tests.robustness.diffusion_guard.linear_inpainter import SIZE, LinearInpainter, images


def of_numpy(count: int = 1) -> tuple[Tensor, Tensor, Tensor, np.ndarray, np.ndarray]:
    """An image, the region that is kept, noise, and matrix and region as arrays."""
    image, regions, _ = images(count)
    noise = torch.randn(count, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    keep = regions.any(dim=1, keepdim=True).double()
    return image, keep, noise, LinearInpainter().matrix.detach().numpy(), keep.numpy().reshape(count, -1)


def test_objectives_have_their_gradients_by_hand() -> None:
    """Of ||z + c A y|| at a timestep and the scheduler's sigma, and of the distance to grey's encoding, which is 0."""
    image, keep, noise, a, k = of_numpy(3)
    inpainter = LinearInpainter()
    inpainter.scheduler.init_noise_sigma = 2.0
    leaf = image.clone().requires_grad_()
    for t in (751, 5):
        norms = noise_norm(first_step(inpainter, leaf, keep, noise, noise, t))
        (found,) = torch.autograd.grad(norms.sum(), leaf)
        c, y = 1 + t / 1000, ((2 * image - 1) * keep).flatten(1).numpy()
        predicted = 2 * noise.flatten(1).numpy() + c * y @ a.T
        length = np.linalg.norm(predicted, axis=1, keepdims=True)
        np.testing.assert_allclose(norms.detach(), length[:, 0])
        np.testing.assert_allclose(found.flatten(1), 2 * c * k * (predicted @ a) / length, atol=1e-12)
    distance = distance_to_grey(inpainter, leaf, keep)
    (found,) = torch.autograd.grad(distance, leaf)
    assert distance.item() == pytest.approx(float(np.square(y).sum()))
    np.testing.assert_allclose(found.flatten(1), 4 * k * y, atol=1e-12)


def test_the_norm_grows_and_its_square_has_the_same_iterates() -> None:
    image, keep, noise, _, _ = of_numpy()
    inpainter = LinearInpainter()

    def objective(adversarial: Tensor, keep: Tensor) -> Tensor:
        return noise_norm(first_step(inpainter, adversarial, keep, noise, noise, 751)).sum()

    norms = [float(objective(protected(image, objective, lambda: keep, 0.1, 0.002, n), keep)) for n in (0, 1, 3, 6)]
    assert norms == sorted(set(norms))
    squared = protected(image, lambda x, k: objective(x, k).square(), lambda: keep, 0.1, 0.002, 8)
    assert torch.equal(squared, protected(image, objective, lambda: keep, 0.1, 0.002, 8))


def test_gradients_are_averaged_before_the_sign() -> None:
    image = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    for slopes, expected in (([3.0, -1.0], 0.6), ([-3.0, 1.0], 0.4)):
        slope = iter(slopes)
        moved = protected(image, lambda x, k: next(slope) * x.sum(), lambda: torch.ones_like(image), 0.3, 0.1, 1, 2)  # noqa: B023
        assert float(moved) == pytest.approx(expected)
