"""Training objectives: timesteps, targets and weights of diffusion and of flow matching."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor, nn

from datamodules.arguments import one_of, positive
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.finetuning.weighting import min_snr_weight
from lightning_modules.sde.discrete import (
    Prediction,
    diffusion_target,
    noised,
    scheduler_levels,
    scheduler_prediction,
)
from lightning_modules.sde.flow_shift import scheduler_shift, shifted

Density = Literal["uniform", "logit_normal", "mode"]
Weighting = Literal["none", "sigma_sqrt", "cosmap"]
GOLDEN = 2654435769  # 2^32 times the golden ratio, less one


def denoising_errors(
    model: Any, latent: Tensor, prompts: Prompts | None, noise: Tensor, t: Tensor, abar: Tensor, prediction: Prediction
) -> Tensor:
    """Compute the unweighted mean squared error `[B]` of each image at timesteps t `[B]`, for abar `[T]`."""
    level = abar.to(latent.dtype)[t].view(-1, 1, 1, 1)
    output = model(noised(latent, noise, level), t, prompts)
    return (output - diffusion_target(latent, noise, level, prediction)).square().flatten(1).mean(dim=1)


class DiffusionObjective(nn.Module):
    """Denoising objective at uniform timesteps, with Min-SNR weights.

    Args:
        scheduler: diffusers scheduler that defines abar `[T]` and the prediction type.
        min_snr_gamma: gamma of the weights; None gives all timesteps the same weight.
    """

    abar: Tensor

    def __init__(self, scheduler: Any, min_snr_gamma: float | None) -> None:
        super().__init__()
        self.min_snr_gamma = min_snr_gamma
        self.prediction = scheduler_prediction(scheduler)
        self.register_buffer("abar", torch.from_numpy(scheduler_levels(scheduler)).float(), persistent=False)

    def times(self, latent: Tensor) -> Tensor:
        """Sample a timestep for each image, `[B]`."""
        return sample_rows(partial(torch.randint, len(self.abar)), (len(latent),), latent.device)

    def held_out_times(self, index: Tensor) -> Tensor:
        """Compute a fixed timestep for each image index, from a low-discrepancy sequence."""
        return ((index + 1) * GOLDEN % 2**32 * len(self.abar)) >> 32

    def errors(self, model: Any, latent: Tensor, prompts: Prompts | None, noise: Tensor, t: Tensor) -> Tensor:
        """Compute the unweighted mean squared error of each image, `[B]`."""
        return denoising_errors(model, latent, prompts, noise, t, self.abar, self.prediction)

    def weighted(self, error: Tensor, t: Tensor) -> Tensor:
        """Weight the errors `[B]` at timesteps t."""
        if self.min_snr_gamma is None:
            return error
        return error * min_snr_weight(self.abar.to(error.dtype)[t], self.min_snr_gamma, self.prediction)


@dataclass(frozen=True)
class FlowMatching:
    """Distribution of t and loss weights for training a flow-matching model.

    Args:
        density: distribution of t in [0, 1] before the shift, with data at 0 and noise at 1: uniform, logit_normal, or
            mode.
        logit_mean: mean of logit(t) for logit_normal; positive values favour noise.
        logit_std: standard deviation of logit(t) for logit_normal.
        mode_scale: scale of mode; positive values favour t = 1/2, negative ones both ends.
        shift: a, which moves t to a t / (1 + (a - 1) t); None takes that of the pipeline's scheduler, which depends on
            the resolution for FLUX.1 and Qwen-Image; 1 leaves t as it is.
        weighting: none weights all t equally, sigma_sqrt by 1 / t^2, cosmap by 2 / (pi (1 - 2 t + 2 t^2)).

    Raises:
        ValueError: if an argument is out of range.
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
        """Sample t `[B]` before the shift."""
        return compute_density_for_timestep_sampling(
            self.density, shape[0], self.logit_mean, self.logit_std, self.mode_scale, device, generator
        )


class FlowObjective(nn.Module):
    """Flow-matching objective: predict the velocity e - z at z_t = (1 - t) z + t e.

    Args:
        scheduler: diffusers scheduler that defines T and, by default, the shift.
        settings: density of t and weights.
        patch_size: height and width of a position of the transformer in latent pixels.
    """

    def __init__(self, scheduler: Any, settings: FlowMatching, patch_size: int = 2) -> None:
        super().__init__()
        self.settings = settings
        self.steps: int = scheduler.config.num_train_timesteps
        self.scheduler_config = scheduler.config
        self.patch_size = patch_size

    def shift(self, latent: Tensor) -> float:
        """Compute the shift of times for latents of this size."""
        if self.settings.shift is not None:
            return self.settings.shift
        return scheduler_shift(self.scheduler_config, latent[0, 0].numel() // self.patch_size**2)

    def times(self, latent: Tensor) -> Tensor:
        """Sample t for each image, `[B]`."""
        return shifted(sample_rows(self.settings.sample, (len(latent),), latent.device), self.shift(latent))

    def held_out_times(self, index: Tensor) -> Tensor:
        """Compute a fixed t for each image index, from a uniform low-discrepancy sequence."""
        return ((index + 1) * GOLDEN % 2**32).double().div(2**32).float()

    def errors(self, model: Any, latent: Tensor, prompts: Prompts | None, noise: Tensor, t: Tensor) -> Tensor:
        """Compute the unweighted mean squared error of each image, `[B]`."""
        level = t.to(latent.dtype).view(-1, 1, 1, 1)
        output = model((1 - level) * latent + level * noise, self.steps * t, prompts)
        return (output - (noise - latent)).square().flatten(1).mean(dim=1)

    def weighted(self, error: Tensor, t: Tensor) -> Tensor:
        """Multiply the errors `[B]` by the loss weights at times t. Times below 1 / T have the weight of 1 / T."""
        if self.settings.weighting == "none":
            return error
        return error * compute_loss_weighting_for_sd3(self.settings.weighting, t.clamp(min=1 / self.steps))
