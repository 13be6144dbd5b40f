"""PixArt-Sigma from diffusers, a latent diffusion transformer whose text encoder is T5.

The transformer predicts the noise e from z_t, t and the embeddings of a prompt's tokens. Padding tokens are masked. As
in the pipeline, the output channels with the learned variance are not used. See `text_to_image.py` for z_t.

Source: Chen et al., PixArt-Sigma: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image Generation,
ECCV 2024, arXiv 2403.04692.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage


class PixArtSigma(TextToImage):
    """PixArt-Sigma, with its transformer, its frozen autoencoder and its frozen text encoder.

    Args:
        pipeline: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub
            (`PixArt-alpha/PixArt-Sigma-XL-2-1024-MS`).
        config: folder or name of a pipeline with the same architecture; allowed only if `pipeline` is a single file.
        variant: variant of the weight files, such as fp16; None loads the files without a variant.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        tuning: `full` trains all parameters of the transformer, `lora` trains only adapters in its attention, and
            `frozen` trains nothing.
        lora_rank: rank of the adapters.
        lora_targets: layers to adapt, given by the last parts of their names; None adapts the projections of the
            attention.
        dtype: precision of the transformer and the text encoder; the autoencoder, inputs and outputs are float32.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of storing them.
        prediction_types: values of the scheduler's `prediction_type` that are accepted.
        sampler: class of the diffusers scheduler for sampling, which is built from the config of the pipeline's
            scheduler. None samples with the pipeline's scheduler itself.
        offload_text_encoders: keep the text encoder on the CPU, and embed prompts there.
        lora_alpha: alpha, which sets the scale of the adapters, alpha / rank. None sets alpha to the rank.
        use_rslora: use rank-stabilised LoRA, which scales adapters by alpha / sqrt(rank).
        use_dora: use DoRA, which also trains the row norms of the adapted weights.
        quantization: store the frozen weights of the network's linear layers in 8 bits (`int8`) or 4 bits (`nf4`); None
            does not quantise weights.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if a part of the pipeline is missing or belongs to a different model family.
        ImportError: if transformers is not installed, or if `tuning` is lora and peft is not installed.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),  # old name, in the authors' model_index.json
        "_class_name": "PixArtSigmaPipeline",
    }
    prompt_fields = ("embedding", "mask")

    @property
    def size_multiple(self) -> int:
        """Side length of a patch in image pixels, by which the height and width of an image must be divisible."""
        return self.pipeline.vae_scale_factor * self.network.config.patch_size

    def embedded(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, mask, *_ = self.pipeline.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return Prompts(embedding, mask=mask)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the quantity named by `prediction_type`, `[B, c, h, w]`; the learned variance is not returned."""
        return self.network(
            latent,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            encoder_attention_mask=prompts.mask,
            timestep=timestep.expand(latent.shape[0]),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample[:, : latent.shape[1]]

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        return super().for_pipeline(prompts, empty) | {"negative_prompt": None, "use_resolution_binning": False}
