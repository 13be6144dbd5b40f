"""Prepare a text-to-image model for training: empty prompts, class images and cached latents."""

from typing import Any

from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.class_images import ClassImages
from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.finetuning.class_images import generate_class_images
from lightning_modules.training.evaluation_mode import in_evaluation_mode


def prepare_text_to_image(module: Any, network: TextToImage) -> None:
    """Embed the empty prompt, generate missing class images, and cache latents and embeddings, on all ranks.

    Args:
        module: `DiffusionFineTuning` module, attached to its trainer.
        network: the text-to-image model of `module`.
    """
    module.dropout.prepare(network)
    data = module.trainer.datamodule
    if isinstance(getattr(data, "prior", None), ClassImages):
        sampling = {"num_inference_steps": module.num_inference_steps, "guidance_scale": module.guidance_scale}
        with in_evaluation_mode(module.trainer, module):
            generate_class_images(network, data.prior, module.trainer.global_step, **sampling)
    if module.cache_dir is not None:
        if not isinstance(data, CaptionedImages):
            raise TypeError(f"cache_dir needs the DataModule CaptionedImages, got {type(data).__name__}")
        cache_latents(network, data, module.cache_dir, module.device)
        network.free_text_encoders(module.prompts)
