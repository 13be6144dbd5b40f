"""Networks for configs: any of timm, diffusers, transformers and smp by typed factories, and what they lack."""

from lightning_modules.networks.adaptation import (
    adapted,
    compiled,
    frozen,
    in_dtype,
    with_gradient_checkpointing,
    with_lora,
)
from lightning_modules.networks.deeplab import deeplabv3_resnet50
from lightning_modules.networks.factories import diffusers_model, timm_model
from lightning_modules.networks.hunyuan_dit import HunyuanDiT
from lightning_modules.networks.normalized import Normalized
from lightning_modules.networks.pipelines import diffusers_pipeline
from lightning_modules.networks.smp_model import smp_model
from lightning_modules.networks.text_to_image import TextToImage
from lightning_modules.networks.transformers_backbone import transformers_model
from lightning_modules.networks.weights import read_weights, with_weights

__all__ = [
    "HunyuanDiT",
    "Normalized",
    "TextToImage",
    "adapted",
    "compiled",
    "deeplabv3_resnet50",
    "diffusers_model",
    "diffusers_pipeline",
    "frozen",
    "in_dtype",
    "read_weights",
    "smp_model",
    "timm_model",
    "transformers_model",
    "with_gradient_checkpointing",
    "with_lora",
    "with_weights",
]
