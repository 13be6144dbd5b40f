"""Diffusion in T discrete steps: its noise levels, and the quantities that models predict.

    x_t = sqrt(abar_t) x + sqrt(1 - abar_t) e,   e ~ N(0, I).

The image x is in [-1, 1]. A model is called with x_t and t. It predicts e (epsilon), x (sample), or v = sqrt(abar_t) e
- sqrt(1 - abar_t) x (v_prediction). Together with x_t, each of the three quantities determines the other two.

The noise levels abar_t are read from a diffusers scheduler. The functions of this module accept a noise level as a
scalar, or as a tensor `[B, 1, 1, 1]`.

Source: Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020, arXiv 2006.11239; Salimans and Ho,
Progressive Distillation for Fast Sampling of Diffusion Models, ICLR 2022, arXiv 2202.00512, for v.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from datamodules.arguments import one_of
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like

Prediction = Literal["epsilon", "v_prediction", "sample"]


def scheduler_levels(scheduler: Any) -> NDArray[np.float64]:
    """Read all noise levels abar_t from a diffusers scheduler; the result is `[T]`.

    The scheduler may be created on the meta device.

    Raises:
        ValueError: if the scheduler does not define abar, for example because it is a scheduler for flow matching.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"scheduler: {type(scheduler).__name__} has no alphas_cumprod: its process is not diffusion")
    abar = scheduler.alphas_cumprod
    if abar.is_meta:  # a meta tensor has no values; `from_config` would lose positional arguments
        with torch.device("cpu"):
            given = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
            abar = type(scheduler)(**given).alphas_cumprod
    return abar.double().cpu().numpy()


def scheduler_prediction(scheduler: Any) -> Prediction:
    """Return the quantity that a diffusers scheduler expects its model to predict.

    Raises:
        ValueError: if the quantity is not epsilon, v_prediction or sample.
    """
    prediction: Any = getattr(scheduler.config, "prediction_type", "flow")
    one_of(get_args(Prediction), prediction_type=prediction)
    return prediction


def noise_levels(alphas_cumprod: ArrayLike) -> NDArray[np.float64]:
    """Compute the standard deviation s_t of the noise, in pixel units, from an array with values of abar_t.

    The quotient x_t / sqrt(abar_t) is an image in [-1, 1] plus noise. When the image is rescaled to [0, 1], the noise
    is halved; its standard deviation is then s_t = sqrt((1 - abar_t) / abar_t) / 2.
    """
    abar = np.asarray(alphas_cumprod, dtype=np.float64)
    return np.sqrt((1 - abar) / abar) / 2


def first_timestep(sigma: float, alphas_cumprod: ArrayLike) -> int:
    """Return the first t with s_t >= sigma; see `noise_levels`.

    Args:
        sigma: standard deviation of the noise, in pixel units.
        alphas_cumprod: decreasing values of abar, `[T]`.

    Raises:
        ValueError: if s_t < sigma for all t.
    """
    levels = noise_levels(alphas_cumprod)
    t = int(np.searchsorted(levels, sigma))
    if t == len(levels):
        raise ValueError(f"sigma must be at most {levels[-1]:.4g}, the scheduler's maximum, got {sigma}")
    return t


def add_diffusion_noise(image: Tensor, noise: Tensor, abar: float | Tensor) -> Tensor:
    """Compute x_t from an image in [-1, 1] and standard normal noise, both `[B, C, H, W]`."""
    abar = _like(abar, image)
    return abar.sqrt() * image + (1 - abar).sqrt() * noise


