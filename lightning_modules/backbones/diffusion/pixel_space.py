"""Unconditional pixel-space diffusion models: a diffusers U-Net and its schedule."""

from collections.abc import Sequence
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from datamodules.arguments import only_with
from lightning_modules.backbones.adaptation import Tuning, adapted
from lightning_modules.backbones.diffusion.pipelines import check_schedule, diffusers_pipeline
from lightning_modules.backbones.diffusion.pixel_model import PixelModel


class PixelSpace(PixelModel):
    """An unconditional network and its schedule, which samples by deterministic DDIM steps.

    Args:
        network: a diffusers `UNet2DModel`, or any network called with images `[B, C, H, W]` and times `[B]`.
        scheduler: scheduler that defines noise levels and prediction type.
        image_shape: C, H, W of its images; None takes them from the config of a diffusers U-Net.

    Raises:
        ValueError: if the U-Net's config lacks the image size, or input and output channels differ.
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
        """Return the shape of n images."""
        return (n, *self.shape)


def pixel_pipeline(
    pipeline: str,
    tuning: Tuning = "full",
    lora_rank: int = 4,
    lora_targets: list[str] | None = None,
    gradient_checkpointing: bool = False,
    local_files_only: bool = False,
) -> PixelSpace:
    """A trained unconditional diffusers pipeline.

    Args:
        pipeline: a local folder as `save_pretrained` writes it, or a pipeline's name on the Hugging Face Hub
            (`google/ddpm-cifar10-32`).
        tuning: full trains every parameter of the U-Net, lora only adapters, frozen none.
        lora_rank: rank of the adapters.
        lora_targets: names, or last parts of names, of the layers that get adapters; default: every `nn.Linear`.
        gradient_checkpointing: recompute the U-Net's activations in the backward pass instead of keeping them.
        local_files_only: look for a pipeline's name only in the Hugging Face cache.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if it has other parts, or its scheduler is of an unsupported kind.
    """
    lora: dict[str, Any] = {"lora_rank": lora_rank, "lora_targets": lora_targets}
    only_with("tuning lora", tuning == "lora", pixel_pipeline, **lora)
    loaded = diffusers_pipeline(pipeline, ("unet", "scheduler"), local_files_only=local_files_only)
    check_schedule(loaded.scheduler, ("epsilon", "v_prediction", "sample"))
    options = lora if tuning == "lora" else {}
    network = adapted(loaded.unet.train(), tuning, gradient_checkpointing=gradient_checkpointing, **options)
    return PixelSpace(network, loaded.scheduler)
