"""FLUX.1, FLUX.1 Kontext and Chroma from diffusers, which are flow-matching transformers on packed latents.

Each image token consists of 2 x 2 latent pixels. The transformers also receive the positions of image and text tokens.
FLUX.1-dev has distilled guidance: its transformer receives the guidance scale as an input. Chroma is a smaller variant
of FLUX.1-schnell, without distilled guidance and without pooled embeddings. See `flow_transformer.py` for z_t and for
the predicted quantity.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters, Tuning
from lightning_modules.backbones.diffusion.flow_transformer import JOINT_ATTENTION, PackedLatents
from lightning_modules.backbones.diffusion.text_to_image import Prompts, Weights


class Flux(PackedLatents):
    """FLUX.1, with its transformer, autoencoder and two text encoders.

    Args:
        pipeline: local folder written by `save_pretrained`, name of a pipeline on the Hugging Face Hub
            (`black-forest-labs/FLUX.1-dev`), or a single `.safetensors` file, which requires
            `weights.config`.
        weights: files, precision and quantisation of the weights.
        tuning: `full` trains all parameters of the transformer, `lora` trains only adapters in its attention, and
            `frozen` trains nothing.
        adapters: settings of the adapters.
        gradient_checkpointing: recompute the transformer's activations in the backward pass instead of storing them.
        offload_text_encoders: keep the text encoders on the CPU, and embed prompts there.
        training_guidance: guidance scale that the transformer receives in training; ignored if the transformer does not
            receive a guidance scale. Sampling has a separate guidance scale.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "FluxTransformer2DModel",
        "_class_name": "FluxPipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = JOINT_ATTENTION
    takes_negative_prompts = False

    def __init__(
        self,
        pipeline: str,
        weights: Weights = Weights(),
        tuning: Tuning = "frozen",
        adapters: Adapters = Adapters(),
        gradient_checkpointing: bool = False,
        offload_text_encoders: bool = False,
        training_guidance: float = 3.5,
    ) -> None:
        super().__init__(pipeline, weights, tuning, adapters, gradient_checkpointing, offload_text_encoders)
        self.training_guidance = training_guidance

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, pooled, _ = self.pipeline.encode_prompt(texts, texts, device=device)
        return Prompts(embedding, pooled)

    def network_inputs(
        self, latent: Tensor, timestep: Tensor, prompts: Prompts, size_conditions: Tensor | None = None
    ) -> dict[str, Any]:
        assert prompts.pooled is not None
        count, _, height, width = latent.shape
        guided = self.network.config.guidance_embeds
        return {
            "hidden_states": self.pack(latent),
            "timestep": (timestep / self.scheduler.config.num_train_timesteps).expand(count),
            "guidance": torch.full([count], self.training_guidance, device=latent.device) if guided else None,
            "encoder_hidden_states": prompts.embedding.to(latent.dtype),
            "pooled_projections": prompts.pooled.to(latent.dtype),
            "txt_ids": latent.new_zeros(prompts.embedding.shape[1], 3),
            "img_ids": image_positions(height // 2, width // 2, latent),
        }

    def network_output(self, output: Tensor, latent: Tensor) -> Tensor:
        return self.unpack(output, *latent.shape[2:])

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        """Return prompts as keyword arguments of the pipeline. Empty prompts are not used by distilled guidance."""
        return {"prompt_embeds": prompts.embedding, "pooled_prompt_embeds": prompts.pooled}


class FluxKontext(Flux):
    """FLUX.1 Kontext, which edits a source image as the prompt says.

    The tokens of z_t are followed by those of the source image's latents. The first coordinate of their positions is 1
    instead of 0. The network's outputs for them are ignored.

    Source: Black Forest Labs, FLUX.1 Kontext: Flow Matching for In-Context Image Generation and Editing in Latent
    Space, 2025, arXiv 2506.15742.
    """

    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        **Flux.part_classes,
        "_class_name": "FluxKontextPipeline",
    }
    takes_source = True

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts, source: Tensor | None = None) -> Tensor:
        """Predict the velocity e - z.

        Args:
            latent: z_t, `[B, c, h, w]`.
            timestep: times T t, either `[B]` or one value for all images.
            prompts: B prompts.
            source: latents of the source images, `[B, c, h', w']`, or of one for all. None means no source image.
        """
        inputs = self.network_inputs(latent, timestep, prompts)
        count = inputs["hidden_states"].shape[1]
        if source is not None:
            positions = image_positions(source.shape[2] // 2, source.shape[3] // 2, latent)
            positions[:, 0] = 1
            tokens = self.pack(source.to(latent.dtype)).expand(len(latent), -1, -1)
            inputs["hidden_states"] = torch.cat([inputs["hidden_states"], tokens], dim=1)
            inputs["img_ids"] = torch.cat([inputs["img_ids"], positions])
        return self.network_output(self.network(**inputs).sample[:, :count], latent)

    def generate(self, prompts: Prompts, noise: Tensor, *sampling: Any, **given: Any) -> Tensor:
        """Generate images; `image` are the latents of their source images. See `PipelineSampling.generate`.

        By default, the pipeline would enlarge all images to an area of 1024 x 1024 pixels.
        """
        area = noise[0, 0].numel() * self.latent_scale**2
        return super().generate(prompts, noise, *sampling, max_area=area, **given)


class Chroma(PackedLatents):
    """Chroma, with its transformer, autoencoder and T5 text encoder.

    The transformer receives a mask of the text. The mask is 1 for tokens and for the first padding position, and 0 for
    all other positions. As in the pipeline, it is a floating-point tensor, so the attention layers add it to their
    logits.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "ChromaTransformer2DModel",
        "_class_name": "ChromaPipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = JOINT_ATTENTION
    prompt_fields = ("embedding", "mask")

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, _, mask, *_ = self.pipeline.encode_prompt(texts, device=device, do_classifier_free_guidance=False)
        return Prompts(embedding, mask=mask)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z."""
        assert prompts.mask is not None
        count, _, height, width = latent.shape
        positions = self.pack(latent)
        mask = prompts.mask.to(latent.dtype)
        output = self.network(
            hidden_states=positions,
            timestep=(timestep / self.scheduler.config.num_train_timesteps).expand(count),
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            txt_ids=latent.new_zeros(prompts.embedding.shape[1], 3),
            img_ids=image_positions(height // 2, width // 2, latent),
            attention_mask=torch.cat([mask, mask.new_ones(count, positions.shape[1])], dim=1),
        ).sample
        return self.unpack(output, height, width)


def image_positions(height: int, width: int, like: Tensor) -> Tensor:
    """List the position (0, row, column) of each image token, as the pipeline does: `[height width, 3]`."""
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in (height, width))
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).flatten(0, 1)
