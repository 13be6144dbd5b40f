"""Noise2Score learns to denoise from noisy images alone, by the score of their distribution and Tweedie's formula.

A network R is trained to be the score of the noisy images, l'(y) = d log p(y) / dy: the image is perturbed once more,
and the perturbation regressed (the loss of an amortised residual denoising autoencoder),

    L = mean (sigma R(y + sigma u) + u)^2,        u ~ N(0, I),

whose minimum is the score of y + sigma u; sigma falls during training. The clean image follows in closed form from the
score s = R(y), whatever the clean images are like (see the kinds of `datamodules.corruptions.image_noise`):

    Gaussian   y = x + n, n ~ N(0, v)                x = y + v s(y)
    Poisson    z ~ Poisson(x / zeta), y = zeta z     x = (y + zeta / 2) exp(s(z)),   s = d log p(z) / dz
    Gamma      y = x g, g ~ Gamma(k, 1 / k)          x = k y / ((k - 1) - y s(y))

Where the level of the noise is not known, the network is trained on a range of levels, and each test image is denoised
at the level of a grid whose result looks best.

As in the authors' code sigma is one number for a batch and falls linearly with the images that have been seen, anew in
every epoch, where the paper draws it from N(0, delta^2) with a falling delta. That code draws an unknown level once for
each batch; here each image has its own.

Source: Kim and Ye, Noise2Score: Tweedie's Approach to Self-Supervised Image Denoising without Clean Images, NeurIPS
2021, arXiv 2106.07009; the formulas are those of the authors' code.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.batches import ImagePairBatch, global_batch_size
from datamodules.corruptions.image_noise import Gamma, Gaussian, Poisson
from datamodules.corruptions.image_noise.blind_level import best_level, candidates
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.full_precision import at_least_float32
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.logging import log_training


def annealed(first: float, last: float, seen: Tensor, images: int) -> Tensor:
    """Compute sigma, which falls linearly from the first to the last value while a number of images are seen."""
    part = ((seen + 1) / images).clamp(max=1)
    return first * (1 - part) + last * part


def score_loss(score: Tensor, perturbation: Tensor, sigma: float | Tensor) -> Tensor:
    """Compute L = mean (sigma R(y + sigma u) + u)^2.

    Args:
        score: R(y + sigma u), `[B, C, H, W]`.
        perturbation: u, standard normal, `[B, C, H, W]`.
        sigma: size of the perturbation; not the level of the noise.
    """
    return (sigma * score + perturbation).square().mean()


class Noise2Score(RestorerSteps, MethodModule):
    """Learn the score of noisy images, and denoise by Tweedie's formula.

    It also is a `Denoiser` of Gaussian noise of any level that it was trained for.

    Args:
        network: maps images `[B, C, H, W]` to the score of their distribution, of the same shape.
        noise: the noise of the images, whose formula denoises; its level counts for nothing where `blind`.
        blind: whether the level is not known, and chosen for each image.
        sigma: size of the perturbation at the start of an epoch and at the end of its fall. For Poisson noise in
            counts, since the network sees those.
        anneal_images: images of an epoch over which the size falls.
        score_scale: factor of the network's output; one over the deviation of the noise lets an untrained small
            network begin at the size of a score.
        inference: tiles and self-ensemble of the score in validation, test and prediction.
        protocol: how tests measure estimates: `rounded` to 256 levels, `clipped` alone, or `unclipped`.
        optimizer: built on the network's trainable parameters.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range, or the data have other noise than the module.
    """

    images_seen: Tensor

    def __init__(
        self,
        network: nn.Module,
        noise: Gaussian | Poisson | Gamma,
        blind: bool = False,
        sigma: tuple[float, float] = (0.05, 0.001),
        anneal_images: int = 22_000,
        score_scale: float = 1.0,
        inference: TiledInference = TiledInference(),  # noqa: B008 - it does not change
        protocol: EvaluationProtocol = "clipped",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(first_sigma=sigma[0], last_sigma=sigma[1], score_scale=score_scale)
        at_least(1, anneal_images=anneal_images)
        self.network = network
        self.noise = noise
        self.blind = blind
        self.sigma = sigma
        self.anneal_images = anneal_images
        self.score_scale = score_scale
        self.inference = inference
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.quality = ImageQuality(protocol)
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))

    def setup(self, stage: str) -> None:
        given = getattr(getattr(self.trainer, "datamodule", None), "noise", None)
        if given is not None and (type(given) is not type(self.noise) or not (self.blind or given == self.noise)):
            raise ValueError(f"model.noise is {self.noise}, and data.noise {given}: the formula needs the same")

    def forward(self, image: Tensor) -> Tensor:
        """Compute the score R of noisy images `[B, C, H, W]`; of Poisson noise, of counts."""
        return self.score_scale * at_least_float32(self.network(image))

    def on_train_epoch_start(self) -> None:
        self.images_seen.zero_()  # not called where a run resumes within an epoch

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        if self.blind and isinstance(self.noise, Poisson):
            if "noise_level" not in batch:
                raise ValueError(
                    "counts of unknown Poisson noise need data.noise.zeta, a range, without data.fixed_noise"
                )
            image = noisy / batch["noise_level"]
        else:
            image = self.noise.score_input(noisy)
        self.images_seen += global_batch_size(batch)
        sigma = annealed(*self.sigma, self.images_seen, self.anneal_images)
        perturbation = sample_rows_like(torch.randn, image)
        loss = score_loss(self(image + sigma * perturbation), perturbation, sigma)
        return {"loss": log_training(self, batch, loss)}

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Denoise images `[B, C, H, W]`, not clipped."""
        if self.blind:
            return best_level(candidates(self.noise), degraded, self._whole_score)[1]
        return self.noise.posterior_mean(degraded, self._whole_score(self.noise.score_input(degraded)))

    def _whole_score(self, image: Tensor) -> Tensor:
        return self.inference(self, image)

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Estimate clean images, in [0, 1], from those under Gaussian noise of a standard deviation in pixel units."""
        if sigma is None:
            return self.restore(noisy).clamp(0, 1)
        return (noisy + sigma**2 * self(noisy)).clamp(0, 1)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
