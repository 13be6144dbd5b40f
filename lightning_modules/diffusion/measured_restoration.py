"""Training and evaluation steps of modules that solve inverse problems with a diffusion prior."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import within
from datamodules.batches import MeasuredImageBatch
from datamodules.corruptions.operators.interface import LinearOperator, Operator
from datamodules.distributed.collectives import run_seed
from datamodules.pixel_ranges import to_unit
from datamodules.randomness.counter import CounterRNG
from datamodules.randomness.generators import drawing
from lightning_modules.backbones.diffusion.autoencoder_latents import AutoencoderLatents
from lightning_modules.full_precision import at_least_float32, in_full_precision, surrounding_autocast
from lightning_modules.interfaces import Exported, ImageColumn, MeasurementSource, require_data
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.optimizers import optimizer_config, trainable_parameters
from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.discrete import denoising_loss, scheduler_levels, scheduler_prediction
from lightning_modules.tasks.restorer import ZOOM, RestorerSteps
from lightning_modules.training.evaluation_mode import evaluating
from lightning_modules.training.logging import log_training

Model = Callable[[Tensor, Tensor], Tensor]
"""Diffusion model, called with x_t and timesteps, `[B]`."""
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


def centred_measurements(measured: Tensor, operator: Operator) -> Tensor:
    """Convert measurements H x of images x in [0, 1] to those of 2 x - 1, if H is linear; others stay as they are."""
    if not isinstance(operator, LinearOperator):
        return measured
    with in_full_precision(measured.device):
        return 2 * measured - operator.forward(torch.ones_like(operator.pseudo_inverse(measured)))


def reject_latent_models(network: nn.Module, method: str) -> None:
    """Reject a latent text-to-image model as the network of a method that compares pixels with measurements."""
    if isinstance(network, AutoencoderLatents):
        raise ValueError(
            f"network: {method} needs a network that is called with images in [-1, 1] and without a prompt, but "
            f"{type(network).__name__} predicts latents of its autoencoder"
        )


def check_unet_shape(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Reject images whose shape does not suit a diffusers U-Net; other networks are not checked.

    Args:
        network: network of the diffusion prior, which may be wrapped.
        shape: shape (C, H, W) of the images to reconstruct.
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


class Problem(NamedTuple):
    """Measurements from which images are reconstructed, on the scale of images in [-1, 1]."""

    measured: Tensor
    """Measurements y, `[B, ...]`."""
    operator: Operator
    sigma: float
    """Standard deviation of the measurement noise."""
    draw: Draw
    seed: int
    """Seed of the random numbers that all images have in common."""


class MeasuredRestoration(RestorerSteps):
    """Mixin for LightningModules that solve inverse problems; subclasses implement the method `reconstruct`.

    The random numbers of an image depend only on the seed of the run and on the index of the image. The reconstruction
    therefore does not depend on the batch or on the rank. Metrics with `noisy` in their names, such as
    `test/noisy_psnr`, evaluate the pseudo-inverse applied to the measurement. `fit` trains the network's trainable
    parameters with the mean squared prediction error at random timesteps.

    The arguments are those that all methods for inverse problems have in common.
    """

    levels: Tensor

    def __init__(
        self: Any,
        network: nn.Module,
        scheduler: DDPMScheduler | DDIMScheduler,
        steps: int,
        protocol: EvaluationProtocol,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable,
    ) -> None:
        super().__init__()
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
    def reconstruct(self, model: Model, problem: Problem) -> Tensor:
        """Reconstruct images, `[B, C, H, W]`, with a diffusion model, called with x_t and timesteps `[B]`.

        Pixel values are on the scale of images in [-1, 1], but are not clipped to this range.
        """

    def times(self: Any) -> list[int]:
        """List the timesteps from noise to image; the last entry is -1, which stands for the clean image."""
        return scheduler_path(self.scheduler, self.steps)

    def restore(  # type: ignore[override]
        self: Any, measured: Tensor, operator: Operator, generator: torch.Generator | None = None, sigma: float = 0.0
    ) -> Tensor:
        """Reconstruct images in [0, 1], `[B, C, H, W]`, from their measurements, without clipping.

        This needs no Trainer: `DPS(network, scheduler, steps=100).restore(measured, operator)`.

        Args:
            measured: measurements y = H x of images x in [0, 1] if H is a `LinearOperator`; otherwise y = H(2 x - 1),
                because an operator is defined for images in [-1, 1].
            operator: measurement operator H; if it differs between images, that of this batch (`Operator.of`).
            generator: random generator for all random numbers; None uses PyTorch's global generator.
            sigma: standard deviation of the measurement noise for images in [0, 1]; only DDRM uses it.
        """
        measured = centred_measurements(measured, operator)
        seed = (generator or torch.default_generator).initial_seed()
        with evaluating(self.network):
            return self._restore(Problem(measured, operator, 2 * sigma, drawing(generator), seed))

    def estimate(self: Any, batch: Any) -> Tensor:
        """Reconstruct the images of a `MeasuredImageBatch`, `[B, C, H, W]`.

        The result has the scale of `clean`, and is not clipped.
        """
        source = require_data(self.trainer, MeasurementSource, type(self).__name__)
        check_unet_shape(self.network, tuple(batch["noisy"].shape[1:]))
        with torch.inference_mode(False):
            index = batch["index"].clone()
            operator = source.operator.of(index, tuple(batch["noisy"].shape[2:]))
        draw = CounterRNG(run_seed(), 0, index, STREAM).normal
        return self._restore(Problem(batch["measured"], operator, 2 * source.sigma, draw, run_seed()))

    def _restore(self: Any, problem: Problem) -> Tensor:
        device = problem.measured.device
        autocast = surrounding_autocast(device)
        dtype = next((each.dtype for each in self.network.parameters() if each.is_floating_point()), self.dtype)

        def model(noisy: Tensor, t: Tensor) -> Tensor:
            with autocast:
                output = self.network(noisy.to(dtype), t)
            return (output if isinstance(output, Tensor) else output.sample).to(noisy.dtype)

        with torch.inference_mode(False), torch.enable_grad(), in_full_precision(device):
            problem = problem._replace(measured=at_least_float32(problem.measured.clone()))
            return to_unit(self.reconstruct(model, problem).detach())

    def export_function(self, sigma: float | None = None) -> Exported:
        """Reject the export, because a reconstruction is not a function of images alone."""
        raise ValueError(
            f"{type(self).__name__} cannot be exported, because its result depends on the operator: in Python, call "
            "restore(measured, operator) of the module that load_run(RUN) returns"
        )

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