def run_diffusion_model(model: Callable[..., Any], noisy: Tensor, t: int | Tensor) -> Tensor:
    """Evaluate a diffusion model, at one time t for all images or at a separate time t for each image.

    If the model also returns channels with a learned variance, they are removed.

    Args:
        model: diffusion model, called with x_t and times `[B]`. It returns a tensor, or, like networks of diffusers, an
            object whose attribute `sample` is a tensor.
        noisy: x_t, `[B, C, H, W]`.
        t: one time for all images, or a tensor with one time for each image, `[B]`.

    Returns:
        The model's prediction, `[B, C, H, W]`.
    """
    if not isinstance(t, Tensor):
        t = torch.full(noisy.shape[:1], t, dtype=torch.int64, device=noisy.device)
    output = model(noisy, t)
    output = output if isinstance(output, Tensor) else output.sample
    return output[:, : noisy.shape[1]]


def clean_estimate(output: Tensor, noisy: Tensor, abar: float | Tensor, prediction: Prediction) -> Tensor:
    """Compute the estimate of the image x from the output of a diffusion model.

    Images are in [-1, 1], but the estimate is not clipped to this range.

    Args:
        output: output of the model, `[B, C, H, W]`. If it has further channels for a learned variance, they are
            ignored.
        noisy: x_t, `[B, C, H, W]`.
        abar: abar_t, either one number or a tensor `[B, 1, 1, 1]`.
        prediction: quantity that the model predicts.
    """
    output = output[:, : noisy.shape[1]]
    abar = _like(abar, noisy)
    if prediction == "epsilon":
        return (noisy - (1 - abar).sqrt() * output) / abar.sqrt()
    if prediction == "v_prediction":
        return abar.sqrt() * noisy - (1 - abar).sqrt() * output
    return output


def noise_estimate(output: Tensor, noisy: Tensor, abar: float | Tensor, prediction: Prediction) -> Tensor:
    """Compute the estimate of the standard normal noise e from the output of a diffusion model.

    Args:
        output: output of the model, `[B, C, H, W]`. If it has further channels for a learned variance, they are
            ignored.
        noisy: x_t, `[B, C, H, W]`.
        abar: abar_t, either one number or a tensor `[B, 1, 1, 1]`; must be below 1 if the model predicts the image.
        prediction: quantity that the model predicts.
    """
    output = output[:, : noisy.shape[1]]
    abar = _like(abar, noisy)
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return abar.sqrt() * output + (1 - abar).sqrt() * noisy
    return (noisy - abar.sqrt() * output) / (1 - abar).sqrt()


def diffusion_target(image: Tensor, noise: Tensor, abar: Tensor, prediction: Prediction) -> Tensor:
    """Compute the quantity that a model learns to predict from images x and noise e.

    Args:
        image: images x, `[B, C, H, W]`.
        noise: standard normal noise e, `[B, C, H, W]`.
        abar: abar_t, `[B, 1, 1, 1]`.
        prediction: quantity that the model predicts.
    """
    if prediction == "epsilon":
        return noise
    if prediction == "v_prediction":
        return abar.sqrt() * noise - (1 - abar).sqrt() * image
    return image


def denoising_loss(model: Callable[..., Any], image: Tensor, levels: Tensor, prediction: Prediction) -> Tensor:
    """Compute the mean squared error of a model's predictions at one random time for each image.

    The times are sampled uniformly.

    Args:
        model: diffusion model, called with x_t and times t, `[B]`; see `run_diffusion_model`.
        image: images x in [-1, 1], `[B, C, H, W]`.
        levels: abar of all T timesteps, `[T]`, on the device of the images.
        prediction: quantity that the model predicts.
    """
    t = sample_rows(partial(torch.randint, len(levels)), (len(image),), image.device)
    abar = levels.to(image.dtype)[t].view(-1, 1, 1, 1)
    noise = sample_rows_like(torch.randn, image)
    output = run_diffusion_model(model, add_diffusion_noise(image, noise, abar), t)
    return F.mse_loss(output, diffusion_target(image, noise, abar, prediction))


def _like(abar: float | Tensor, image: Tensor) -> Tensor:
    return abar.to(image) if isinstance(abar, Tensor) else image.new_full((), abar)
