"""Noise2Score learns to denoise from noisy images alone, by score matching and Tweedie's formula.

A network R estimates the score of the noisy images, l'(y) = d log p(y) / dy. For training, a perturbation sigma u is
added to the noisy image, and R learns to predict it with the loss of an amortised residual denoising autoencoder:

    L = mean (sigma R(y + sigma u) + u)^2,        u ~ N(0, I).

The loss is minimal if R is the score of y + sigma u. During training, sigma is annealed. The clean image follows from
the score s = R(y) in closed form, without a model of clean images (see the noise models of
`datamodules.corruptions.image_noise`):

    Gaussian   y = x + n, n ~ N(0, v)                x = y + v s(y)
    Poisson    z ~ Poisson(x / zeta), y = zeta z     x = (y + zeta / 2) exp(s(z)),   s = d log p(z) / dz
    Gamma      y = x g, g ~ Gamma(k, 1 / k)          x = k y / ((k - 1) - y s(y))

If the noise level is unknown, the network is trained on a range of levels. Each test image is then denoised at every
level of a grid, and the result with the best quality according to a no-reference measure is used.

As in the authors' code, sigma is one number per batch, and decreases linearly with the number of images seen in the
epoch. The paper samples sigma from N(0, delta^2) with a decreasing delta; the option `random_sigma` does the same, with
a separate sigma for each image. If the noise level is unknown, the authors' code samples one level per batch; here,
each image has its own level.

Source: Kim and Ye, Noise2Score: Tweedie's Approach to Self-Supervised Image Denoising without Clean Images, NeurIPS
2021, arXiv 2106.07009; the formulas follow the authors' code.
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
from lightning_modules.interfaces import NoiseSource, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training


def annealed_sigma(first: float, last: float, seen: Tensor, images: int) -> Tensor:
    """Compute sigma after `seen` images of an epoch. It moves linearly from `first` to `last` over `images` images."""
    part = ((seen + 1) / images).clamp(max=1)
    return first * (1 - part) + last * part


def score_loss(score: Tensor, perturbation: Tensor, sigma: float | Tensor) -> Tensor:
    """Compute L = mean (sigma R(y + sigma u) + u)^2.

    Args:
        score: R(y + sigma u), `[B, C, H, W]`.
        perturbation: u, standard normal, `[B, C, H, W]`.
        sigma: standard deviation of the perturbation, not the noise level of the images.
    """
    return (sigma * score + perturbation).square().mean()


class Noise2Score(RestorerSteps, MethodModule):
    """Estimate the score of noisy images, and denoise by Tweedie's formula.

    The module is also a `Denoiser` for Gaussian noise of the levels on which it was trained.

    Args:
        network: maps images `[B, C, H, W]` to estimates of their score, of the same shape.
        noise: noise model of the images; it determines Tweedie's formula. If `blind` is true, the level of the noise
            model is ignored.
        blind: whether the noise level is treated as unknown, and estimated for each image.
        sigma: standard deviation of the perturbation at the start and at the end of an epoch; for Poisson noise, in
            counts.
        anneal_images: number of images, from the start of each epoch, during which sigma decreases from the first to
            the last value.
        random_sigma: whether to sample the sigma of each image from N(0, delta^2), where delta is the annealed value,
            as in the paper.
        score_scale: factor by which the output of the network is multiplied. With 1 / (standard deviation of the
            noise), the output of a small untrained network has the scale of a score.
        inference: tiling and self-ensemble of the score in validation, test and prediction.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from datamodules.corruptions.image_noise import Gaussian
        >>> noisy = torch.full((4, 1, 8, 8), 0.5)
        >>> model = Noise2Score(torch.nn.Conv2d(1, 1, 3, padding=1), Gaussian(0.1))
        >>> model.denoise(noisy).shape, model.denoise(noisy, sigma=0.2).shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4, 1, 8, 8]))
    """

    images_seen: Tensor

    def __init__(
        self,
        network: nn.Module,
        noise: Gaussian | Poisson | Gamma,
        blind: bool = False,
        sigma: tuple[float, float] = (0.05, 0.001),
        anneal_images: int = 22_000,
        random_sigma: bool = False,
        score_scale: float = 1.0,
        inference: TiledInference = TiledInference(),  # noqa: B008 - immutable
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
        self.random_sigma = random_sigma
        self.score_scale = score_scale
        self.inference = inference
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.quality = ImageQuality(protocol)
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))

    def setup(self, stage: str) -> None:
        data = data_with(self.trainer, NoiseSource)
        given = None if data is None else data.noise
        if given is not None and (type(given) is not type(self.noise) or not (self.blind or given == self.noise)):
            raise ValueError(f"model.noise is {self.noise}, but data.noise is {given}: they must match")

    def forward(self, image: Tensor) -> Tensor:
        """Estimate the score R of noisy images `[B, C, H, W]`; for Poisson noise, the images are counts."""
        return self.score_scale * at_least_float32(self.network(image))

    def on_train_epoch_start(self) -> None:
        self.images_seen.zero_()  # Lightning skips this hook when a run resumes mid-epoch

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy = batch["noisy"]
        if self.blind and isinstance(self.noise, Poisson):
            if "noise_level" not in batch:
                raise ValueError(
                    "blind Poisson noise needs a range for data.noise.zeta, and data.noise_samples must not be fixed"
                )
            image = noisy / batch["noise_level"]
        else:
            image = self.noise.score_input(noisy)
        self.images_seen += global_batch_size(batch)
        sigma = annealed_sigma(*self.sigma, self.images_seen, self.anneal_images)
        perturbation = sample_rows_like(torch.randn, image)
        if self.random_sigma:
            sigma = sigma * sample_rows_like(torch.randn, image[:, :1, :1, :1])
        loss = score_loss(self(image + sigma * perturbation), perturbation, sigma)
        return {"loss": log_training(self, batch, loss)}

    @evaluate_without_gradients
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Denoise images `[B, C, H, W]` without clipping the result."""
        if self.blind:
            return best_level(candidates(self.noise), degraded, self._whole_score)[1]
        return self.noise.posterior_mean(degraded, self._whole_score(self.noise.score_input(degraded)))

    def _whole_score(self, image: Tensor) -> Tensor:
        return self.inference(self, image)

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Estimate clean images in [0, 1] from images with Gaussian noise of standard deviation `sigma`."""
        if sigma is None:
            return self.restore(noisy).clamp(0, 1)
        return (noisy + sigma**2 * self(noisy)).clamp(0, 1)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
