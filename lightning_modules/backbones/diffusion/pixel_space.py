"""Unconditional pixel-space diffusion models: a diffusers U-Net and its noise schedule."""

from collections.abc import Sequence
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from lightning_modules.backbones.adaptation import Adapters, Tuning, adapt
from lightning_modules.backbones.diffusion.pipelines import check_schedule, diffusers_pipeline
from lightning_modules.backbones.diffusion.pixel_model import PixelModel


class PixelSpace(PixelModel):
    """An unconditional denoising network with its noise schedule. It generates images by deterministic DDIM steps.

    Args:
        network: a diffusers `UNet2DModel`, or any network called with images `[B, C, H, W]` and times `[B]`.
        scheduler: scheduler that defines the noise levels and the prediction type.
        image_shape: shape (C, H, W) of an image; None reads the shape from the config of a diffusers U-Net.
    """

    def __init__(
        self, network: nn.Module, scheduler: DDPMScheduler | DDIMScheduler, image_shape: Sequence[int] | None = None
    ) -> None:
        super().__init__(network, scheduler)
        if image_shape is None:
            config: Any = getattr(network, "config", None)
            size = getattr(config, "sample_size", None)
            if not isinstance(size, int) or config.in_channels != config.out_channels:
                raise ValueError(
                    f"network: {type(network).__name__} needs a config with a sample_size and as many output as input "
                    f"channels; otherwise give image_shape"
                )
            image_shape = (config.in_channels, size, size)
        self.shape = tuple(image_shape)

    def latent_shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of a batch of n images, which are the latents of this model."""
        return (n, *self.shape)


def pixel_pipeline(
    pipeline: str,
    tuning: Tuning = "full",
    adapters: Adapters = Adapters(),
    gradient_checkpointing: bool = False,
    local_files_only: bool = False,
) -> PixelSpace:
    """Load a pretrained unconditional diffusers pipeline.

    Args:
        pipeline: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub
            (`google/ddpm-cifar10-32`).
        tuning: `full` trains all parameters of the U-Net, `lora` trains only adapters, and `frozen` trains nothing.
        adapters: settings of the adapters; by default, every `nn.Linear` is adapted.
        gradient_checkpointing: recompute the U-Net's activations in the backward pass instead of storing them.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
    """
    adapters.check_tuning(tuning)
    loaded = diffusers_pipeline(pipeline, ("unet", "scheduler"), local_files_only=local_files_only)
    check_schedule(loaded.scheduler, ("epsilon", "v_prediction", "sample"))
    network = adapt(loaded.unet.train(), tuning, None, adapters, gradient_checkpointing)
    return PixelSpace(network, loaded.scheduler)
