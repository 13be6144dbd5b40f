import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.robustness.diffusion_guard.attack import (
    attack_objective,
    deform_region,
    distance_of_edit,
    distance_to_grey,
    draw_kept,
    first_step,
    noise_norm,
    outer_contour,
    polygon_mask,
    protect_images,
    radius,
    shrink_region,
    stripe_image,
)
from tests.robustness.diffusion_guard.linear_inpainter import SIZE, LinearInpainter, images


def ellipse(size: int = 64) -> np.ndarray:
    row, column = np.mgrid[:size, :size] / size
    return ((row - 0.5) / 0.23) ** 2 + ((column - 0.47) / 0.33) ** 2 <= 1


def test_the_radius_is_the_codes() -> None:
    region = np.zeros((20, 20), dtype=bool)
    region[2:10, 3:8] = True
    assert radius(region) == pytest.approx(np.sqrt(40 * np.pi / 2))


def test_polygons_are_filled_as_opencv_fills_them() -> None:
    """The pixel counts are those of OpenCV's `drawContours`; without the outline, they would be 386, 539 and 336."""
    corners = {
        398: [(2, 3), (5, 28), (29, 20), (17, 9)],
        563: [(1, 1), (3, 30), (14, 22), (30, 29), (20, 4)],
        340: [(4, 16), (16, 29), (28, 15), (15, 3)],
    }
    for count, polygon in corners.items():
        assert abs(int(polygon_mask(np.array(polygon), (32, 32)).sum()) - count) <= 1


def test_a_contour_fills_to_its_region() -> None:
    region = ellipse()
    assert (polygon_mask(outer_contour(region), region.shape) == region).all()
    ring = region.copy()
    ring[30:34, 28:34] = False
    assert (polygon_mask(outer_contour(ring), ring.shape) == region).all()  # only the outer contour
    two = region.copy()
    two[:3, :3] = True
    assert (polygon_mask(outer_contour(two), two.shape) == region).all()  # only the largest part is kept
    square = np.zeros((6, 6), dtype=bool)
    square[1:5, 2:5] = True
    assert sorted(map(tuple, outer_contour(square).tolist())) == [(1, 2), (1, 4), (4, 2), (4, 4)]
    for pixels in ([(2, 3)], [(2, 3), (2, 4)], [(0, 0), (1, 1)]):
        few = np.zeros((5, 5), dtype=bool)
        few[tuple(zip(*pixels, strict=True))] = True
        assert (polygon_mask(outer_contour(few), few.shape) == few).all()
    assert len(outer_contour(np.zeros((4, 4), dtype=bool))) == 0


def test_without_offsets_a_region_stays() -> None:
    region = ellipse()
    still = deform_region(region, 0, 3.0, np.random.default_rng(0))
    assert (still & region).sum() >= 0.99 * region.sum()
    nothing = np.zeros((9, 9), dtype=bool)
    assert not shrink_region(nothing, np.random.default_rng(0)).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_deformed_region_stays_within_its_own(seed: int) -> None:
    region = ellipse()
    drawn = shrink_region(region, np.random.default_rng(seed))
    assert drawn.dtype == bool
    assert 0 < drawn.sum() <= 1.05 * region.sum()
    assert (drawn & ~region).sum() <= 24


def test_shrinking_has_the_published_spread() -> None:
    region, random = ellipse(), np.random.default_rng(0)
    kept = [shrink_region(region, random).sum() / region.sum() for _ in range(120)]
    assert 0.15 < np.median(kept) < 0.5  # .34 over 300 draws of the authors' code
    assert np.quantile(kept, 0.95) > 0.9


def test_what_is_kept_is_the_union_of_the_regions() -> None:
    _, regions, _ = images(1)
    both, random = regions[0].numpy(), np.random.default_rng(1)
    assert (draw_kept(both, "single", random) == (both[0] | both[1])).all()
    assert draw_kept(both, "global", random).all()
    apart = np.stack([shrink_region(region, np.random.default_rng(5)) for region in both[:1]])
    assert (draw_kept(both[:1], "contour", np.random.default_rng(5)) == apart[0]).all()


