"""Training and evaluation steps of modules that solve inverse problems with a diffusion prior."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.batches import MeasuredImageBatch
from datamodules.corruptions.operators.interface import Operator
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.counter import CounterRNG
from lightning_modules.backbones.diffusion.autoencoder_latents import AutoencoderLatents
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import ImageColumn, MeasurementSource, require_data
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import optimizer_config, trainable_parameters
from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.discrete import denoising_loss, scheduler_levels, scheduler_prediction
from lightning_modules.tasks.restorer import ZOOM, RestorerSteps
from lightning_modules.training.logging import log_training

Draw = Callable[[Tensor], Tensor]
"""Function that samples standard normal noise with the shape of its argument, independently for each image."""
STREAM = 10_000
"""Index of an image's random stream for reconstruction; its mask and its measurement noise use other streams."""
LARGE = 64
"""Minimum height and width, in pixels, at which image grids also show zoomed crops of an image."""


def measured_columns(columns: dict[str, Tensor | ImageColumn], batch: Any) -> dict[str, Tensor | ImageColumn]:
    """Rename the image columns for a `MeasuredImageBatch`, and omit the zoomed crops if its images are small."""
    large = min(batch["noisy"].shape[2:]) >= LARGE
    return {
        name.replace("noisy", "pseudo-inverse"): column
        for name, column in columns.items()
        if large or f"x{ZOOM}" not in name
    }


def reject_latent_models(network: nn.Module, method: str) -> None:
    """Reject a latent text-to-image model as the network of a method that compares pixels with measurements.

    Raises:
        ValueError: if the network is a latent text-to-image model.
    """
    if isinstance(network, AutoencoderLatents):
        raise ValueError(
            f"network: {method} needs a network that is called with images in [-1, 1] and without a prompt, but "
            f"{type(network).__name__} predicts latents of its autoencoder"
        )


def check_fits(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Reject images whose shape does not suit a diffusers U-Net; other networks are not checked.

    Args:
        network: network of the diffusion prior, which may be wrapped.
        shape: shape (C, H, W) of the images to reconstruct.

    Raises:
        ValueError: if the number of channels, the height or the width is not supported.
    """
    configs = (config for module in network.modules() if (config := getattr(module, "config", None)) is not None)
    config = next((each for each in configs if hasattr(each, "in_channels")), None)
    if config is None:
        return
    if shape[0] != config.in_channels:
        raise ValueError(f"model.network needs images with {config.in_channels} channels, but the data have {shape[0]}")
    multiple = 2 ** (len(getattr(config, "block_out_channels", (0,))) - 1)
    if shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"model.network needs images whose height and width are multiples of {multiple}, but the data have "
            f"{shape[1]} x {shape[2]} pixels: crop or resize them"
        )


class MeasuredRestoration(RestorerSteps):
    """Mixin for LightningModules that solve inverse problems; subclasses implement the reconstruction in `found`.

    The random numbers of an image depend only on the seed of the run and on the index of the image. The reconstruction
    therefore does not depend on the batch or on the rank. Metrics with `noisy` in their names, such as
    `test/noisy_psnr`, evaluate the pseudo-inverse applied to the measurement. `fit` trains the network's trainable
    parameters with the mean squared prediction error at random timesteps.
    """

    levels: Tensor

    def take(
        self: Any,
        network: nn.Module,
        scheduler: DDPMScheduler | DDIMScheduler,
        steps: int,
        protocol: EvaluationProtocol,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable,
    ) -> None:
        """Store those constructor arguments that all modules for inverse problems have in common.

        Raises:
            ValueError: if the scheduler has fewer than `steps` timesteps, or if its prediction type is not epsilon,
                sample or v_prediction.
        """
        reject_latent_models(network, type(self).__name__)
        schedule: Any = scheduler  # type checkers do not know attributes that diffusers adds dynamically
        within(1, schedule.config.num_train_timesteps, steps=steps)
        self.network = network
        self.prediction = scheduler_prediction(scheduler)
        self.abar = scheduler_levels(scheduler)
        self.register_buffer("levels", torch.from_numpy(self.abar).float())
        self.scheduler = scheduler
        self.steps = steps
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    @abstractmethod
    def found(self, measured: Tensor, operator: Operator, draw: Draw) -> Tensor:
        """Reconstruct images, `[B, C, H, W]`, from their measurements.

        Pixel values are on the scale of images in [-1, 1], but are not clipped to this range.
        """

    def times(self: Any) -> list[int]:
        """List the timesteps from noise to image; the last entry is -1, which stands for the clean image."""
        return scheduler_path(self.scheduler, self.steps)

    def predicted_by(self: Any, noisy: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network in the trainer's precision, and cast its output to the dtype of the images."""
        with self.trainer.precision_plugin.forward_context():
            output = self.network(noisy.to(self.dtype), t)
        return (output if isinstance(output, Tensor) else output.sample).to(noisy.dtype)

    def estimated(self: Any, batch: Any) -> Tensor:
        """Reconstruct the images of a `MeasuredImageBatch`, `[B, C, H, W]`.

        The result has the scale of `clean`, and is not clipped.
        """
        source = require_data(self.trainer, MeasurementSource, type(self).__name__)
        check_fits(self.network, tuple(batch["noisy"].shape[1:]))
        device = batch["measured"].device
        with torch.inference_mode(False), torch.enable_grad(), in_full_precision(device):
            measured, index = at_least_float32(batch["measured"].clone()), batch["index"].clone()
            operator = source.operator.of(index, tuple(batch["noisy"].shape[2:]))
            draw = CounterRNG(run_seed(), 0, index, STREAM).normal
            return (self.found(measured, operator, draw).detach() + 1) / 2

    def image_columns(self: Any, batch: Any, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show the pseudo-inverse of the measurement, the estimate and the clean image.

        Large images are also shown as zoomed crops.
        """
        return measured_columns(super().image_columns(batch, outputs), batch)

    def training_step(self: Any, batch: MeasuredImageBatch, batch_idx: int) -> dict[str, Tensor]:
        loss = denoising_loss(self.network, 2 * batch["clean"] - 1, self.levels, self.prediction)
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self: Any) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
