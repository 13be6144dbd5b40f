"""LightningModule of ScoreDVI; the package docstring describes the method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive, within
from datamodules.batches import ImagePairBatch
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.denoising.scoredvi.elbo import (
    divergence_of_component,
    divergence_of_precision,
    divergence_of_weight,
    prior_term,
    reconstruction,
)
from lightning_modules.denoising.scoredvi.noise_level import noise_deviation, prior_weight
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.single_image import SingleImageSteps, with_new_weights
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training

LOG_LEAST, LOG_MOST = torch.tensor([1e-8, 1e4]).log().tolist()
GREATEST_LEVEL = 100 / 255
"""Maximum standard deviation of the white noise with which the denoisers are trained."""


def side_network(in_channels: int, out_channels: int, width: int, depth: int) -> nn.Sequential:
    """Build a plain network of 3x3 convolutions, with batch normalisation after the inner convolutions."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width, eps=1e-4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, out_channels, 3, padding=1))


class Posterior(nn.Module):
    """The four networks that are fitted to one image. Their initial weights are new for each image.

    Args:
        image_network: network from `[1, C, H, W]` to `[1, 2 K C, H, W]`; each fit uses a copy with new initial weights.
        channels: channels of an image, C.
        components: number of mixture components, K.
        side_width: number of hidden channels of the three other networks.
        side_depth: number of convolutions of each of the three other networks.
    """

    def __init__(
        self, image_network: nn.Module, channels: int, components: int, side_width: int, side_depth: int
    ) -> None:
        super().__init__()
        self.components = components
        self.image = with_new_weights(image_network)
        outputs = channels * components
        self.precision = side_network(channels, 2 * outputs, side_width, side_depth)
        self.component = side_network(channels, outputs, side_width, side_depth)
        self.weight = side_network(channels, outputs, side_width, side_depth)
        self.train().requires_grad_(True)

    def forward(self, noisy: Tensor) -> tuple[Tensor, ...]:
        """Predict mu, log sigma^2, log alpha, log beta, rho and d for a noisy image, each `[1, K, C, H, W]`."""

        def split(output: Tensor) -> Tensor:
            return output.unflatten(1, (self.components, -1))

        mu, log_variance = split(self.image(noisy)).chunk(2, dim=2)
        log_alpha, log_beta = split(self.precision(noisy).clamp(LOG_LEAST, LOG_MOST)).chunk(2, dim=2)
        rho = split(self.component(noisy)).softmax(dim=1)
        d = split(self.weight(noisy).clamp(LOG_LEAST, LOG_MOST).exp())
        return mu, log_variance.clamp(LOG_LEAST, LOG_MOST), log_alpha, log_beta, rho, d


@dataclass(frozen=True)
class Fitting:
    """How the posterior of an image is fitted.

    Args:
        steps: number of optimizer steps per fit.
        samples: M, number of posterior samples per step.
        chunk: number of posterior samples per denoiser call; smaller values use less memory.
        average: decay factor of the running average of estimates, in [0, 1).
        restart_above: if the mean sigma at the end of a fit exceeds this value, the fit is repeated once; with None, no
            fit is repeated.
        learning_rate: learning rate of Adam, which fits all four networks.
    """

    steps: int = 400
    samples: int = 5
    chunk: int = 5
    average: float = 0.9
    restart_above: float | None = 0.05
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        positive(learning_rate=self.learning_rate)
        at_least(1, steps=self.steps, samples=self.samples, chunk=self.chunk)
        within(0, 1, "[)", average=self.average)


