"""Attack that computes the protection: projected gradient ascent, its objectives, and its random masks.

Let K be a kept region with A pixels, and rho = sqrt(pi A / 2). K is deformed in J rounds, J ~ U{1 ... 14}. In each
round, every vertex of the outer contour of K is moved by a random offset of at most e pixels along each axis. The
offsets are smoothed along the contour. A vertex that would leave the region is instead moved to the nearest vertex of
the old contour. The new polygon is then filled. The random numbers are

    e = floor(1.1 U(0, rho)),   (dx, dy) ~ U{-e ... e}^2, filtered by a Gaussian of width 0.1 rho.

rho is defined as in the authors' code: pi / sqrt(2) times the radius of a circle of area A. The regions of an image are
deformed separately, and K is their union.

The contour is computed by scikit-image's marching squares. It passes through the boundary pixels of the region, with a
vertex wherever its direction changes. The authors' code uses OpenCV, which finds the same contour, but starts at a
different point. Pillow fills the polygon including its outline. On average, Pillow and OpenCV fill the same number of
pixels; one pixel in 200 differs, at slanted edges.

Source: Choi et al., DiffusionGuard: A Robust Defense Against Malicious Diffusion-based Image Editing, ICLR 2025, arXiv
2410.05694, Algorithm 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d
from skimage.measure import find_contours
from torch import Tensor

from datamodules.arguments import at_least, within
from lightning_modules.robustness.attacks.ascent import project_perturbation
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter

Mask = NDArray[np.bool_]
Augmentation = Literal["contour", "single", "global"]


def outer_contour(region: Mask) -> NDArray[np.int64]:
    """Find the outer contour of the largest connected component of a region.

    Pixels that touch only at a corner count as connected.

    Args:
        region: mask of the region, `[H, W]`.

    Returns:
        Vertices of the contour, `[N, 2]`. Each vertex is the row and column of a pixel in the region. N is 0 for an
        empty region.
    """
    padded = np.pad(region, 1)
    lines = find_contours(padded.astype(float), 0.5, fully_connected="high")
    if not lines:
        return np.zeros((0, 2), dtype=np.int64)
    line = max(lines, key=lambda each: abs(_area(each)))[:-1]
    low, high = np.floor(line).astype(np.int64), np.ceil(line).astype(np.int64)
    inside = np.where(padded[low[:, 0], low[:, 1]][:, None], low, high) - 1
    inside = (
        inside[np.any(inside != np.roll(inside, 1, axis=0), axis=1)]
        if len(np.unique(inside, axis=0)) > 1
        else inside[:1]
    )
    before, after = inside - np.roll(inside, 1, axis=0), np.roll(inside, -1, axis=0) - inside
    turns = np.any(before != after, axis=1)
    return inside[turns] if turns.any() else inside


def _area(line: NDArray[np.float64]) -> float:
    """Compute the signed area of a polygon from its vertices, `[N, 2]`."""
    row, column = line.T
    return float(np.dot(row[:-1], column[1:]) - np.dot(row[1:], column[:-1])) / 2


def polygon_mask(contour: NDArray[np.int64], shape: tuple[int, ...]) -> Mask:
    """Return a mask of the shape `shape`, `[H, W]`, that is true inside a polygon and on its outline."""
    canvas = Image.new("1", (shape[1], shape[0]))
    points = [(int(column), int(row)) for row, column in contour]
    draw = ImageDraw.Draw(canvas)
    if len(points) > 2:
        draw.polygon(points, fill=1)
    draw.line([*points, points[0]], fill=1)  # `polygon` alone covers only part of the outline
    return np.array(canvas)


def radius(region: Mask) -> float:
    """Compute rho = sqrt(pi A / 2), in pixels, for a region with A pixels."""
    return math.sqrt(region.sum() * math.pi / 2)


def deform_region(region: Mask, largest_offset: int, width: float, random: np.random.Generator) -> Mask:
    """Deform a region in one round of Algorithm 1.

    An empty region is returned unchanged.

    Args:
        region: mask of the region, `[H, W]`.
        largest_offset: maximum offset e of a vertex along each axis, in pixels.
        width: standard deviation of the Gaussian filter along the contour, measured in vertices.
        random: random generator for the offsets.
    """
    contour = outer_contour(region)
    if len(contour) == 0:
        return region
    offsets = random.integers(-largest_offset, largest_offset, size=contour.shape, endpoint=True)
    # The filter returns integers, because the offsets are integers. As in the authors' code, it truncates towards zero.
    offsets = gaussian_filter1d(offsets, width, axis=0)
    moved = np.clip(contour + offsets, 0, np.array(region.shape) - 1)
    outside = ~region[moved[:, 0], moved[:, 1]]
    distance = np.square(moved[outside, None] - contour[None]).sum(axis=2)
    moved[outside] = contour[distance.argmin(axis=1)]
    return polygon_mask(moved, region.shape)


def shrink_region(region: Mask, random: np.random.Generator) -> Mask:
    """Randomly deform a region, given by its mask `[H, W]`, by all rounds of Algorithm 1."""
    rho = radius(region)
    largest_offset = int(1.1 * random.uniform(0, rho))
    for _ in range(int(random.uniform(1, 15))):
        region = deform_region(region, largest_offset, 0.1 * rho, random)
    return region


def draw_kept(regions: Mask, augmentation: Augmentation, random: np.random.Generator) -> Mask:
    """Sample a mask K of the pixels that an editor might keep.

    Args:
        regions: masks of the regions to protect, `[R, H, W]`. Empty regions are padding, and consume no random numbers.
        augmentation: kind of augmentation: `contour` deforms each region randomly and returns the union, `single`
            returns the union of the given regions, and `global` returns the whole image.
        random: random generator, used by `contour` only.

    Returns:
        `[H, W]`.
    """
    if augmentation == "global":
        return np.ones(regions.shape[1:], dtype=bool)
    if augmentation == "contour":
        regions = np.array([shrink_region(region, random) if region.any() else region for region in regions])
    union: Mask = np.any(regions, axis=0)
    return union


ProtectionObjective = Literal["noise_norm", "encoder", "edit", "denoising_error", "mist", "random"]
RANDOM_TIMESTEPS = ("denoising_error", "mist")
"""Objectives that are evaluated at random timesteps."""
MIST_WEIGHT = 1e4
"""Weight of the denoising error in the objective `mist`."""


@dataclass(frozen=True)
class Defence:
    """Settings of a defence. Only these settings can differ between the defences of a run.

    Args:
        objective: objective that the attack maximises: `noise_norm`, as in the paper, or the objective of a baseline;
            see the package docstring.
        augmentation: method of sampling K: `contour` (Algorithm 1), `single` (the union of the regions), or `global`
            (the whole image).
        timestep: timestep that `noise_norm` attacks, as in the paper's ablation; None attacks the first timestep of the
            editor.
    """

    objective: ProtectionObjective = "noise_norm"
    augmentation: Augmentation = "contour"
    timestep: int | None = None


@dataclass(frozen=True)
class Ascent:
    """Budget and steps of the projected gradient ascent.

    Args:
        epsilon: maximum change of a pixel, in pixel units.
        step_size: step size a, in pixel units; None uses 0.5 / 255.
        iterations: number of attack steps; None uses 800.
        gradient_repeats: number of gradients that are averaged before the sign is taken.
    """

    epsilon: float = 8 / 255
    step_size: float | None = None
    iterations: int | None = None
    gradient_repeats: int = 1

    def __post_init__(self) -> None:
        within(0, 1, "(]", epsilon=self.epsilon, step_size=self.step_size)
        at_least(1, iterations=self.iterations, gradient_repeats=self.gradient_repeats)


def noise_norm(predicted: Tensor) -> Tensor:
    """Compute the norm ||e||_2 of the predicted noise e of each image, `[B]`."""
    return torch.linalg.vector_norm(predicted.flatten(1), dim=1)


def first_step(inpainter: Inpainter, image: Tensor, keep: Tensor, noise: Tensor, draw: Tensor, timestep: int) -> Tensor:
    """Predict the noise for a latent of pure noise, as in the first step of the editor.

    Args:
        inpainter: the editor's model.
        image: images `[B, C, H, W]` in [0, 1]; the result is differentiable with respect to them.
        keep: mask of the kept region, `[B, 1, H, W]`: 1 where the image is kept.
        noise: standard normal noise z, not yet scaled by the scheduler.
        draw: standard normal noise in the shape of z, with which a stochastic encoder samples its latent.
        timestep: timestep t.
    """
    time = torch.full((len(image),), timestep, device=image.device)
    sigma = float(inpainter.scheduler.init_noise_sigma)
    return inpainter.noise_given(image, keep, sigma * noise, draw, time)


def distance_to_grey(inpainter: Inpainter, image: Tensor, keep: Tensor) -> Tensor:
    """Sum the squared distances between the encodings of the blanked images and the encodings of grey images."""
    return _distance(inpainter, image, keep, torch.full_like(image, 0.5))


def _distance(inpainter: Inpainter, image: Tensor, keep: Tensor, target: Tensor) -> Tensor:
    """Sum the squared distances between the encodings of the blanked images and of the images `target`."""
    zero = torch.zeros(inpainter.noise_shape(image), dtype=image.dtype, device=image.device)
    encoded = inpainter.encode(target, zero).detach()
    return (inpainter.encode(inpainter.blank(image, keep), zero) - encoded).square().sum()


def stripe_image(image: Tensor) -> Tensor:
    """Return images of diagonal stripes with the shape of `image`; the period is a quarter of the image width."""
    height, width = image.shape[-2:]
    half_period = max(width // 8, 1)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) // half_period % 2).to(image).expand_as(image)


def distance_of_edit(
    inpainter: Inpainter, image: Tensor, keep: Tensor, noise: Tensor, draw: Tensor, num_steps: int
) -> Tensor:
    """Sum, over images, the squared distance between the latent of the edited image and the latent of a grey image.

    The edit has `num_steps` DDIM steps, with an empty prompt and no guidance. Gradients are computed through all of
    them. The other arguments are those of `first_step`.
    """
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(inpainter.scheduler.config)
    scheduler.set_timesteps(num_steps)
    blanked = inpainter.encode(inpainter.blank(image, keep), draw)
    sample = float(scheduler.init_noise_sigma) * noise
    for timestep in scheduler.timesteps.tolist():
        time = torch.full((len(image),), timestep, device=image.device)
        predicted = inpainter.predicted_noise(sample, inpainter.repaint(keep, noise.shape), blanked, time)
        sample = scheduler.step(predicted, timestep, sample).prev_sample
    grey = inpainter.encode(torch.full_like(image, 0.5), torch.zeros_like(draw)).detach()
    return (sample - grey).square().sum()


def attack_objective(
    inpainter: Inpainter,
    objective: ProtectionObjective,
    image: Tensor,
    keep: Tensor,
    noise: Tensor,
    draw: Tensor,
    timestep: int | Tensor,
    num_steps: int,
) -> Tensor:
    """Compute the scalar objective that the attack maximises.

    The arguments `inpainter`, `image`, `keep`, `noise` and `draw` are those of `first_step`.

    Args:
        objective: any objective except `random`.
        timestep: the attacked timestep for `noise_norm`, or random timesteps `[B]` for the objectives in
            `RANDOM_TIMESTEPS`.
        num_steps: number of DDIM steps of the edit, for the objective `edit`.
    """
    if objective == "encoder":
        return -distance_to_grey(inpainter, image, keep)
    if objective == "edit":
        return -distance_of_edit(inpainter, image, keep, noise, draw, num_steps)
    if isinstance(timestep, int):
        return noise_norm(first_step(inpainter, image, keep, noise, draw, timestep)).sum()
    error = inpainter.denoising_error(image, keep, noise, draw, timestep).sum()
    return (
        MIST_WEIGHT * error - _distance(inpainter, image, keep, stripe_image(image)) if objective == "mist" else error
    )


def protect_images(
    image: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    draw_keep: Callable[[], Tensor],
    epsilon: float,
    step_size: float,
    iterations: int,
    gradient_repeats: int = 1,
) -> Tensor:
    """Run projected gradient ascent, in which each iteration changes only pixels inside random regions.

    The regions K are sampled anew in each iteration.

    Args:
        image: images x, `[B, C, H, W]` in [0, 1].
        objective: function that maps x + d and K, `[B, 1, H, W]`, to the scalar to maximise. Each call uses new random
            numbers.
        draw_keep: function that samples K, `[B, 1, H, W]`.
        epsilon: maximum change of a pixel, in pixel units.
        step_size: change a of a pixel per step, in pixel units.
        iterations: number of ascent steps.
        gradient_repeats: number of gradients that are averaged before the sign is taken.

    Returns:
        Images x + d, `[B, C, H, W]` in [0, 1]. Pixels that were not in K in any iteration are unchanged.
    """
    adversarial = image.clone()
    for _ in range(iterations):
        keep = draw_keep()
        leaf = adversarial.clone().requires_grad_()
        total = torch.stack([objective(leaf, keep) for _ in range(gradient_repeats)]).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        adversarial = project_perturbation(adversarial + step_size * (gradient * keep).sign(), image, "linf", epsilon)
    return adversarial
