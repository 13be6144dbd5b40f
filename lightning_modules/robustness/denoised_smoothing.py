"""Diffusion-denoised smoothing (DDS): randomised smoothing of a classifier that follows a diffusion model.

A diffusion model is trained on images x in [-1, 1] to which noise e ~ N(0, I) is added. At timestep t, its input is x_t
= sqrt(abar_t) x + sqrt(1 - abar_t) e. If x_t is divided by sqrt(abar_t), and its value range is then mapped from [-1,
1] to [0, 1], the result is an image with additive Gaussian noise of standard deviation s_t:

    s_t = sqrt((1 - abar_t) / abar_t) / 2.

Certification at the noise level sigma uses t*, the first timestep t with s_t >= sigma. The image is estimated with a
single evaluation of the model. If the model predicts the noise e_theta, the estimate is

    x = (x_t - sqrt(1 - abar_t) e_theta(x_t, t)) / sqrt(abar_t)   clipped to [-1, 1].

If the model predicts v, the estimate is sqrt(abar_t) x_t - sqrt(1 - abar_t) v_theta; if it predicts the image, the
estimate is x_theta. The classifier receives the estimate. The radius sigma Phi^-1(p) of randomised smoothing is valid,
because s_t, the standard deviation of the noise, is at least sigma. For the certificate, neither the diffusion model
nor the classifier needs further training.

Source: Carlini, Tramer, Dvijotham, Rice, Sun and Kolter, (Certified!!) Adversarial Robustness for Free!, ICLR 2023,
arXiv 2206.10550.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import positive
from datamodules.batches import LabelledImageBatch
from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.interfaces import Exported
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.robustness.certificates.vote_fractions import exported_votes
from lightning_modules.sde.discrete import (
    clean_estimate,
    denoising_loss,
    first_timestep,
    noise_levels,
    run_diffusion_model,
    scheduler_levels,
    scheduler_prediction,
)
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


class DenoisedSmoothing(ClassifierSteps, MethodModule):
    """Classifier behind a diffusion model, certified by the callback `Certification`.

    The paper uses pretrained models. `test` certifies such models without training. `fit` trains both models: the
    classifier with the cross-entropy on clean images, and the diffusion model with the mean squared error of its
    prediction at random timesteps. Frozen parameters are not trained. The test accuracy is the accuracy of the
    classifier on clean images, without the diffusion model.

    Args:
        network: classifier that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`. If the classifier
            needs a different image size, wrap it in `lightning_modules.backbones.resized.Resized`.
        denoiser: unconditional diffusion model for images in [-1, 1] that have the size of the data. Its inputs are
            noisy images x_t and timesteps t, `[B]`. It returns a tensor `[B, C, H, W]` or `[B, 2 C, H, W]`, or a
            diffusers output whose `sample` is such a tensor.
        scheduler: scheduler with which the diffusion model was trained. Only its noise levels and its prediction type
            are used.
        num_classes: number of classes, K.
        timestep_scale: factor by which timesteps are multiplied before they are passed to the model. Use 1/4 if the
            model has 4,000 noise levels, but its timestep input ends at 1,000.
        optimizer: optimizer of the trainable parameters of the classifier and the diffusion model.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    certificate = "Cohen et al. 2019, of a classifier behind a denoiser"
    alphas_cumprod: Tensor

    def __init__(
        self,
        network: nn.Module,
        denoiser: nn.Module,
        scheduler: DDPMScheduler | DDIMScheduler,
        num_classes: int,
        timestep_scale: float = 1.0,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(timestep_scale=timestep_scale)
        self.network = network
        self.denoiser = denoiser
        self.num_classes = num_classes
        self.timestep_scale = timestep_scale
        self.prediction = scheduler_prediction(scheduler)
        self.levels = scheduler_levels(scheduler)
        self.register_buffer("alphas_cumprod", torch.from_numpy(self.levels).float())
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def extra_repr(self) -> str:
        return f"prediction={self.prediction}, timestep_scale={self.timestep_scale:g}"

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def estimate(self, noisy: Tensor, t: int) -> Tensor:
        """Estimate clean images `[B, C, H, W]` in [0, 1] from noisy images.

        The noise in these images has the standard deviation s_t, in pixel units.
        """
        abar = float(self.levels[t])
        x_t = math.sqrt(abar) * to_signed(noisy)
        timestep = torch.full(noisy.shape[:1], t, dtype=torch.int64, device=noisy.device)
        output = run_diffusion_model(self.denoiser, x_t, self._scaled_timestep(timestep))
        return to_unit(clean_estimate(output, x_t, abar, self.prediction).clamp(-1, 1))

    def _scaled_timestep(self, t: Tensor) -> Tensor:
        """Compute t times `timestep_scale`, which is the diffusion model's input for timestep t."""
        return t if self.timestep_scale == 1 else t * self.timestep_scale

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Denoise images with a single evaluation of the diffusion model.

        The images have noise of standard deviation `sigma`, in pixel units.

        Raises:
            ValueError: if `sigma` is not a single number.
        """
        if sigma is None or (isinstance(sigma, Tensor) and sigma.numel() > 1):
            raise ValueError(f"sigma must be a single number for all images, got {sigma}")
        return self.estimate(noisy, first_timestep(float(sigma), self.levels))

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Add noise to images, denoise them, and compute the classifier's logits `[1, B, K]`.

        The standard deviation of this noise is s_t*, which is at least sigma.
        """
        t = first_timestep(sigma, self.levels)
        noisy = torch.add(image, noise, alpha=float(noise_levels(self.levels[t])))
        return self(self.estimate(noisy.to(next(self.network.parameters()).dtype), t))[None]

    def export_function(self, sigma: float | None = None) -> Exported:
        """Export, as a function, the vote fractions of the smoothed classifier. See `interfaces.Exportable`."""
        if sigma is None:
            raise ValueError("sigma must be given for a classifier behind a denoiser; 0 exports the classifier alone")
        return exported_votes(self, sigma) if sigma else super().export_function()

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        return gaussian_radius(probability[0], sigma)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"]
        logits = self(image)
        terms = {"cross_entropy": F.cross_entropy(logits, batch["label"])}
        if trainable_parameters(self.denoiser):
            terms["diffusion"] = self._diffusion_loss(to_signed(image))
        loss = log_training(self, batch, torch.stack(list(terms.values())).sum(), **terms)
        return {"loss": loss, "logits": logits.detach()}

    def _diffusion_loss(self, image: Tensor) -> Tensor:
        def denoiser(noisy: Tensor, t: Tensor) -> Any:
            return self.denoiser(noisy, self._scaled_timestep(t))

        return denoising_loss(denoiser, image, self.alphas_cumprod, self.prediction)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network, self.denoiser))
