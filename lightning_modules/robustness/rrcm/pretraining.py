"""Contrastive pre-training on noisy images: projector, retrieval metric and LightningModule."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from datamodules.arguments import at_least, positive, within
from datamodules.batches import LabelledImageBatch, global_batch_size
from datamodules.distributed.collectives import run_seed
from datamodules.pixel_ranges import to_signed
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.distributed.global_rows import global_rows
from lightning_modules.losses.contrastive import contrastive_loss
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import move_average
from lightning_modules.optim.optimizers import adamw, constant, trainable_parameters, with_schedule
from lightning_modules.robustness.rrcm.noise_conditioned import (
    SMALLEST,
    kept_by_target,
    noise_level,
    num_levels,
    represent,
)
from lightning_modules.training.logging import log_training
from lightning_modules.training.own_loaders import OwnLoaders


class Projector(nn.Module):
    """MLP between the encoder and the contrastive loss: two Linear-BatchNorm-ReLU blocks and a linear layer.

    The linear layers have no bias.

    Args:
        in_features: number D of features of the encoder.
        hidden_features: number of hidden features.
        out_features: dimension of the representations in the contrastive loss.
        batch_norm: whether to use batch normalisation. Each rank uses separate batch statistics, unless
            `trainer.sync_batchnorm` is on.
    """

    def __init__(
        self, in_features: int, hidden_features: int = 2048, out_features: int = 256, batch_norm: bool = True
    ) -> None:
        super().__init__()

        def normalized() -> nn.Module:
            return nn.BatchNorm1d(hidden_features) if batch_norm else nn.Identity()

        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_features, bias=False),
            normalized(),
            nn.ReLU(),
            nn.Linear(hidden_features, hidden_features, bias=False),
            normalized(),
            nn.ReLU(),
            nn.Linear(hidden_features, out_features, bias=False),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Map `[B, D]` to `[B, out_features]`."""
        return self.layers(feature)


_ROWS_AT_ONCE = 1024


def retrieval(noisy: Tensor, clean: Tensor) -> Tensor:
    """Compute the fraction of noisy images whose nearest clean image is the original of the noisy image.

    Images are compared by the cosine similarity of their features.

    Args:
        noisy: features of noisy images, `[N, D]`.
        clean: features of the same images without noise, in the same order, `[N, D]`.
    """
    noisy, clean = F.normalize(noisy, dim=1), F.normalize(clean, dim=1)
    nearest = torch.cat([(rows @ clean.T).argmax(dim=1) for rows in noisy.split(_ROWS_AT_ONCE)])
    return (nearest == torch.arange(len(clean), device=clean.device)).float().mean()


class Retrieval(Metric):
    """Torchmetrics metric that computes `retrieval` over the images of all ranks."""

    full_state_update = False
    noisy: list[Tensor]
    clean: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("noisy", default=[], dist_reduce_fx="cat")
        self.add_state("clean", default=[], dist_reduce_fx="cat")

    def update(self, noisy: Tensor, clean: Tensor) -> None:
        """Add the features `[B, D]` of a batch of noisy images and of the same images without noise."""
        self.noisy.append(noisy)
        self.clean.append(clean)

    def compute(self) -> Tensor:
        return retrieval(dim_zero_cat(self.noisy), dim_zero_cat(self.clean))


@dataclass(frozen=True)
class MovingAverages:
    """Decay of the target network and of the average from which fine-tuning starts.

    Args:
        steepness: rate A with which the decay of the target network increases.
        decay: decay of the moving average from which fine-tuning starts, in [0, 1).
    """

    steepness: float = 15.0
    decay: float = 0.9999

    def __post_init__(self) -> None:
        positive(steepness=self.steepness)
        within(0, 1, "[)", decay=self.decay)


@dataclass(frozen=True)
class GradientClipping:
    """Clipping of the gradient's norm.

    Args:
        norm: maximum norm of the gradient.
        after: number of steps without gradient clipping at the start; the paper uses the length of the warm-up.
    """

    norm: float = 2.0
    after: int = 0

    def __post_init__(self) -> None:
        positive(norm=self.norm)
        at_least(0, after=self.after)


