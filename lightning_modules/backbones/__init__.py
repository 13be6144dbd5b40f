"""Networks from timm, diffusers, transformers and segmentation-models-pytorch: construction, weights and adaptation."""

from lightning_modules.backbones.adaptation import (
    Adapters,
    adapt,
    compile_in_place,
    frozen,
    in_dtype,
    with_gradient_checkpointing,
    with_lora,
)
from lightning_modules.backbones.factories import diffusers_model, timm_model
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.smp_model import smp_model
from lightning_modules.backbones.transformers_backbone import transformers_model
from lightning_modules.backbones.weights import read_weights, with_weights

__all__ = [
    "Adapters",
    "Normalized",
    "adapt",
    "compile_in_place",
    "diffusers_model",
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
