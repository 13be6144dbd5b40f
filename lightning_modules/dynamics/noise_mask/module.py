"""The LightningModule that pre-trains a classifier under noise masks, and then tunes it on clean images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.batches import LabelledImageBatch, global_batch_size
from datamodules.corruptions.image_noise import CounterRNG
from datamodules.corruptions.image_noise.smooth_mask import check_mask, fit_mask, smooth
from datamodules.distributed.collectives import all_reduce_sum, run_seed
from lightning_modules.distributed.global_rows import global_rows
from lightning_modules.dynamics.noise_mask.policy import (
    drawn_cells,
    log_densities,
    mix_log_parameters,
    paper_code,
    reinforce,
    update_base,
)
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import FixedImageShape, ImageColumn, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, sgd, trainable_parameters, with_schedule
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step
from lightning_modules.training.logging import log_training
from lightning_modules.training.requirements import require_unused_parameters

SHOWN = 2**30
"""Epoch index that seeds the masks in image grids; training never reaches this index."""


@dataclass(frozen=True)
class MaskSettings:
    """Resolution and blur of noise masks, and the value of masked pixels.

    Args:
        grid: number of mask cells along each side, at most the side length of the images in pixels.
        kernel: kernel size of the Gaussian blur, in pixels, odd.
        sigma: standard deviation of the Gaussian blur, in pixels.
        mean: value of fully masked pixels: one number for each channel, or a single number for all channels.
    """

    grid: int = 64
    kernel: int = 13
    sigma: float = 6.0
    mean: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        check_mask(self.grid, self.kernel, self.sigma)


class NoiseMask(ClassifierSteps, MethodModule):
    """Pre-train a classifier under noise masks from a policy, then tune the classifier on clean images.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes.
        mask_epochs: number of epochs with masks; in the remaining epochs, up to `trainer.max_epochs`, the classifier is
            tuned.
        policy: network that maps images to log-parameters `[B, 2 grid grid]`, such as `MaskPolicy`; None means uniform
            cells.
        mask: resolution and blur of the masks, and the value of masked pixels.
        averaged_epochs: number of the last epochs with masks over which the weights are averaged before tuning; the
            weights at the end of each of these epochs are used.
        objective: training objective with masks, `paper_code` or `reinforce`.
        policy_rate: ratio of the learning rate of the policy to that of the classifier.
        optimizer: optimizer, which receives the parameters of the classifier and of the policy as two parameter groups.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    mean: Tensor
    base: Tensor
    baseline: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        mask_epochs: int,
        policy: nn.Module | None = None,
        mask: MaskSettings = MaskSettings(),
        averaged_epochs: int = 1,
        objective: Literal["paper_code", "reinforce"] = "paper_code",
        policy_rate: float = 0.1,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, mask_epochs=mask_epochs)
        within(1, mask_epochs, averaged_epochs=averaged_epochs)
        one_of(("paper_code", "reinforce"), objective=objective)
        positive(policy_rate=policy_rate)
        if (own := getattr(policy, "grid", mask.grid)) != mask.grid:
            raise ValueError(f"policy.grid must equal mask.grid, {mask.grid}, got {own}")
        self.network = network
        self.num_classes = num_classes
        self.mask_epochs = mask_epochs
        self.policy = policy
        self.mask = mask
        self.averaged_epochs = averaged_epochs
        self.objective = objective
        self.policy_rate = policy_rate
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.register_buffer("mean", torch.tensor(list(mask.mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer(
            "base", torch.rand(2, mask.grid**2) if policy is not None else torch.zeros(2, mask.grid**2)
        )
        self.register_buffer("baseline", torch.zeros(()))
        self._average: dict[str, Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        if (data := data_with(self.trainer, FixedImageShape)) is not None:
            fit_mask(tuple(data.image_shape), self.mask.grid, self.mask.kernel)
        if self.policy is not None and (self.trainer.max_epochs or 0) > self.mask_epochs:
            require_unused_parameters(self.trainer, "NoiseMask", "does not train its policy during tuning")

    def laws(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-parameters of each image, first after and then before they are mixed with the base.

        Both have the shape `[B, 2, K]`.
        """
        if self.policy is None:
            own = at_least_float32(self.base).expand(len(image), -1, -1)
            return own, own
        own = at_least_float32(self.policy(image)).unflatten(1, (2, -1))
        return mix_log_parameters(self.base, own), own

    def masks(self, cells: Tensor, image: Tensor) -> Tensor:
        """Convert cells `[B, K]` to masks `[B, 1, H, W]` by upsampling and blurring."""
        with in_full_precision(self.device):
            return smooth(cells, (image.shape[2], image.shape[3]), self.mask.kernel, self.mask.sigma).to(image.dtype)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        if self.current_epoch >= self.mask_epochs:
            return cross_entropy_step(self, batch, None, False)
        image, size = batch["image"], global_batch_size(batch)
        law, own = self.laws(image)
        with in_full_precision(self.device):
            log_a, log_b = law.unbind(1)
            numbers = CounterRNG(run_seed(), self.current_epoch, batch["index"])
            cells = drawn_cells(log_a, log_b, numbers)
            densities = log_densities(cells, log_a, log_b)
        logits = self.network(torch.lerp(self.mean.to(image), image, self.masks(cells, image)))
        cost = F.cross_entropy(at_least_float32(logits), batch["label"], reduction="none")
        density = densities.logsumexp(dim=1) if self.objective == "paper_code" else densities.sum(dim=1)
        loss = self._objective(global_rows(cost, size), global_rows(density, size))
        if self.policy is not None:
            self.base.copy_(update_base(self.base, all_reduce_sum(own.detach().sum(dim=0)) / size))
        terms = {"cross_entropy": cost.detach().mean(), "log_density": density.detach().mean()}
        return {"loss": log_training(self, batch, loss, **terms), "logits": logits.detach()}

    def _objective(self, cost: Tensor, density: Tensor) -> Tensor:
        """Compute the objective of the global batch, and update the baseline of the objective `reinforce`."""
        if self.objective == "paper_code":
            return paper_code(cost, density)
        loss = reinforce(cost, density, self.baseline.clone())
        self.baseline.copy_(update_base(self.baseline, cost.detach().mean()))
        return loss

    def on_train_epoch_end(self) -> None:
        """Average the weights over the last mask epochs; after the very last one, load the average into the network."""
        number = self.current_epoch - (self.mask_epochs - self.averaged_epochs)
        if not 0 <= number < self.averaged_epochs or self.averaged_epochs == 1:
            return
        for name, value in self.network.state_dict().items():
            kept = self._average.get(name)
            if kept is None or not value.is_floating_point():
                self._average[name] = value.detach().clone()
            else:
                self._average[name] = kept.to(value.device).lerp(value, 1 / (number + 1))
        if number + 1 == self.averaged_epochs:
            self.network.load_state_dict(self._average)
            self._average = {}

    def image_columns(self, batch: Any, outputs: Any) -> Mapping[str, Tensor | ImageColumn]:
        """Show the images, their masks and the masked images."""
        image = batch["image"]
        law, _ = self.laws(image)
        cells = drawn_cells(law[:, 0], law[:, 1], CounterRNG(run_seed(), SHOWN, batch["index"]))
        mask = self.masks(cells, image)
        return {"image": image, "mask": mask, "masked": torch.lerp(self.mean.to(image), image, mask)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = {name: value.cpu() for name, value in self._average.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._average = checkpoint["average"]

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": trainable_parameters(self.network)}]
        if self.policy is not None:
            groups.append({"params": trainable_parameters(self.policy)})
        optimizer = self.optimizer(groups)
        for group in optimizer.param_groups[1:]:
            group["lr"] *= self.policy_rate
        return with_schedule(optimizer, self.lr_scheduler)
