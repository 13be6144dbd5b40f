"""Pretrained diffusion pipelines: text-to-image models and pixel-space models, cached latents, and export."""

from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.flux import Chroma, Flux, FluxKontext
from lightning_modules.backbones.diffusion.flux2 import Flux2
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT
from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from lightning_modules.backbones.diffusion.pixart import PixArtSigma
from lightning_modules.backbones.diffusion.qwen_image import QwenImage
from lightning_modules.backbones.diffusion.sana import Sana
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.backbones.diffusion.wan import Wan
from lightning_modules.backbones.diffusion.z_image import Lumina2, ZImage

__all__ = [
    "Chroma",
    "Flux",
    "Flux2",
    "FluxKontext",
    "HunyuanDiT",
    "Lumina2",
    "PixArtSigma",
    "QwenImage",
    "Sana",
    "StableDiffusion3",
    "TextToImage",
    "Wan",
    "Weights",
    "ZImage",
    "diffusers_pipeline",
    "text_to_image_pipeline",
]
