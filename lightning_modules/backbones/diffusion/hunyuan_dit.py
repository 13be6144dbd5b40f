"""Hunyuan-DiT from diffusers, a latent text-to-image transformer with two text encoders.

Source: Li et al., Hunyuan-DiT: A Powerful Multi-Resolution Diffusion Transformer with Fine-Grained Chinese
Understanding, 2024, arXiv 2405.08748.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage

ORIGINAL_SIZE = (1024, 1024)
"""Image height and width before cropping; the model is conditioned on them. The value is the pipeline's default."""
LENGTHS = (77, 256)
"""Maximum number of tokens in a text, for the first and the second text encoder."""


class HunyuanDiT(TextToImage):
    """Hunyuan-DiT, with its transformer, its frozen autoencoder and its frozen text encoders.

    The pipeline is, for example, `Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers`. The arguments are those of `TextToImage`;
    diffusers has no gradient checkpointing for this transformer.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "HunyuanDiT2DModel",
        "_class_name": "HunyuanDiTPipeline",
    }
    unquantized = ("time_extra_emb.pooler",)
    prompt_fields = ("embedding", "mask", "second", "second_mask")

    def prepare_parts(self) -> None:
        self.network.register_forward_pre_hook(_time_in_its_precision)

    @property
    def size_multiple(self) -> int:
        """Side length of a patch in image pixels, by which the height and width of an image must be divisible."""
        return self.pipeline.vae_scale_factor * self.network.config.patch_size

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
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