class ScoreDVI(SingleImageSteps, MethodModule):
    """Denoise each image by fitting a posterior to it. `fit` trains the blind denoisers, which define the prior.

    `test` and `predict` take minutes per 512 x 512 image on a GPU. Use a batch size of 1: initial weights and samples
    then depend only on the run's seed and the image's index.

    Args:
        denoisers: K blind denoisers of images `[B, C, H, W]` with white Gaussian noise. `fit` trains the denoisers that
            have trainable parameters, with noise whose standard deviation is between 0 and 100 grey levels.
        network: architecture of the network that predicts the posterior of the clean image. It maps `[1, C, H, W]` to
            `[1, 2 K C, H, W]`.
        beta: beta_0, rate of the Gamma prior of the precision; the paper uses 0.01 for CC, 0.005 for PolyU and 0.02 for
            SIDD.
        alpha: alpha_0, shape of the precision's Gamma prior.
        weight: lambda, weight of the prior of the clean image; None chooses 0.5, 1 or 2, depending on the estimated
            noise level.
        fitting: steps, samples and learning rate of the fit to an image.
        side_width: number of hidden channels of the three smaller networks.
        side_depth: number of convolutions of each of the three smaller networks.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the denoisers' trainable parameters in `fit`.
        lr_scheduler: learning-rate schedule, stepped every epoch of `fit`.

    Examples:
        >>> from lightning_modules.denoising.scoredvi.module import Fitting
        >>> denoisers = [torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(2)]
        >>> model = ScoreDVI(denoisers, torch.nn.Conv2d(1, 4, 3, padding=1), beta=0.01, fitting=Fitting(steps=2))
        >>> model.restore(torch.full((1, 1, 36, 36), 0.5), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 36, 36])
    """

    def __init__(
        self,
        denoisers: Sequence[nn.Module],
        network: nn.Module,
        beta: float,
        alpha: float = 1.0,
        weight: float | None = None,
        fitting: Fitting = Fitting(),
        side_width: int = 32,
        side_depth: int = 5,
        protocol: EvaluationProtocol = "unclipped",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(beta=beta, alpha=alpha)
        at_least(1, denoisers=len(denoisers), side_width=side_width)
        at_least(2, side_depth=side_depth)
        self.denoisers = nn.ModuleList(denoisers)
        self.network = network.requires_grad_(False)  # a template: each image gets a re-initialised copy
        self.beta = beta
        self.alpha = alpha
        self.weight = weight
        self.fitting = fitting
        self.side_width = side_width
        self.side_depth = side_depth
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.quality = ImageQuality(protocol)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        clean = batch["clean"]
        losses = []
        for denoiser in self.denoisers:
            level = GREATEST_LEVEL * sample_rows_like(torch.rand, clean[:, :1, :1, :1])
            losses.append(F.mse_loss(denoiser(clean + level * sample_rows_like(torch.randn, clean)), clean))
        return {"loss": log_training(self, batch, torch.stack(losses).sum())}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.denoisers))

    def bound(self, posterior: Posterior, noisy: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss of a step, the mixture mean `[1, C, H, W]`, and the mean sigma, a scalar.

        Args:
            posterior: the networks being fitted.
            noisy: `[1, C, H, W]`.
            weight: lambda.
        """
        mu, log_variance, log_alpha, log_beta, rho, d = posterior(noisy)
        normal = torch.randn(self.fitting.samples, *mu.shape[1:], dtype=mu.dtype, device=mu.device)
        loss = (
            reconstruction(noisy[:, None], mu, log_variance.exp(), log_alpha, log_beta, rho)
            + weight * prior_term(mu, log_variance, rho, normal, list(self.denoisers), self.fitting.chunk)
            + divergence_of_precision(log_alpha, log_beta, rho, self.alpha, self.beta)
            + divergence_of_component(rho, d)
            + divergence_of_weight(d)
        )
        return loss, (mu * rho).sum(dim=1).detach(), (0.5 * log_variance).exp().mean().detach()

    def fit_posterior(self, noisy: Tensor, weight: float) -> tuple[Tensor, float]:
        """Fit the posterior of an image `[1, C, H, W]`. Return the running average of its mean, and the last sigma."""
        posterior = Posterior(self.network, noisy.shape[1], len(self.denoisers), self.side_width, self.side_depth).to(
            noisy
        )
        optimizer = torch.optim.Adam(posterior.parameters(), lr=self.fitting.learning_rate)
        average, sigma = noisy, noisy.new_zeros(())
        for _ in range(self.fitting.steps):
            loss, mean, sigma = self.bound(posterior, noisy, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average = self.fitting.average * average + (1 - self.fitting.average) * mean
        return average, float(sigma)

    def fitted_estimate(self, noisy: Tensor) -> Tensor:
        # Digamma and log-gamma of values down to 1e-8 need at least float32, which `restore` ensures.
        weight = self.weight
        if weight is None:
            weight = prior_weight(noise_deviation(noisy[0].double().cpu().numpy()))
        estimate, sigma = self.fit_posterior(noisy, weight)
        restart_above = self.fitting.restart_above
        if restart_above is not None and sigma > restart_above:
            estimate, _ = self.fit_posterior(noisy, weight)
        return estimate


class BlindDenoisers(ScoreDVI):
    """Baseline of ScoreDVI: the mean output of its blind denoisers. The arguments are those of `ScoreDVI`.

    Examples:
        >>> denoisers = [torch.nn.Identity(), torch.nn.Conv2d(1, 1, 3, padding=1)]
        >>> model = BlindDenoisers(denoisers, torch.nn.Conv2d(1, 4, 3, padding=1), beta=0.01)
        >>> model.restore(torch.full((1, 1, 16, 16), 0.5)).shape
        torch.Size([1, 1, 16, 16])
    """

    @evaluate_without_gradients
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([denoiser(degraded) for denoiser in self.denoisers]).mean(dim=0)
