"""Unconditional pixel-space diffusion models: a diffusers U-Net and its noise schedule."""

from collections.abc import Sequence
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from datamodules.arguments import only_with
from lightning_modules.backbones.adaptation import Tuning, adapted
from lightning_modules.backbones.diffusion.pipelines import check_schedule, diffusers_pipeline
from lightning_modules.backbones.diffusion.pixel_model import PixelModel


class PixelSpace(PixelModel):
    """An unconditional denoising network with its noise schedule. It generates images by deterministic DDIM steps.

    Args:
        network: a diffusers `UNet2DModel`, or any network called with images `[B, C, H, W]` and times `[B]`.
        scheduler: scheduler that defines the noise levels and the prediction type.
        image_shape: shape (C, H, W) of an image; None reads the shape from the config of a diffusers U-Net.

    Raises:
        ValueError: if `image_shape` is None, and the network's config does not define the image size or has different
            numbers of input and output channels.
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
    lora_rank: int = 4,
    lora_targets: list[str] | None = None,
    gradient_checkpointing: bool = False,
    local_files_only: bool = False,
    lora_alpha: int | None = None,
    use_rslora: bool = False,
    use_dora: bool = False,
) -> PixelSpace:
    """Load a pretrained unconditional diffusers pipeline.

    Args:
        pipeline: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub
            (`google/ddpm-cifar10-32`).
        tuning: `full` trains all parameters of the U-Net, `lora` trains only adapters, and `frozen` trains nothing.
        lora_rank: rank of the adapters.
        lora_targets: layers to adapt, given by name or by the last part of the name; None adapts every `nn.Linear`.
        gradient_checkpointing: recompute the U-Net's activations in the backward pass instead of storing them.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        lora_alpha: alpha, which sets the scale of the adapters, alpha / rank. None sets alpha to the rank.
        use_rslora: use rank-stabilised LoRA, which scales adapters by alpha / sqrt(rank).
        use_dora: use DoRA, which also trains the row norms of the adapted weights.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if the pipeline has unexpected parts or an unsupported kind of scheduler.
    """
    lora: dict[str, Any] = {"lora_rank": lora_rank, "lora_targets": lora_targets, "lora_alpha": lora_alpha}
    lora |= {"use_rslora": use_rslora, "use_dora": use_dora}
    only_with("tuning lora", tuning == "lora", pixel_pipeline, **lora)
    loaded = diffusers_pipeline(pipeline, ("unet", "scheduler"), local_files_only=local_files_only)
    check_schedule(loaded.scheduler, ("epsilon", "v_prediction", "sample"))
    options = lora if tuning == "lora" else {}
    network = adapted(loaded.unet.train(), tuning, gradient_checkpointing=gradient_checkpointing, **options)
    return PixelSpace(network, loaded.scheduler)
