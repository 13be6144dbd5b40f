"""LightningModule of NegVSR; the package docstring describes the method."""

from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.batches import ClipBatch
from datamodules.corruptions.clip_degradation.sharpening import unsharp_masked
from lightning_modules.backbones.weights import below, load, read_weights
from lightning_modules.full_precision import in_full_precision
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.optim.averages import AveragedWeights
from lightning_modules.optim.optimizers import adam, constant, trainable_parameters, with_schedule
from lightning_modules.restoration.negvsr.clip_restorer import ClipRestorerSteps
from lightning_modules.restoration.negvsr.losses import (
    LossWeights,
    adversarial,
    average_pool_clips,
    discriminating,
    negative_distance,
)
from lightning_modules.restoration.negvsr.negatives import Negatives
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training


class Made(NamedTuple):
    """Outputs and targets of a training step."""

    cleaned: Tensor
    """Cleaned clips v, `[B, T, C, h, w]`."""
    positive: Tensor
    """Upsampled clips y_pos, `[B, T, C, s h, s w]`."""
    negative: Tensor | None
    """Upsampled negatives y_neg; None without negatives."""
    target: Tensor
    """Sharpened clean clips y'."""
    clean: Tensor
    """Clean clips y."""


class NegVSR(ClipRestorerSteps, MethodModule):
    """Train a video super-resolution network that generalises to unseen noise.

    With a discriminator, the module uses manual optimization, so the Trainer's gradient clipping and gradient
    accumulation do not apply.

    Args:
        network: network that cleans and upsamples clips.
        negatives: settings of the negatives; None disables negatives, and training then needs no noise data.
        discriminator: discriminator of the second stage, which rates each pixel of frames `[B, C, H, W]`; None trains
            the first stage.
        perception: perceptual distance between frames `[B, C, H, W]`; None omits this loss term.
        sharpened: whether to sharpen targets by unsharp masking; the discriminator always uses unsharpened frames.
        weights: weights of the loss terms.
        average_decay: decay of the averaged weights per step, in [0, 1).
        started_from: checkpoint of the first stage; its averaged weights initialise the network.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        discriminator_optimizer: optimizer of the discriminator's parameters.
        lr_scheduler: learning-rate schedule of each optimizer. It is stepped every epoch, or every step if its
            `interval` is "step".

    Examples:
        >>> from lightning_modules.networks.real_basicvsr import RealBasicVSR
        >>> from lightning_modules.networks.spynet import ZeroFlow
        >>> model = NegVSR(RealBasicVSR(ZeroFlow(), channels=1, width=4, num_blocks=1, num_cleaning_blocks=1, scale=2))
        >>> model.restore(torch.full((1, 3, 1, 16, 16), 0.5)).shape  # a clip of three frames
        torch.Size([1, 3, 1, 32, 32])
    """

    def __init__(
        self,
        network: RealBasicVSR,
        negatives: Negatives | None = Negatives(),  # noqa: B008 - immutable
        discriminator: nn.Module | None = None,
        perception: nn.Module | None = None,
        sharpened: bool = True,
        weights: LossWeights = LossWeights(),  # noqa: B008 - immutable
        average_decay: float = 0.999,
        started_from: str | None = None,
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adam,
        discriminator_optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        within(0, 1, "[)", average_decay=average_decay)
        self.automatic_optimization = discriminator is None
        self.network = network
        self.negatives = negatives
        self.discriminator = discriminator
        self.perception = perception
        self.sharpened = sharpened
        self.weights = weights
        self.average_decay = average_decay
        self.average = AveragedWeights(network, lambda update: average_decay)
        self.started_from = started_from
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.lr_scheduler = lr_scheduler

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.started_from is not None and self.device.type != "meta":
            state = read_weights(self.started_from)
            averaged = {name: state[f"average.weights.{number}"] for number, name in enumerate(self.average.names)}
            load(self.network, below(state, "network.") | averaged, self.started_from)
            self.average = AveragedWeights(self.network, self.average.decay)

    def forward(self, clip: Tensor) -> Tensor:
        """Clean and upsample clips `[B, T, C, h, w]` with the current weights."""
        return self.network(clip)

    @evaluate_without_gradients
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Upsample clips `[B, T, C, h, w]` to `[B, T, C, s h, s w]`, without clipping.

        The result is deterministic.
        """
        with self.average.used_by(self.network):
            return self(degraded)

    def restore_with_negatives(self, batch: ClipBatch) -> Made:
        """Clean and upsample the clips of a batch, and also their negatives.

        Raises:
            ValueError: if negatives are enabled and the batch has no noise.
        """
        if self.negatives is not None and "noise" not in batch:
            raise ValueError("model.negatives needs noise sequences: set data.noise, or model.negatives to null")
        cleaned, clean = self.network.clean_frames(batch["noisy"]), batch["clean"]
        with in_full_precision(clean.device):
            target = unsharp_masked(clean) if self.sharpened else clean
        if self.negatives is None:
            return Made(cleaned, self.network.upscale(cleaned), None, target, clean)
        both = torch.cat([cleaned, self.negatives.of(cleaned, batch["noise"])])
        positive, negative = self.network.upscale(both).chunk(2)
        return Made(cleaned, positive, negative, target, clean)

    def generator_terms(self, made: Made) -> dict[str, Tensor]:
        """Compute the terms of the generator's loss, multiplied by their weights."""
        terms = {
            "pixel": (made.positive - made.target).abs().mean(),
            "cleaning": self.weights.cleaning
            * (made.cleaned - average_pool_clips(made.target, self.network.scale)).abs().mean(),
        }
        if self.negatives is not None and made.negative is not None:
            distance = negative_distance(made.negative, made.positive, self.negatives.detach_positive)
            terms["negative"] = self.negatives.weight * distance
        if self.perception is not None:
            frames = made.positive.flatten(0, 1), made.target.flatten(0, 1)
            terms["perception"] = self.weights.perception * self.perception(*frames)
        if self.discriminator is not None:
            terms["adversarial"] = self.weights.adversarial * adversarial(self.discriminator, made.positive)
        return terms

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Tensor]:
        made = self.restore_with_negatives(batch)
        terms = self.generator_terms(made)
        if self.discriminator is not None:
            terms["discriminator"] = discriminating(self.discriminator, made.clean, made.positive)
        loss = log_training(self, batch, sum(terms.values()), **terms)  # type: ignore[arg-type]
        if self.discriminator is not None:
            self._step(loss)
        return {"loss": loss if self.discriminator is None else loss.detach()}

    def _step(self, loss: Tensor) -> None:
        """Update the generator and the discriminator, each with the gradient of its own loss terms.

        Both updates count as one global step.
        """
        plain: Any = self.optimizers(use_pl_optimizer=False)
        counted: Any = self.optimizers()
        for optimizer in plain:
            optimizer.zero_grad()
        self.manual_backward(loss)
        counted[0].step()
        self.trainer.strategy.optimizer_step(plain[1], lambda: None)
        self._step_schedulers("step")

    def on_train_epoch_end(self) -> None:
        if not self.automatic_optimization:
            self._step_schedulers("epoch")

    def _step_schedulers(self, interval: str) -> None:
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers:
            if getattr(scheduler, "interval", "epoch") == interval:
                scheduler.step()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(trainable_parameters(self.network))
        self.average.follow(self.network, optimizer)
        optimizers, schedulers = with_schedule(optimizer, self.lr_scheduler)
        if self.discriminator is not None:
            second = self.discriminator_optimizer(self.discriminator.parameters())
            optimizers, schedulers = [optimizer, second], schedulers + with_schedule(second, self.lr_scheduler)[1]
        return optimizers, schedulers