class RRCMPretraining(OwnLoaders, MethodModule):
    """Pre-train a noise-conditioned encoder on unlabelled images.

    `test` logs `test/retrieval_<sigma>`: the fraction of noisy images whose nearest clean image, in feature space, is
    the original. In steps that the gradient scaler skips, the moving averages and the schedules are not updated. Fused
    optimizers are not supported.

    Args:
        network: encoder h that maps images `[B, C, H, W]` and times `[B]` to features `[B, D]`.
        projector: network that maps features `[B, D]` to the representations in the contrastive loss.
        first_view: random augmentation that maps images `[B, C, H, W]` in [0, 1] to the views a.
        second_view: random augmentation that maps images `[B, C, H, W]` in [0, 1] to the views b.
        num_steps: number K of steps over which the curriculum and the decay of the target network are scheduled; None
            uses the total number of training steps.
        temperature: temperature tau of the contrastive losses.
        consistency_weight: weight of L_k. The paper uses 1; 0 means plain contrastive learning.
        averages: decay of the two moving averages.
        clipping: gradient clipping.
        retrieval_sigmas: standard deviations of the noise at which `retrieval` is measured, in pixel units.
        optimizer: optimizer of the trainable parameters of the encoder and the projector.
        lr_scheduler: learning-rate schedule. It is stepped every epoch, or every step if it has `interval = "step"`.
    """

    step: Tensor

    def __init__(
        self,
        network: nn.Module,
        projector: nn.Module,
        first_view: nn.Module,
        second_view: nn.Module,
        num_steps: int | None = None,
        temperature: float = 0.2,
        consistency_weight: float = 1.0,
        averages: MovingAverages = MovingAverages(),
        clipping: GradientClipping = GradientClipping(),
        retrieval_sigmas: Sequence[float] = (0.25, 0.5),
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, num_steps=num_steps)
        positive(temperature=temperature)
        at_least(0, consistency_weight=consistency_weight)
        at_least(SMALLEST / 2, retrieval_sigmas=min(retrieval_sigmas, default=None))
        self.network = network
        self.projector = projector
        self.first_view = first_view
        self.second_view = second_view
        self.target_network = copy.deepcopy(network).requires_grad_(False)
        self.target_projector = copy.deepcopy(projector).requires_grad_(False)
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.num_steps = num_steps
        self.temperature = temperature
        self.consistency_weight = consistency_weight
        self.averages = averages
        self.clipping = clipping
        self.retrieval_sigmas = list(retrieval_sigmas)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.retrieval = nn.ModuleList(Retrieval() for _ in retrieval_sigmas)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.steps_taken = 0
        """Step index k: a copy of `step` on the host, which can be read without synchronisation."""
        self._scheduled = 0
        self._total_steps = num_steps or 0

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in self.parameters()):
            raise ValueError(
                f"trainer.precision {self.trainer.precision} keeps averages in 16 bits, which is too coarse "
                f"for an update of {1 - self.averages.decay:.2g}: use bf16-mixed or 16-mixed"
            )
        if self.num_steps is not None:
            return
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 1:
            raise ValueError(f"num_steps must be given, because the number of training steps is {steps}")
        self._total_steps = int(steps)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the features `[B, D]` of clean images `[B, C, H, W]` in [0, 1]."""
        [feature] = represent(self.network, [to_signed(image)], [SMALLEST])
        return feature

    def levels(self) -> tuple[float, float]:
        """Sample the noise levels t_q and t_{q+1} of the current step.

        The levels of a step are the same on all ranks. A resumed run samples the same levels as an uninterrupted run.
        """
        count = num_levels(self.steps_taken, self._total_steps)
        index = int(np.random.default_rng([run_seed(), self.steps_taken]).integers(count - 1))
        return noise_level(index, count), noise_level(index + 1, count)

    def noise(self, batch: Any) -> Tensor:
        """Sample the noise e, `[B, C, H, W]`, for a batch."""
        return sample_rows_like(torch.randn, batch["image"])

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        views = (batch["image"], self.first_view(batch["image"]), self.second_view(batch["image"]))
        image, first, second = (to_signed(view) for view in views)
        noise, size = self.noise(batch), global_batch_size(batch)
        first, second = first + SMALLEST * noise, second + SMALLEST * noise
        t, less = self.levels()
        online, noisy, levels = [first, second], [image + t * noise], [t]
        if self.consistency_weight == 0:
            noisy, levels = [], []
        feature_1, feature_2, *trajectory = represent(self.network, [*online, *noisy], [SMALLEST, SMALLEST, *levels])
        with torch.no_grad():
            target_1, target_2 = map(
                self.target_projector, represent(self.target_network, online, [SMALLEST, SMALLEST])
            )
        loss = self._contrast(self.projector(feature_1), target_2, size)
        loss = loss + self._contrast(self.projector(feature_2), target_1, size)
        terms = {"contrastive": loss}
        if trajectory:
            with torch.no_grad():
                [target] = represent(self.network, [image + less * noise], [less])
            terms["consistency"] = self._contrast(trajectory[0], target, size)
            loss = loss + self.consistency_weight * terms["consistency"]
        return {"loss": log_training(self, batch, loss, **terms)}

    def _contrast(self, feature: Tensor, target: Tensor, size: int) -> Tensor:
        return contrastive_loss(feature, target, global_rows(target.detach(), size), self.temperature)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self, batch: dict[str, Any], stage: str) -> None:
        image = 2 * batch["image"] - 1
        noise, levels = self.noise(batch), [2 * sigma for sigma in self.retrieval_sigmas]
        clean, *noisy = represent(self.network, [image, *(image + t * noise for t in levels)], [SMALLEST, *levels])
        for sigma, metric, feature in zip(self.retrieval_sigmas, self.retrieval, noisy, strict=True):
            metric.update(feature, clean)  # type: ignore[operator]
            self.log(f"{stage}/retrieval_{sigma:.2f}", metric, on_step=False, on_epoch=True)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(trainable_parameters(self.network, self.projector))
        optimizer.register_step_post_hook(self._after_step)
        return with_schedule(optimizer, self.lr_scheduler)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        if self.steps_taken >= self.clipping.after:
            [optimizer] = self.trainer.optimizers
            self.clip_gradients(optimizer, self.clipping.norm, "norm")

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        """Update the moving averages and the step count.

        This hook is not called after a step that the gradient scaler skips.
        """
        kept = kept_by_target(self.steps_taken, self._total_steps, self.averages.steepness)
        for average, trained, decay in (
            (self.target_network, self.network, kept),
            (self.target_projector, self.projector, kept),
            (self.average, self.network, self.averages.decay),
        ):
            move_average(average, trained, decay)
        self.step += 1
        self.steps_taken += 1

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.steps_taken > self._scheduled:
            self._scheduled = self.steps_taken
            super().lr_scheduler_step(scheduler, metric)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_taken = self._scheduled = int(checkpoint["state_dict"]["step"])
