"""Training objectives for diffusion models and flow matching, which define the times, targets and loss weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor, nn
from torch.nn.functional import interpolate

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.batches import CaptionedImageBatch
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.finetuning.preference import check_reference
from lightning_modules.diffusion.finetuning.weighting import min_snr_weight
from lightning_modules.sde.discrete import (
    Prediction,
    add_diffusion_noise,
    diffusion_target,
    scheduler_levels,
    scheduler_prediction,
)
from lightning_modules.sde.flow_shift import scheduler_shift, shift_time
from lightning_modules.sde.processes import along

Density = Literal["uniform", "logit_normal", "mode"]
Weighting = Literal["none", "sigma_sqrt", "cosmap", "sigma_squared"]
GOLDEN = 2654435769  # 2^32 times the fractional part of the golden ratio


@dataclass(frozen=True)
class LossOptions:
    """Options of the training loss: offset noise, loss weights, the Huber loss, and training on preferences.

    Args:
        noise_offset: s, scale of offset noise. The noise e is replaced with e + s n, with one n ~ N(0, 1) for each
            channel of each latent, so that the model can learn very dark and very bright images. The noise of held-out
            images has no offset.
        prior_weight: weight of the loss on the class images in `data.prior`.
        unmasked_weight: weight, in [0, 1], of the squared errors of those pixels whose mask is 0. Pixels whose mask is
            1 have the weight 1. The loss of an image is the weighted mean over its pixels.
        huber_c: c of the pseudo-Huber loss, 2 c (sqrt(d^2 + c^2) - c), which replaces the square of an error d in
            training. It is close to d^2 for small errors, and to 2 c |d| for large errors. None trains with d^2.
        dpo_beta: beta of Diffusion-DPO, which trains adapters to prefer the images `data.images.data_dir` to those in
            `data.images.condition_dir`. A larger beta keeps the model closer to the model without adapters. There are
            no other loss weights, except those of datasets. None trains on single images.
    """

    noise_offset: float = 0.0
    prior_weight: float = 1.0
    unmasked_weight: float = 0.0
    huber_c: float | None = None
    dpo_beta: float | None = None

    def __post_init__(self) -> None:
        at_least(0, noise_offset=self.noise_offset, prior_weight=self.prior_weight)
        within(0, 1, unmasked_weight=self.unmasked_weight)
        positive(huber_c=self.huber_c, dpo_beta=self.dpo_beta)

    def noise(self, latent: Tensor) -> Tensor:
        """Sample the noise of a training batch, with the shape of z."""
        noise = sample_rows_like(torch.randn, latent)
        if not self.noise_offset:
            return noise
        one = latent.flatten(2)[..., :1].view(*latent.shape[:2], *[1] * (latent.ndim - 2))
        return noise + self.noise_offset * sample_rows_like(torch.randn, one)

    def weight(self, mask: Tensor | None, latent: Tensor) -> Tensor | None:
        """Compute the weights of latent pixels, `[B, 1, h, w]`, from masks in [0, 1]; return None if `mask` is None."""
        if mask is None:
            return None
        size = latent.shape[2:]
        small = mask if mask.shape[2:] == size else interpolate(mask, size, mode="area")
        return (self.unmasked_weight + (1 - self.unmasked_weight) * small).to(latent.dtype)


def mean_square(difference: Tensor, weight: Tensor | None = None, huber_c: float | None = None) -> Tensor:
    """Compute each image's weighted mean of squares, `[B]`; it is 0 if all weights of the image are 0.

    Args:
        difference: values to square, `[B, c, h, w]`.
        weight: weights of pixels, `[B, 1, h, w]`; None weights all pixels equally.
        huber_c: c of the pseudo-Huber loss, which replaces the squares; see `LossOptions`.
    """
    square = difference.square()
    if huber_c is not None:
        square = 2 * huber_c * ((square + huber_c**2).sqrt() - huber_c)
    if weight is None:
        return square.flatten(1).mean(dim=1)
    whole = weight.flatten(1).sum(dim=1) * difference.shape[1]
    return (weight * square).flatten(1).sum(dim=1) / whole.clamp(min=torch.finfo(whole.dtype).tiny)


def denoising_errors(
    model: Any,
    latent: Tensor,
    prompts: Prompts | None,
    noise: Tensor,
    t: Tensor,
    abar: Tensor,
    prediction: Prediction,
    weight: Tensor | None = None,
    huber_c: float | None = None,
) -> Tensor:
    """Compute the mean squared error of each image, `[B]`, at its own timestep t, `[B]`.

    The argument `abar`, `[T]`, contains the noise levels of all timesteps, and `weight` contains a weight for each
    pixel. With `huber_c`, the pseudo-Huber loss replaces the squares.
    """
    level = abar.to(latent.dtype)[t].view(-1, 1, 1, 1)
    output = model(add_diffusion_noise(latent, noise, level), t, prompts)
    return mean_square(output - diffusion_target(latent, noise, level, prediction), weight, huber_c)


class Objective(nn.Module, ABC):
    """A training objective: it computes the errors of the network's predictions for a batch of images.

    Args:
        options: settings of offset noise and of masked pixels.
    """

    def __init__(self, options: LossOptions) -> None:
        super().__init__()
        self.options = options

    @property
    def huber_c(self) -> float | None:
        """c of the pseudo-Huber loss; None in evaluation mode, which always computes squared errors."""
        return self.options.huber_c if self.training else None

    def batch_errors(
        self,
        network: Any,
        batch: CaptionedImageBatch,
        latent: Tensor,
        prompts: Prompts | None,
        noise: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Compute each image's mean squared error, `[B]`; a batch may include loss masks and SDXL's size conditions."""
        model, weight = network, self.options.weight(batch.get("loss_mask"), latent)
        if "size_conditions" in batch and getattr(network, "is_xl", False):
            model = partial(network.with_sizes, size_conditions=batch["size_conditions"])
        return self.errors(model, latent, prompts, noise, t, weight)

    @abstractmethod
    def errors(
        self,
        model: Any,
        latent: Tensor,
        prompts: Prompts | None,
        noise: Tensor,
        t: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Compute each image's mean squared error, `[B]`; the pixels are weighted by `weight`, `[B, 1, h, w]`."""


class DiffusionObjective(Objective):
    """Denoising objective at uniformly distributed random timesteps, with optional Min-SNR weights.

    Args:
        scheduler: diffusers scheduler that defines abar, `[T]`, and the prediction type.
        min_snr_gamma: gamma of the weights; None gives all timesteps the same weight.
        options: settings of offset noise and of masked pixels.
    """

    abar: Tensor

    def __init__(self, scheduler: Any, min_snr_gamma: float | None, options: LossOptions = LossOptions()) -> None:
        super().__init__(options)
        self.min_snr_gamma = min_snr_gamma
        self.prediction = scheduler_prediction(scheduler)
        self.register_buffer("abar", torch.from_numpy(scheduler_levels(scheduler)).float(), persistent=False)

    def times(self, latent: Tensor) -> Tensor:
        """Sample a random timestep for each image, `[B]`."""
        return sample_rows(partial(torch.randint, len(self.abar)), (len(latent),), latent.device)

    def held_out_times(self, index: Tensor) -> Tensor:
        """Compute a fixed timestep for each image index, from a low-discrepancy sequence."""
        return ((index + 1) * GOLDEN % 2**32 * len(self.abar)) >> 32

    def scheduler_times(self, t: Tensor) -> Tensor:
        """Return the times that the network receives; for diffusion, they are the timesteps t themselves."""
        return t

    def errors(
        self,
        model: Any,
        latent: Tensor,
        prompts: Prompts | None,
        noise: Tensor,
        t: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        return denoising_errors(model, latent, prompts, noise, t, self.abar, self.prediction, weight, self.huber_c)

    def weight_errors(self, error: Tensor, t: Tensor) -> Tensor:
        """Multiply the errors, `[B]`, by the loss weights of the timesteps t."""
        if self.min_snr_gamma is None:
            return error
        return error * min_snr_weight(self.abar.to(error.dtype)[t], self.min_snr_gamma, self.prediction)


@dataclass(frozen=True)
class FlowMatching:
    """Distribution of the time t and loss weights in the training of a flow-matching model.

    Args:
        density: distribution of t before the shift: uniform, logit_normal or mode. Times are in [0, 1], where 0 is data
            and 1 is noise.
        logit_mean: mean of logit(t) for the logit_normal density; positive values favour noise.
        logit_std: standard deviation of logit(t) for the logit_normal density.
        mode_scale: scale of the mode density; positive values favour t = 1/2, and negative values favour t near 0 and
            1.
        shift: a, parameter of the shift, which maps t to a t / (1 + (a - 1) t); 1 leaves t unchanged. None uses the
            shift of the pipeline's scheduler, which depends on the resolution for FLUX.1, FLUX.2, Chroma and
            Qwen-Image.
        weighting: loss weight as a function of time t: `none` weights all times equally, `sigma_sqrt` is 1 / t^2,
            `cosmap` is 2 / (pi (1 - 2 t + 2 t^2)), and `sigma_squared` is t^2, for the squared error of the clean
            latents (`precondition_outputs` in the scripts of diffusers).
    """

    density: Density = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    shift: float | None = None
    weighting: Weighting = "none"

    def __post_init__(self) -> None:
        one_of(get_args(Density), density=self.density)
        one_of(get_args(Weighting), weighting=self.weighting)
        positive(logit_std=self.logit_std, shift=self.shift)

    def sample(
        self, shape: Any, device: torch.device | str = "cpu", generator: torch.Generator | None = None
    ) -> Tensor:
        """Sample times t before the shift, with the given shape."""
        return compute_density_for_timestep_sampling(
            self.density, shape[0], self.logit_mean, self.logit_std, self.mode_scale, device, generator
        )


class FlowObjective(Objective):
    """Flow matching: a network f predicts the velocity e - z from a point z_t between data z and noise e.

        z_t = (1 - t) z + t e,   L = mean w_t |f(z_t, t, c) - (e - z)|^2,   t in [0, 1]

    Here c is the prompt, and w_t is the loss weight.

    Source: Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, ICML 2024,
    arXiv 2403.03206.

    Args:
        scheduler: diffusers scheduler that defines T and, by default, the shift.
        settings: distribution of t and loss weights.
        patch_size: height and width, in latent pixels, of the patch that forms one image token of the transformer.
        options: settings of offset noise and of masked pixels.
        time_shift: function that maps the number of image tokens to the default shift; None uses the scheduler's shift.
    """

    def __init__(
        self,
        scheduler: Any,
        settings: FlowMatching,
        patch_size: int = 2,
        options: LossOptions = LossOptions(),
        time_shift: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__(options)
        self.settings = settings
        self.steps: int = scheduler.config.num_train_timesteps
        self.time_shift = time_shift or partial(scheduler_shift, scheduler.config)
        self.patch_size = patch_size

    def shift(self, latent: Tensor) -> float:
        """Return the time shift for latents with the size of `latent`."""
        if self.settings.shift is not None:
            return self.settings.shift
        return self.time_shift(latent[0, 0].numel() // self.patch_size**2)

    def times(self, latent: Tensor) -> Tensor:
        """Sample a random time t for each image, `[B]`."""
        return shift_time(sample_rows(self.settings.sample, (len(latent),), latent.device), self.shift(latent))

    def held_out_times(self, index: Tensor) -> Tensor:
        """Compute a fixed t for each image index, from a uniform low-discrepancy sequence."""
        return ((index + 1) * GOLDEN % 2**32).double().div(2**32).float()

    def scheduler_times(self, t: Tensor) -> Tensor:
        """Return the times that the network receives; for flow matching, they are T t."""
        return self.steps * t

    def errors(
        self,
        model: Any,
        latent: Tensor,
        prompts: Prompts | None,
        noise: Tensor,
        t: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        level = along(t, latent)
        output = model((1 - level) * latent + level * noise, self.scheduler_times(t), prompts)
        return mean_square(output - (noise - latent), weight, self.huber_c)

    def weight_errors(self, error: Tensor, t: Tensor) -> Tensor:
        """Multiply the errors, `[B]`, by the loss weights of their times t; times below 1 / T count as 1 / T."""
        if self.settings.weighting == "none":
            return error
        if self.settings.weighting == "sigma_squared":
            return error * t.square()
        return error * compute_loss_weighting_for_sd3(self.settings.weighting, t.clamp(min=1 / self.steps))


def training_objective(
    network: Any,
    min_snr_gamma: float | None,
    flow: FlowMatching | None,
    options: LossOptions,
    owner: Callable[..., Any],
) -> DiffusionObjective | FlowObjective:
    """Return the objective for a diffusion model or for a flow-matching model.

    An argument that applies only to the other kind of model must have its default value.
    """
    if options.dpo_beta is not None:
        check_reference(network)
    flows = isinstance(network, FlowTransformer)
    only_with("a model of flow matching", flows, owner, flow=flow)
    only_with("a model of diffusion", not flows, owner, min_snr_gamma=min_snr_gamma)
    if isinstance(network, FlowTransformer):
        return FlowObjective(network.scheduler, flow or FlowMatching(), network.patch_size, options, network.time_shift)
    return DiffusionObjective(network.scheduler, min_snr_gamma, options)
