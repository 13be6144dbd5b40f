"""Families of text-to-image models, and a function that loads a pipeline as a model of its family."""

from collections.abc import Sequence
from typing import Any

from lightning_modules.backbones.adaptation import Precision, Tuning
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.flux import Chroma, Flux
from lightning_modules.backbones.diffusion.flux2 import Flux2
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT
from lightning_modules.backbones.diffusion.pipelines import family_of
from lightning_modules.backbones.diffusion.pixart import PixArtSigma
from lightning_modules.backbones.diffusion.qwen_image import QwenImage
from lightning_modules.backbones.diffusion.sana import Sana
from lightning_modules.backbones.diffusion.text_to_image import FAMILIES, TextToImage
from lightning_modules.backbones.diffusion.z_image import Lumina2, ZImage
from lightning_modules.backbones.quantization import Quantization

MODELS: dict[str, Any] = {
    model.__name__: model
    for model in (
        TextToImage,
        StableDiffusion3,
        Flux,
        Flux2,
        Chroma,
        PixArtSigma,
        Sana,
        QwenImage,
        ZImage,
        Lumina2,
        HunyuanDiT,
    )
}


def text_to_image_pipeline(
    pipeline: str,
    variant: str | None = None,
    local_files_only: bool = False,
    tuning: Tuning = "frozen",
    lora_rank: int = 4,
    lora_targets: Sequence[str] | None = None,
    dtype: Precision | None = None,
    offload_text_encoders: bool = False,
    lora_alpha: int | None = None,
    use_rslora: bool = False,
    use_dora: bool = False,
    quantization: Quantization | None = None,
) -> TextToImage:
    """Load a text-to-image pipeline with the class of its model family, such as `TextToImage` or `Flux`.

    Args:
        pipeline: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub.
        variant: variant of the weight files, such as fp16; None loads the files without a variant.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        tuning: `full` trains all parameters of the network, `lora` trains only adapters in its attention, and `frozen`
            trains nothing.
        lora_rank: rank of the adapters.
        lora_targets: layers to adapt, given by the last parts of their names; None adapts the projections of the
            attention.
        dtype: precision of the network and the text encoders; the autoencoder, inputs and outputs are float32.
        offload_text_encoders: keep the text encoders on the CPU, and embed prompts there.
        lora_alpha: alpha, which sets the scale of the adapters, alpha / rank. None sets alpha to the rank.
        use_rslora: use rank-stabilised LoRA, which scales adapters by alpha / sqrt(rank).
        use_dora: use DoRA, which also trains the row norms of the adapted weights.
        quantization: store the frozen weights of the network's linear layers in 8 bits (`int8`) or 4 bits (`nf4`); None
            does not quantise weights.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if the pipeline does not belong to any family; the message names the pipeline's network and all
            families.
    """
    families = FAMILIES | {"Transformer2DModel": "PixArtSigma"}  # class in the authors' model_index.json
    return MODELS[family_of(pipeline, families, local_files_only)](
        pipeline,
        variant=variant,
        local_files_only=local_files_only,
        tuning=tuning,
        lora_rank=lora_rank,
        lora_targets=lora_targets,
        dtype=dtype,
        offload_text_encoders=offload_text_encoders,
        lora_alpha=lora_alpha,
        use_rslora=use_rslora,
        use_dora=use_dora,
        quantization=quantization,
    )


text_to_image_pipeline.needs_captions = True  # type: ignore[attr-defined] # as every family, for checks before loading
