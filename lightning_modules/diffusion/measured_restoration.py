"""Steps of modules that find images from measurements, with a diffusion model as what is known of images."""

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
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.interfaces import ImageColumn, MeasurementSource, require_data
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import optimizer_config, trainable_parameters
from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.discrete import denoising_loss, scheduler_levels, scheduler_prediction
from lightning_modules.tasks.restorer import ZOOM, RestorerSteps
from lightning_modules.training.logging import log_training

Draw = Callable[[Tensor], Tensor]
"""Gives standard normal numbers of the shape of a tensor, each image's own."""
STREAM = 10_000
"""Of the random numbers that images are found with; those of masks and of noise are others."""
LARGE = 64
"""Pixels of a side from which on a part of an image is worth a closer look."""


def measured_columns(columns: dict[str, Tensor | ImageColumn], batch: Any) -> dict[str, Tensor | ImageColumn]:
    """Give the columns of a `MeasuredImageBatch` their names; of small images leave enlarged parts out."""
    large = min(batch["noisy"].shape[2:]) >= LARGE
    return {
        name.replace("noisy", "pseudo-inverse"): column
        for name, column in columns.items()
        if large or f"x{ZOOM}" not in name
    }


class MeasuredRestoration(RestorerSteps):
    """Give a LightningModule its steps; the module says in `found` what its method is.

    Every image is found from its own random numbers, which follow from the seed of the run and its position, so it is
    the same whatever batch it is in, on whatever process. `test/noisy_psnr` and the like are those of the measurement's
    pseudo-inverse. `fit` trains the network, where it has trainable parameters,
    on the mean squared error of its prediction at random times.
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
        """Keep what every such module is given.

        Raises:
            ValueError: if the scheduler has fewer times than `steps`, or another prediction type than epsilon, sample
                and v_prediction.
        """
        schedule: Any = scheduler  # diffusers adds its attributes where they are not seen
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
        """Find images `[B, C, H, W]` in [-1, 1], not clipped, from their measurements."""

    def times(self: Any) -> list[int]:
        """List the times that are visited from noise to image, and -1, which is the image."""
        return scheduler_path(self.scheduler, self.steps)

    def predicted_by(self: Any, noisy: Tensor, t: Tensor) -> Tensor:
        """Evaluate the network, in the precision of the run, and give its output in that of the images."""
        with self.trainer.precision_plugin.forward_context():
            output = self.network(noisy.to(self.dtype), t)
        return (output if isinstance(output, Tensor) else output.sample).to(noisy.dtype)

    def estimated(self: Any, batch: Any) -> Tensor:
        """Find the images of a `MeasuredImageBatch`, `[B, C, H, W]` in the units of clean ones, not clipped."""
        source = require_data(self.trainer, MeasurementSource, type(self).__name__)
        device = batch["measured"].device
        with torch.inference_mode(False), torch.enable_grad(), in_full_precision(device):
            measured, index = at_least_float32(batch["measured"].clone()), batch["index"].clone()
            operator = source.operator.of(index, tuple(batch["noisy"].shape[2:]))
            draw = CounterRNG(run_seed(), 0, index, STREAM).normal
            return (self.found(measured, operator, draw).detach() + 1) / 2

    def image_columns(self: Any, batch: Any, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show the pseudo-inverse of the measurement, the estimate and the clean image; of large images, parts too."""
        return measured_columns(super().image_columns(batch, outputs), batch)

    def training_step(self: Any, batch: MeasuredImageBatch, batch_idx: int) -> dict[str, Tensor]:
        loss = denoising_loss(self.network, 2 * batch["clean"] - 1, self.levels, self.prediction)
        return {"loss": log_training(self, batch, loss)}

    def configure_optimizers(self: Any) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
