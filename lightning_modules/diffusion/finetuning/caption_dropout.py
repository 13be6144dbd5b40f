"""Caption dropout: in training, omit some images' captions, or only what some of the text encoders compute from them.

A dropped embedding is replaced with the embedding of the empty prompt, which the pipeline uses for classifier-free
guidance. With a single probability, whole captions are dropped. With a list of one probability for each text encoder,
the embeddings of the encoders are dropped independently, as in Stable Diffusion 3 (Esser et al., arXiv 2403.03206,
where each embedding is dropped with probability 0.464).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.arguments import within
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT
from lightning_modules.backbones.diffusion.text_to_image import Prompts

ALL = slice(None)
Region = Mapping[str, tuple[slice, ...]]
"""The part of each field of `Prompts` that one text encoder computes: slices of all dimensions except the batch."""


def encoder_regions(network: Any) -> list[Region]:
    """Return, for each text encoder of a model, the part of the embedded prompts that this encoder computes."""
    encoders = network.text_encoders
    if isinstance(network, StableDiffusion3):
        # The first tokens contain the features of both CLIP encoders, concatenated and padded to the width of T5. The
        # remaining tokens contain the features of T5.
        tokens = slice(0, network.pipeline.tokenizer_max_length)
        width, pooled = encoders[0].config.hidden_size, encoders[0].config.projection_dim
        regions: list[Region] = [
            {"embedding": (tokens, slice(0, width)), "pooled": (slice(0, pooled),)},
            {"embedding": (tokens, slice(width, None)), "pooled": (slice(pooled, None),)},
            {"embedding": (slice(tokens.stop, None), ALL)},
        ]
        return regions[: len(encoders)]
    if isinstance(network, Flux):
        return [{"pooled": (ALL,)}, {"embedding": (ALL, ALL)}]
    if isinstance(network, HunyuanDiT):
        return [{"embedding": (ALL, ALL), "mask": (ALL,)}, {"second": (ALL, ALL), "second_mask": (ALL,)}]
    if network.is_xl:
        width = encoders[0].config.hidden_size
        return [{"embedding": (ALL, slice(0, width))}, {"embedding": (ALL, slice(width, None)), "pooled": (ALL,)}]
    return [dict.fromkeys(network.prompt_fields, ())]


class CaptionDropout:
    """Replace the captions of randomly chosen images with the empty prompt.

    Args:
        probability: probability of dropping a caption, in [0, 1); or a list with one such probability for each text
            encoder.
    """

    def __init__(self, probability: float | Sequence[float]) -> None:
        self.by_encoder = isinstance(probability, Sequence)
        self.probabilities = list(probability) if isinstance(probability, Sequence) else [probability]
        for each in self.probabilities:
            within(0, 1, "[)", caption_dropout=each)
        self._empty: Prompts | None = None
        self._trained: Any = None
        self._regions: list[Region] = []

    @property
    def active(self) -> bool:
        return any(self.probabilities)

    def check(self, network: Any) -> None:
        """Reject a list of probabilities that does not have one entry for each text encoder of the model."""
        count = len(network.text_encoders)
        if self.by_encoder and len(self.probabilities) != count:
            raise ValueError(
                f"caption_dropout must be one number, or a list with one number for each of the {count} text encoders "
                f"of {type(network).__name__}, got {len(self.probabilities)} numbers"
            )

    def prepare(self, network: Any) -> None:
        """Embed the empty prompt; this method must be called before training."""
        if self.active:
            self._empty = network.empty_prompts(1)
            self._trained = network if network.trains_text else None
            self._regions = encoder_regions(network) if self.by_encoder else []

    def __call__(self, prompts: Prompts) -> Prompts:
        """Drop randomly chosen captions of a training batch."""
        if self._empty is None:
            return prompts
        if self._trained is not None:  # the embedding changes in each step
            self._empty = self._trained.empty_prompts(1)
        device, count = prompts.embedding.device, len(prompts.embedding)
        chosen = [sample_rows(torch.rand, (count,), device) < each for each in self.probabilities]
        if not self.by_encoder:
            return prompts.replace(chosen[0], self._empty)
        for each, region in zip(chosen, self._regions, strict=True):
            changed = {field: self._drop(prompts, field, slices, each) for field, slices in region.items()}
            prompts = prompts._replace(**changed)  # type: ignore[arg-type]
        return prompts

    def _drop(self, prompts: Prompts, field: str, slices: tuple[slice, ...], chosen: Tensor) -> Tensor | None:
        own, empty = getattr(prompts, field), getattr(self._empty, field)
        if own is None:
            return None
        part = torch.zeros_like(own[:1], dtype=torch.bool)
        part[(ALL, *slices)] = True
        return torch.where(part & chosen.view(-1, *[1] * (own.ndim - 1)), empty.to(own), own)
