"""The LightningModule for sparse variational classification with a t process (SVTP) or a Gaussian process (SVGP)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.batches import LabelledImageBatch
from datamodules.randomness.shared_batches import sample_rows, shared_sample
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import TrainingImageSource, TrainingSamples, require_data
from lightning_modules.linear_algebra import cholesky_factor
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import NetworkKernel, Positive, raw_of
from lightning_modules.probabilistic.scale_mixture_nngp.posterior import (
    FixedScale,
    InverseGamma,
    Scale,
    inducing_divergence,
    marginals,
    projection,
    scale_divergence,
)
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.torch_internals import standard_gamma
from lightning_modules.training.logging import log_training

AT_ONCE = 500
"""Number of samples that are evaluated at once."""


class ScaleMixtureClassifier(ClassifierSteps, MethodModule):
    """Classify images with the t processes or Gaussian processes of infinitely wide networks.

    Each class has its own process, and all processes share one random scale.

    Args:
        kernel: kernel of the infinitely wide network. For `FixedScale`, use a kernel with `train_last: true`.
        num_classes: number of classes, C.
        image_shape: channels, height and width of an image.
        scale: prior distribution of the scale, and initial value of its posterior; `InverseGamma` gives SVTP, and
            `FixedScale` gives SVGP.
        inducing: number of inducing inputs; they are initialised with the first training images of each class, in
            proportion to the class frequencies.
        mean: value that is subtracted from images in [0, 1], or one such value for each channel.
        std: value by which images are divided after the subtraction, or one such value for each channel.
        jitter: initial value of eps, which is added to the variances of the inducing values.
        draws: number of samples of the scale and the process values in a training step.
        evaluation_draws: number of such samples in validation, test and prediction.
        optimizer: optimizer of the trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    placed: Tensor

    def __init__(
        self,
        kernel: NetworkKernel,
        num_classes: int,
        image_shape: Sequence[int],
        scale: Scale,
        inducing: int = 200,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        jitter: float = 1e-6,
        draws: int = 100,
        evaluation_draws: int = 10_000,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, num_classes=num_classes, inducing=inducing, draws=draws, evaluation_draws=evaluation_draws)
        positive(jitter=jitter)
        if not isinstance(scale, FixedScale | InverseGamma):
            raise ValueError(f"scale must be InverseGamma or FixedScale for classification, got {type(scale).__name__}")
        self.kernel = kernel
        self.num_classes = num_classes
        self.scale = scale
        self.normalized = Normalized(nn.Identity(), mean, std)
        self.inducing = nn.Parameter(torch.zeros(inducing, *image_shape, dtype=torch.float64))
        self.inducing_mean = nn.Parameter(torch.zeros(num_classes, inducing, dtype=torch.float64))
        self.inducing_spread = nn.Parameter(raw_of(1.0).expand(num_classes, inducing).clone())
        self.jitter = Positive(jitter)
        self.register_buffer("placed", torch.zeros((), dtype=torch.bool))
        self.draws = draws
        self.evaluation_draws = evaluation_draws
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def setup(self, stage: str) -> None:
        require_double(self.trainer, type(self).__name__)

    def on_fit_start(self) -> None:
        if bool(self.placed):  # in a resumed run, the inducing inputs are already set
            return
        labels, images = Collected(), Collected()
        for batch in self._training_images():
            labels.update(batch["index"], batch["label"][:, None].double())
        index, label = labels.compute()
        chosen = index[in_proportion(label[:, 0].long(), self.num_classes, len(self.inducing))].to(self.device)
        for batch in self._training_images():
            rows = torch.isin(batch["index"], chosen)
            image = self.normalized(batch["image"][rows].double())
            images.update(batch["index"][rows], image.flatten(start_dim=1))
        with torch.no_grad():
            self.inducing.copy_(images.compute()[1].view_as(self.inducing))
            self.placed.fill_(True)

    def _training_images(self) -> Iterator[Any]:
        source = require_data(self.trainer, TrainingImageSource, type(self).__name__)
        for on_host in source.training_images_dataloader():
            yield self.trainer.strategy.batch_to_device(on_host)

    def _project(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the process's means and its variances at scale 1, both `[B, C]`, and the Cholesky factor of K_ZZ."""
        x = self.normalized(image)
        factor = cholesky_factor(self.kernel(self.inducing, self.inducing), self.jitter())
        at = projection(factor, self.kernel(self.inducing, x), self.kernel.diagonal(x))
        mean, variance = marginals(at, self.inducing_mean, F.softplus(self.inducing_spread))
        return mean, variance, factor

    def _draw(self, mean: Tensor, variance: Tensor, draws: int) -> Tensor:
        """Sample log class probabilities, `[B, draws, C]`.

        All classes and points of a sample share one scale.
        """
        normal = sample_rows(torch.randn, [len(mean), draws, self.num_classes], mean.device, dtype=mean.dtype)
        scale: Tensor | float = 1.0
        if isinstance(self.scale, InverseGamma):
            law = self.scale.law()
            a = law.a.expand(draws)
            gamma = shared_sample(lambda generator: standard_gamma(a, generator=generator), mean.device)
            scale = (law.b / gamma)[:, None]
        return (mean[:, None] + (scale * variance[:, None]).sqrt() * normal).log_softmax(dim=2)

    def divergence(self, factor: Tensor) -> Tensor:
        """Compute the KL divergence between the joint posterior and the joint prior of inducing values and scale."""
        spread = F.softplus(self.inducing_spread)
        if not isinstance(self.scale, InverseGamma):
            return inducing_divergence(factor, self.inducing_mean, spread, 1.0)
        law = self.scale.law()
        of_values = inducing_divergence(factor, self.inducing_mean, spread, law.a / law.b)
        return of_values + scale_divergence(law, *self.scale.initial)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        mean, variance, factor = self._project(batch["image"])
        log_probability = self._draw(mean, variance, self.draws)
        label = batch["label"][:, None, None].expand(-1, self.draws, 1)
        misfit = -log_probability.gather(2, label).mean()
        samples = require_data(self.trainer, TrainingSamples, type(self).__name__).num_train_samples
        divergence = self.divergence(factor) / samples
        loss = log_training(self, batch, misfit + divergence, misfit=misfit, divergence=divergence)
        return {"loss": loss, "logits": log_probability.detach().logsumexp(dim=1)}

    def forward(self, image: Tensor) -> Tensor:
        """Compute log class probabilities, `[B, C]`, for images in [0, 1]; the probabilities are means over samples."""
        mean, variance, _ = self._project(image)
        left, total = self.evaluation_draws, torch.full_like(mean, -math.inf)
        while left > 0:
            part = self._draw(mean, variance, min(left, AT_ONCE)).logsumexp(dim=1)
            total = torch.logaddexp(total, part)
            left -= AT_ONCE
        return total - math.log(self.evaluation_draws)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self))


def in_proportion(label: Tensor, num_classes: int, count: int) -> Tensor:
    """Choose the first images of each class, in proportion to the class frequencies.

    Args:
        label: class labels of all images, `[N]`, int64.
        num_classes: number of classes, C.
        count: total number of images to choose, at most N.

    Returns:
        The positions of the chosen images, `[count]`, sorted by class. The numbers of images per class are rounded so
        that they add up to `count`: the numbers with the largest fractional parts are rounded up, and all others down.
    """
    if count > len(label):
        raise ValueError(f"inducing must be at most the number of training images, {len(label)}, got {count}")
    exact = label.bincount(minlength=num_classes) * (count / len(label))
    share = exact.floor().long()
    share[(exact - share).sort(descending=True, stable=True).indices[: count - int(share.sum())]] += 1
    return torch.cat([(label == c).nonzero()[: share[c], 0] for c in range(num_classes)])
