"""Hunyuan-DiT from diffusers, a latent text-to-image transformer with two text encoders.

Source: Li et al., Hunyuan-DiT: A Powerful Multi-Resolution Diffusion Transformer with Fine-Grained Chinese
Understanding, 2024, arXiv 2405.08748.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.adaptation import Precision, Tuning
from lightning_modules.backbones.diffusion.text_to_image import Prompts, Sampler, TextToImage
from lightning_modules.backbones.quantization import Quantization

ORIGINAL_SIZE = (1024, 1024)
"""Image height and width before cropping; the model is conditioned on them. The value is the pipeline's default."""
LENGTHS = (77, 256)
"""Maximum number of tokens in a text, for the first and the second text encoder."""


class HunyuanDiT(TextToImage):
    """Hunyuan-DiT, with its transformer, its frozen autoencoder and its frozen text encoders.

    Args:
        pipeline: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub
            (`Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers`).
        variant: variant of the weight files, such as fp16; None loads the files without a variant.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        dtype: precision of the transformer and the text encoders; the autoencoder, inputs and outputs are float32.
        sampler: class of the diffusers scheduler that replaces the pipeline's scheduler in sampling, with the same
            noise levels.
        tuning: `full` trains all parameters of the transformer, `lora` trains only adapters in its attention, and
            `frozen` trains nothing.
        lora_rank: rank of the adapters.
        lora_targets: layers to adapt, given by the last parts of their names; None adapts the projections of the
            attention.
        offload_text_encoders: keep the text encoders on the CPU, and embed prompts there.
        lora_alpha: alpha, which sets the scale of the adapters, alpha / rank. None sets alpha to the rank.
        use_rslora: use rank-stabilised LoRA, which scales adapters by alpha / sqrt(rank).
        use_dora: use DoRA, which also trains the row norms of the adapted weights.
        quantization: store the frozen weights of the network's linear layers in 8 bits (`int8`) or 4 bits (`nf4`); None
            does not quantise weights.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if a part of the pipeline is missing or belongs to a different model family, or if the scheduler is
            of an unsupported kind.
        ImportError: if transformers is not installed, or if `tuning` is lora and peft is not installed.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "HunyuanDiT2DModel",
        "_class_name": "HunyuanDiTPipeline",
    }
    unquantized = ("time_extra_emb.pooler",)
    prompt_fields = ("embedding", "mask", "second", "second_mask")

    def __init__(
        self,
        pipeline: str,
        variant: str | None = None,
        local_files_only: bool = False,
        dtype: Precision | None = None,
        sampler: Sampler | None = None,
        tuning: Tuning = "frozen",
        lora_rank: int = 4,
        lora_targets: Sequence[str] | None = None,
        offload_text_encoders: bool = False,
        lora_alpha: int | None = None,
        use_rslora: bool = False,
        use_dora: bool = False,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__(
            pipeline, None, variant, local_files_only, tuning, lora_rank, lora_targets, dtype, sampler=sampler,
            offload_text_encoders=offload_text_encoders,
            lora_alpha=lora_alpha, use_rslora=use_rslora, use_dora=use_dora, quantization=quantization,
        )  # fmt: skip
        self.network.register_forward_pre_hook(_time_in_its_precision)

    @property
    def size_multiple(self) -> int:
        """Side length of a patch in image pixels, by which the height and width of an image must be divisible."""
        return self.pipeline.vae_scale_factor * self.network.config.patch_size

    def embedded(self, texts: list[str], device: torch.device) -> Prompts:
        dtype, found = next(self.network.parameters()).dtype, []
        for number, length in enumerate(LENGTHS):
            embedding, _, mask, _ = self.pipeline.encode_prompt(
                prompt=texts,
                device=device,
                dtype=dtype,
                do_classifier_free_guidance=False,
                max_sequence_length=length,
                text_encoder_index=number,
            )
            found += [embedding, mask]
        return Prompts(found[0], None, *found[1:])

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the quantity named by `prediction_type`, `[B, c, h, w]`; the learned variance is not returned."""
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

        config, scale = self.network.config, self.pipeline.vae_scale_factor
        height, width = latent.shape[2:]
        grid = (height // config.patch_size, width // config.patch_size)
        rotary = get_2d_rotary_pos_embed(
            config.attention_head_dim,
            get_resize_crop_region_for_grid(grid, 64 // config.patch_size),
            grid,
            device=latent.device,
            output_type="pt",
        )
        sizes = torch.tensor([*ORIGINAL_SIZE, height * scale, width * scale, 0, 0]).to(latent, non_blocking=True)
        second = prompts.second
        return self.network(
            latent,
            timestep.expand(latent.shape[0]),
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            text_embedding_mask=prompts.mask,
            encoder_hidden_states_t5=None if second is None else second.to(latent.dtype),
            text_embedding_mask_t5=prompts.second_mask,
            image_meta_size=sizes.repeat(latent.shape[0], 1),
            style=torch.zeros(latent.shape[0], dtype=torch.int64, device=latent.device),
            image_rotary_emb=tuple(part.to(latent.dtype) for part in rotary),
        ).sample[:, : latent.shape[1]]

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        names = ("prompt_embeds", "prompt_attention_mask", "prompt_embeds_2", "prompt_attention_mask_2")
        given: dict[str, Any] = {"use_resolution_binning": False, "original_size": ORIGINAL_SIZE}
        for prefix, each in (("", prompts), ("negative_", empty)):
            values = (each.embedding, each.mask, each.second, each.second_mask)
            given |= {f"{prefix}{name}": value for name, value in zip(names, values, strict=True)}
        return given


def _time_in_its_precision(network: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast times to the network's precision, because its time embedding requires this precision.

    In bfloat16, this rounds large times.
    """
    latent, time, *more = args
    return latent, time.to(network.dtype), *more