def of_numpy(count: int = 1) -> tuple[Tensor, Tensor, Tensor, np.ndarray, np.ndarray]:
    """Return an image, its kept region and noise as tensors, then the editor's matrix and the region as arrays."""
    image, regions, _ = images(count)
    noise = torch.randn(count, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    keep = regions.any(dim=1, keepdim=True).double()
    return image, keep, noise, LinearInpainter().matrix.detach().numpy(), keep.numpy().reshape(count, -1)


def test_objectives_have_their_gradients_by_hand() -> None:
    """The objectives: ||z + c A y|| for a timestep and the scheduler's sigma; the distance to 0, grey's encoding."""
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

    norms = [
        float(objective(protect_images(image, objective, lambda: keep, 0.1, 0.002, n), keep)) for n in (0, 1, 3, 6)
    ]
    assert norms == sorted(set(norms))
    squared = protect_images(image, lambda x, k: objective(x, k).square(), lambda: keep, 0.1, 0.002, 8)
    assert torch.equal(squared, protect_images(image, objective, lambda: keep, 0.1, 0.002, 8))


def test_gradients_are_averaged_before_the_sign() -> None:
    image = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    for slopes, expected in (([3.0, -1.0], 0.6), ([-3.0, 1.0], 0.4)):
        slope = iter(slopes)
        everywhere = torch.ones_like(image)
        moved = protect_images(image, lambda x, k: next(slope) * x.sum(), lambda: everywhere, 0.3, 0.1, 1, 2)  # noqa: B023
        assert float(moved) == pytest.approx(expected)


def test_the_attack_on_the_edit_has_the_gradient_of_all_its_steps() -> None:
    """Two DDIM steps of a linear model are computed by hand: every latent is linear in the blanked image."""
    image, regions, _ = images(1)
    keep = regions.any(dim=1, keepdim=True).double()
    inpainter = LinearInpainter()
    inpainter.scheduler = DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = image.clone().requires_grad_()
    value = distance_of_edit(inpainter, leaf, keep, noise, noise, num_steps=2)
    (gradient,) = torch.autograd.grad(value, leaf)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    a, k, z = inpainter.matrix.detach().numpy(), keep.numpy().ravel(), noise.numpy().ravel()
    y = (2 * image.numpy().ravel() - 1) * k
    sample, slope = z, np.zeros_like(a)  # latent, and its derivative with respect to y
    for t, before in ((501, 1), (1, None)):
        now, then = abar[t], abar[before] if before is not None else abar[0]
        c = 1 + t / 1000
        e, de = sample + c * a @ y, slope + c * a
        sample, slope = (
            np.sqrt(then / now) * (u - np.sqrt(1 - now) * v) + np.sqrt(1 - then) * v
            for u, v in ((sample, e), (slope, de))
        )
    assert value.item() == pytest.approx(np.square(sample).sum(), rel=1e-5)  # the encoding of grey is 0
    np.testing.assert_allclose(gradient.numpy().ravel(), 2 * k * 2 * (slope.T @ sample), rtol=1e-4, atol=1e-8)


def test_mist_adds_the_error_to_the_distance_from_stripes() -> None:
    image, regions, _ = images(2)
    keep = torch.ones_like(regions[:, :1]).double()
    inpainter, noise, times = LinearInpainter(), torch.randn(image.shape).double(), torch.tensor([3, 700])
    found = attack_objective(inpainter, "mist", image, keep, noise, noise, times, 4)
    target = stripe_image(image)
    assert target.unique().tolist() == [0, 1]
    assert bool((target.diff(dim=3) != 0).any())
    error = attack_objective(inpainter, "denoising_error", image, keep, noise, noise, times, 4)
    expected = 1e4 * error - 4 * (image - target).square().sum()
    torch.testing.assert_close(found, expected)
