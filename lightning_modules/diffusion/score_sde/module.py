"""LightningModule that trains a score model and samples from it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, within
from datamodules.batches import LabelledImageBatch
from datamodules.pixel_ranges import to_signed, to_unit
from datamodules.randomness.generators import drawing
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.diffusion.score_sde.conditions import ClassGuidance
from lightning_modules.diffusion.score_sde.inpainting import KnownParts
from lightning_modules.diffusion.score_sde.latents import Latents
from lightning_modules.diffusion.score_sde.trained_levels import SMALLEST_TIME, TrainedLevels, score_matching
from lightning_modules.interfaces import Exported, ExportedInput
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import ImageQuality
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adam, constant, trainable_parameters, with_schedule
from lightning_modules.sde.flow import ProbabilityFlow, bits_per_dimension, likelihood
from lightning_modules.sde.processes import VE, Process
from lightning_modules.sde.samplers import Draw, Moved, PredictorCorrector, Project, Score
from lightning_modules.training.evaluation_mode import evaluating
from lightning_modules.training.logging import log_training


class ScoreSDE(KnownParts, Latents, MethodModule):
    """Train a score model on noisy images, and use it for sampling, denoising and likelihoods.

    With any `LabelledImages` DataModule, the module trains on the images and ignores the labels. Validation and test
    log `loss`. If `likelihood_repeats` is above 0, `test` also logs `bits_per_dim`. With `MeasuredImages`, the module
    trains on patches, `test` evaluates inpainting or colourisation (`test/psnr`), and `predict` writes
    `restored/<name>.png`. Averaged weights are used everywhere except in training.

    Args:
        network: network, such as `lightning_modules.networks.ncsnpp.NCSNpp` or a `UNet2DModel` from diffusers. For VE,
            it predicts the score from x_t, `[B, C, H, W]`, and sigma, `[B]`. For VP and sub-VP, it predicts the noise
            from x_t and the time.
        process: process from `lightning_modules.sde.processes`; images are in [0, 1] for VE, otherwise in [-1, 1].
        image_shape: shape (C, H, W) of generated images.
        sampler: sampler from `lightning_modules.sde.samplers` or `lightning_modules.sde.flow`.
        num_levels: N, number of noise levels of a discrete model (SMLD for VE, DDPM for VP); None for continuous time.
        likelihood_weighting: weight the loss by g^2 instead of std^2; the loss is then a bound on the likelihood.
        reduce_mean: average the loss over the values of an image; if false, use half of their sum.
        average_decay: maximum decay of the averaged weights, in [0, 1).
        likelihood_repeats: number of times that each test image's bits per dimension are evaluated, each time with new
            dequantisation noise.
        guidance: classifier guidance; `sample` then cycles through the classes. None samples without classes.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch, or every step if its `interval` is "step".

    Examples:
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> from lightning_modules.sde.processes import VP
        >>> from lightning_modules.sde.samplers import PredictorCorrector
        >>> sampler = PredictorCorrector(corrector="none", num_steps=25)
        >>> model = ScoreSDE(TimeConditionedImageMLP(64), VP(), [1, 8, 8], sampler)
        >>> model.sample(2, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        image_shape: Sequence[int],
        sampler: PredictorCorrector | ProbabilityFlow,
        num_levels: int | None = None,
        likelihood_weighting: bool = False,
        reduce_mean: bool = False,
        average_decay: float = 0.9999,
        likelihood_repeats: int = 0,
        guidance: ClassGuidance | None = None,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        within(0, 1, "[)", average_decay=average_decay)
        at_least(0, likelihood_repeats=likelihood_repeats)
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"image_shape must be three positive integers C, H and W, got {list(image_shape)}")
        if num_levels is not None and (likelihood_weighting or likelihood_repeats):
            raise ValueError("num_levels must be None: likelihood_weighting and likelihood_repeats need continuous t")
        if isinstance(sampler, PredictorCorrector):
            sampler.check(process)
        self.network = network
        self.process = process
        self.image_shape = tuple(image_shape)
        self.sampler = sampler
        self.levels = TrainedLevels(process, num_levels)
        self.likelihood_weighting = likelihood_weighting
        self.reduce_mean = reduce_mean
        self.average = AveragedWeights(network, lambda update: ramped_decay(update + 1, average_decay))
        self.likelihood_repeats = likelihood_repeats
        self.guidance = guidance
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.centred = not isinstance(process, VE)
        self.losses = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})
        self.bits = MeanMetric()
        self.quality = ImageQuality()

    def data_of(self, image: Tensor) -> Tensor:
        """Rescale images from [0, 1] to the range in which they are diffused."""
        return to_signed(image) if self.centred else image

    def image_of(self, data: Tensor) -> Tensor:
        """Apply the inverse of `data_of`, and clip the images to [0, 1]."""
        return (to_unit(data) if self.centred else data).clamp(0, 1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network, and return the score at x_t, `[B, C, H, W]`, and times t, `[B]`."""
        return self.levels.score(self.network, x, t)

    def _each_loss(self, batch: Any) -> Tensor:
        data = self.data_of(batch["image"] if "image" in batch else batch["clean"])
        t = self.levels.times(sample_rows(torch.rand, (len(data),), data.device, dtype=data.dtype))
        noise = sample_rows_like(torch.randn, data)
        mean, deviation = self.levels.kernel(data, t)
        score = self.score(mean + deviation.view(-1, 1, 1, 1) * noise, t)
        rate = self.process.diffusion(t) ** 2 if self.likelihood_weighting else None
        return score_matching(score, noise, deviation, rate, self.reduce_mean)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": log_training(self, batch, self._each_loss(batch).mean())}

    @contextmanager
    def _average(self) -> Iterator[None]:
        """Use the averaged weights and evaluation mode inside a `with` block."""
        with evaluating(self.network), self.average.used_by(self.network):
            yield

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        if "measured" in batch:
            return super().test_step(batch, batch_idx, dataloader_idx)
        self._measure(batch, "test")
        image = batch["image"]
        for _ in range(self.likelihood_repeats):
            uniform = sample_rows_like(torch.rand, image)
            signs = 2 * sample_rows(partial(torch.randint, 2), image.shape, image.device).to(image.dtype) - 1
            self.bits.update(self.bits_per_dim((255 * image + uniform) / 256, signs))
        if self.likelihood_repeats:
            self.log("test/bits_per_dim", self.bits, on_step=False, on_epoch=True)
        return None

    @torch.no_grad()
    def _measure(self, batch: Any, stage: str) -> None:
        with self._average():
            self.losses[stage].update(self._each_loss(batch))  # type: ignore[operator]
        self.log(f"{stage}/loss", self.losses[stage], on_step=False, on_epoch=True)  # type: ignore[arg-type]

    def bits_per_dim(self, image: Tensor, signs: Tensor) -> Tensor:
        """Compute each image's bits per dimension, `[B]`, with the probability-flow ODE.

        Args:
            image: dequantised images in [0, 1], `[B, C, H, W]`.
            signs: random signs with the shape of `image`, for Hutchinson's estimate of the divergence.
        """
        with self._average():
            found = likelihood(self.score, self.data_of(image), self.process, signs, SMALLEST_TIME)
        return bits_per_dimension(found.log_density, image[0].numel(), 2.0 if self.centred else 1.0)

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Estimate clean images in [0, 1] with one network evaluation.

        Args:
            noisy: images in [0, 1] plus noise, `[B, C, H, W]`, not clipped.
            sigma: standard deviation of the noise in pixel units: one number, or a tensor `[B]`; required.
        """
        if sigma is None:
            raise ValueError("sigma must be given: a score model needs the noise level")
        level = torch.as_tensor(sigma, dtype=noisy.dtype, device=noisy.device).expand(len(noisy))
        t = self.levels.time_of((2 if self.centred else 1) * level).clamp(0, 1)
        data = self.data_of(noisy)
        with self._average():
            x = data * self.levels.kernel(torch.ones_like(data[:, :1, :1, :1]), t)[0]
            return self.image_of(self.levels.clean_estimate(x, t, self.score(x, t)))

    def export_function(self, sigma: float | None = None) -> Exported:
        """Return the score as a function of x_t and t, with averaged weights; see `interfaces.Exportable`."""
        x = f"x_t of images in {'[-1, 1]' if self.centred else '[0, 1]'}, by {type(self.process).__name__}"
        time = ExportedInput("B", lambda *shape: torch.linspace(0.1, 0.9, *shape), "times in (0, 1]")
        inputs = {"x": ExportedInput("B C H W", torch.randn, x), "t": time}
        sizes = dict(zip("CHW", self.image_shape, strict=True))
        return Exported("network", self.score, inputs, "score", "B C H W", "score of x_t", sizes, self._average())

    @torch.no_grad()
    def _sample(self, like: Tensor, draw: Draw, score: Score, project: Project | None = None) -> Tensor:
        """Sample images in [0, 1] with the shape, dtype and device of `like`."""
        x = self.process.prior_mean(like) + self.process.prior_deviation * draw(like)
        if project is not None:
            x = project(Moved(x, x), 1.0).x
        with self._average():
            return self.image_of(self.sampler(score, x, self.process, draw, project))

    @property
    def generated_classes(self) -> int:
        """Number of classes of `guidance`; 0 if there is no guidance."""
        return 0 if self.guidance is None else self.guidance.num_classes

    def sample(self, n: int, generator: torch.Generator | None = None, label: Tensor | None = None) -> Tensor:
        """Sample n images in [0, 1].

        Args:
            n: number of images.
            generator: random generator for all random numbers; None uses PyTorch's global generator.
            label: class of each sample, `[n]`, for `guidance`; None cycles through all classes.
        """
        score: Score = self.score
        if self.guidance is not None:
            label = torch.arange(n, device=self.device) % self.guidance.num_classes if label is None else label
            score = self.guidance.guided_score(self.score, self.process, label)
        like = torch.empty(n, *self.image_shape, device=self.device, dtype=next(self.network.parameters()).dtype)
        return self._sample(like, drawing(generator), score)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(trainable_parameters(self.network))
        self.average.follow(self.network, optimizer)
        return with_schedule(optimizer, self.lr_scheduler)
