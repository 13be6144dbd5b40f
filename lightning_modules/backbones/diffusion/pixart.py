"""PixArt-Sigma of diffusers, a latent diffusion transformer with T5 as its text encoder.

The transformer predicts e from z_t, t and the embeddings of a prompt's tokens; padding is masked. Its further output
channels, a learned variance, are unused, as in its pipeline.

Source: Chen et al., PixArt-Sigma: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image Generation,
ECCV 2024, arXiv 2403.04692.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage


class PixArtSigma(TextToImage):
    """PixArt-Sigma: its transformer, and its frozen autoencoder and text encoder.

    Args:
        pipeline: a local folder as `save_pretrained` writes it, or a pipeline's name on the Hugging Face Hub
            (`PixArt-alpha/PixArt-Sigma-XL-2-1024-MS`).
        config: folder or name of a pipeline of the same architecture; only for a single file.
        variant: variant of the weight files, such as fp16; default: files without a variant.
        local_files_only: look for a pipeline's name only in the Hugging Face cache.
        tuning: full trains every parameter of the transformer, lora only adapters in its attention, frozen none.
        lora_rank: rank of the adapters.
        lora_targets: last parts of the names of the layers that get adapters; default: the attention's projections.
        dtype: precision of transformer and text encoder; the autoencoder, inputs and outputs are float32.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of keeping them.
        prediction_types: quantities that the transformer may predict.
        sampler: a diffusers scheduler to sample with instead of the pipeline's own, at its noise levels.
        offload_text_encoders: keep the text encoder on the CPU, where it embeds prompts.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if a part is missing or of another family.
        ImportError: if transformers is not installed, or peft with lora.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),  # the authors' index has the old name
        "_class_name": "PixArtSigmaPipeline",
    }
    prompt_fields = ("embedding", "mask")

    @property
    def size_multiple(self) -> int:
        """Number of pixels by which height and width of an image must be divisible: those of a patch."""
        return self.pipeline.vae_scale_factor * self.network.config.patch_size

    def embedded(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, mask, *_ = self.pipeline.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return Prompts(embedding, mask=mask)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the quantity of the scheduler's `prediction_type`, `[B, c, h, w]`; a learned variance is dropped."""
        return self.network(
            latent,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            encoder_attention_mask=prompts.mask,
            timestep=timestep.expand(len(latent)),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample[:, : latent.shape[1]]

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        return super().for_pipeline(prompts, empty) | {"negative_prompt": None, "use_resolution_binning": False}
