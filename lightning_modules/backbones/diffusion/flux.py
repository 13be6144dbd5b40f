"""FLUX.1 from diffusers, a flow-matching transformer on packed latents with distilled guidance.

Each token holds 2 x 2 latent pixels. The transformer also receives the positions of image and text tokens and, in
FLUX.1-dev, the guidance scale. `flow_transformer.py` defines z_t and the prediction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.adaptation import Precision, Tuning
from lightning_modules.backbones.diffusion.flow_transformer import JOINT_ATTENTION, FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts


class Flux(FlowTransformer):
    """FLUX.1 with transformer, autoencoder and two text encoders.

    Args:
        pipeline: a local folder written by `save_pretrained`, a pipeline's name on the Hugging Face Hub
            (`black-forest-labs/FLUX.1-dev`), or a single `.safetensors` file (`config` is then required).
        config: folder or name of a pipeline of the same architecture; only if `pipeline` is a single file.
        variant: variant of the weight files, such as fp16; default: files without a variant.
        local_files_only: never download; a pipeline given by name must be in the Hugging Face cache.
        tuning: full trains every parameter of the transformer, lora trains only adapters in its attention, frozen
            trains nothing.
        lora_rank: rank of the adapters.
        lora_targets: layers that get adapters, by last part of the name; default: the attention's projections.
        dtype: precision of transformer and text encoders; the autoencoder, inputs and outputs are float32.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of keeping them.
        training_guidance: guidance scale that the transformer receives in training, if it takes one. Sampling has a
            separate guidance scale.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if a part is missing, or belongs to another model family.
        ImportError: if transformers is not installed, or if `tuning` is lora and peft is not installed.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    part_classes: ClassVar[Mapping[str, str]] = {
        "transformer": "FluxTransformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = JOINT_ATTENTION
    packing = 4
    takes_negative_prompts = False

    def __init__(
        self,
        pipeline: str,
        config: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        tuning: Tuning = "frozen",
        lora_rank: int = 4,
        lora_targets: Sequence[str] | None = None,
        dtype: Precision | None = None,
        gradient_checkpointing: bool = False,
        training_guidance: float = 3.5,
    ) -> None:
        super().__init__(
            pipeline, config, variant, local_files_only, tuning, lora_rank, lora_targets, dtype, gradient_checkpointing
        )
        self.training_guidance = training_guidance

    @property
    def image_size(self) -> int:
        """Height and width of the images that the pipeline generates by default."""
        return self.pipeline.default_sample_size * self.pipeline.vae_scale_factor

    @property
    def size_multiple(self) -> int:
        """Side of a packed token in pixels; height and width of an image must be divisible by it."""
        return 2 * self.pipeline.vae_scale_factor

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        device, prompt = next(self.text_encoders.parameters()).device, list(texts)
        embedding, pooled, _ = self.pipeline.encode_prompt(prompt, prompt, device=device)
        return Prompts(embedding, pooled)

    def packed(self, latent: Tensor) -> Tensor:
        """Arrange z `[B, c, h, w]` as positions, `[B, h w / 4, 4 c]`."""
        return self.pipeline._pack_latents(latent.contiguous(), *latent.shape)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z.

        Args:
            latent: z_t, `[B, c, h, w]`.
            timestep: T t, `[B]`, or one value for all images.
            prompts: B prompts.
        """
        assert prompts.pooled is not None
        count, _, height, width = latent.shape
        guided, scale = self.network.config.guidance_embeds, self.pipeline.vae_scale_factor
        output = self.network(
            self.packed(latent),
            timestep=(timestep / self.scheduler.config.num_train_timesteps).expand(count),
            guidance=torch.full([count], self.training_guidance, device=latent.device) if guided else None,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            pooled_projections=prompts.pooled.to(latent.dtype),
            txt_ids=latent.new_zeros(prompts.embedding.shape[1], 3),
            img_ids=self.pipeline._prepare_latent_image_ids(
                count, height // 2, width // 2, latent.device, latent.dtype
            ),
        ).sample
        return self.pipeline._unpack_latents(output, height * scale, width * scale, scale)

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        """Return prompts as keyword arguments of the pipeline. Models with distilled guidance need no empty prompts."""
        return {"prompt_embeds": prompts.embedding, "pooled_prompt_embeds": prompts.pooled}
