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

    The pipeline is, for example, `PixArt-alpha/PixArt-Sigma-XL-2-1024-MS`. The arguments are those of `TextToImage`.
    Captions and prompts are converted to lower case, but not cleaned. In contrast, the pipeline of diffusers cleans
    prompts by default: it removes web addresses, HTML and special characters.
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

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
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
