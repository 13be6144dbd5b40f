"""Z-Image and Lumina-Image 2.0 from diffusers: flow-matching transformers whose text encoders are language models.

The networks receive 1 - t, which is 0 for noise and 1 for data, and predict z - e. The classes in this file reverse the
sign, so that the prediction is e - z, as in the other model families (see `flow_transformer.py`). Z-Image receives a
list of embeddings without padding. For both models, the CPU needs the lengths of the texts, and therefore waits for the
GPU in each step.

Source: Z-Image Team, Z-Image: An Efficient Image Generation Foundation Model with Single-Stream Diffusion Transformer,
2025, arXiv 2511.22699.
"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage


class ZImage(FlowTransformer):
    """Z-Image or Z-Image-Turbo, with its transformer, autoencoder and language model."""

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "ZImageTransformer2DModel",
        "_class_name": "ZImagePipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = TextToImage.default_lora_targets
    prompt_fields = ("embedding", "mask")

    @property
    def image_size(self) -> int:
        """Height and width of the images that the pipeline generates by default."""
        return 1024

    @property
    def patch_size(self) -> int:
        """Height and width, in latent pixels, of the patch that forms one image token; the transformer's default."""
        return 2

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        most = inspect.signature(type(self.pipeline).__call__).parameters["max_sequence_length"].default
        embedded, _ = self.pipeline.encode_prompt(list(texts), device, False, max_sequence_length=most)
        room = embedded[0].new_zeros(most, embedded[0].shape[1])  # all batches are padded to the same length
        padded = pad_sequence([*embedded, room], batch_first=True)[:-1]
        lengths = torch.tensor([len(each) for each in embedded], device=device)
        return Prompts(padded, mask=(torch.arange(most, device=device) < lengths[:, None]).to(torch.int64))

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z."""
        output = self.network(
            list(latent.unsqueeze(2).unbind()),
            1 - timestep.expand(latent.shape[0]) / self.scheduler.config.num_train_timesteps,
            [each.to(latent.dtype) for each in without_padding(prompts)],
        ).sample
        return -torch.stack(output).squeeze(2).to(latent.dtype)

    def for_pipeline(self, prompts: Prompts, empty: Prompts) -> dict[str, Any]:
        return {"prompt_embeds": without_padding(prompts), "negative_prompt_embeds": without_padding(empty)}

    def for_guidance(self, scale: float) -> dict[str, Any]:
        """Return the guidance scale as a keyword argument of the pipeline.

        In the pipeline of Z-Image, the scale that disables guidance is 0 instead of 1.
        """
        return {"guidance_scale": scale - 1}


class Lumina2(FlowTransformer):
    """Lumina-Image 2.0, with its transformer, autoencoder and language model.

    The pipeline's default system prompt is prepended to each text. The network itself removes the padding of texts.
    As in the other families, the scheduler's shift moves training times towards noise. In contrast, the script
    train_dreambooth_lora_lumina2.py of diffusers moves them towards data.

    Source: Qin et al., Lumina-Image 2.0: A Unified and Efficient Image Generative Framework, 2025, arXiv 2503.21758.
    """

    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    part_classes: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "transformer": "Lumina2Transformer2DModel",
        "_class_name": "Lumina2Pipeline",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    default_lora_targets = TextToImage.default_lora_targets
    prompt_fields = ("embedding", "mask")

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        embedding, mask, *_ = self.pipeline.encode_prompt(texts, do_classifier_free_guidance=False, device=device)
        return Prompts(embedding, mask=mask)

    def embedded_negative(self, texts: list[str], device: torch.device) -> Prompts:
        """Embed B negative prompts without the system prompt, as the pipeline does."""
        *_, embedding, mask = self.pipeline.encode_prompt(texts, negative_prompt=texts, device=device)
        return Prompts(embedding, mask=mask)

    def forward(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the velocity e - z."""
        assert prompts.mask is not None
        return -self.network(
            hidden_states=latent,
            timestep=1 - timestep.expand(latent.shape[0]) / self.scheduler.config.num_train_timesteps,
            encoder_hidden_states=prompts.embedding.to(latent.dtype),
            encoder_attention_mask=prompts.mask.bool(),
        ).sample


def without_padding(prompts: Prompts) -> list[Tensor]:
    """Return the token embeddings of each prompt without padding, `[l, D]`, where l is the length of the prompt."""
    assert prompts.mask is not None
    lengths = prompts.mask.sum(dim=1).int().tolist()
    return [each[:length] for each, length in zip(prompts.embedding, lengths, strict=True)]
