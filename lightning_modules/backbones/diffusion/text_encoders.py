"""Embedded prompts, and text encoders that can be moved to the CPU or removed from memory."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.arguments import within
from lightning_modules.backbones.diffusion.pipelines import quiet_transformers

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Prompts(NamedTuple):
    """A batch of B embedded prompts, which is an input of the denoising network."""

    embedding: Tensor
    """Embeddings of the L tokens of each prompt, `[B, L, D]`."""
    pooled: Tensor | None = None
    """Pooled embedding, `[B, P]`, for SDXL and flow-matching transformers."""
    mask: Tensor | None = None
    """Mask, `[B, L]`, which is 1 for a token and 0 for padding; used by transformers that mask padding."""
    second: Tensor | None = None
    """Token embeddings of a second text encoder, `[B, M, E]`; used only by Hunyuan-DiT."""
    second_mask: Tensor | None = None
    """Padding mask of `second`, `[B, M]`."""

    def rows(self, index: Any) -> "Prompts":
        """Select prompts by index."""
        return Prompts(*(None if value is None else value[index] for value in self))  # type: ignore[arg-type]

    def to(self, place: Any) -> "Prompts":
        """Move the embeddings to a device."""
        return Prompts(*(None if value is None else value.to(place) for value in self))  # type: ignore[arg-type]

    def replace(self, chosen: Tensor, other: "Prompts") -> "Prompts":
        """Replace the prompts for which the mask `chosen`, `[B]`, is true with `other`, which has B prompts or one."""

        def mixed(own: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            if own is None or theirs is None:
                return None
            return torch.where(chosen.view(-1, *[1] * (own.ndim - 1)), theirs.to(own), own)

        return Prompts(*map(mixed, self, other))  # type: ignore[arg-type]


def concatenate_prompts(prompts: Sequence[Prompts]) -> Prompts:
    """Concatenate batches of prompts for the same model."""
    return Prompts(*(None if values[0] is None else torch.cat(values) for values in zip(*prompts, strict=True)))  # type: ignore[arg-type]


@contextmanager
def quiet_truncation(pipeline: Any) -> Iterator[None]:
    """Silence diffusers' messages about truncated prompts, inside a `with` block.

    For each batch, these messages list the removed tokens of all prompts, including the padding.
    """

    def keeps(record: logging.LogRecord) -> bool:
        return "was truncated because" not in record.getMessage()

    logger = logging.getLogger(type(pipeline).__module__)
    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)


def tokens_of(
    pipeline: type, tokenizers: Mapping[str, Any], texts: Sequence[str]
) -> Iterator[tuple[str, int, list[int]]]:
    """Count the tokens of texts, for each CLIP, BERT or T5 tokenizer of a pipeline.

    Args:
        pipeline: class of the pipeline.
        tokenizers: tokenizers by their names. Other parts of the pipeline are ignored.
        texts: the texts.

    Yields:
        The name of the tokenizer, the number of tokens that its text encoder reads, and the number of tokens of each
        text.
    """
    longest = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    for name, tokenizer in tokenizers.items():
        if not (name.startswith("tokenizer") and type(tokenizer).__name__.startswith(("CLIP", "Bert", "T5"))):
            continue  # the texts of language models are parts of longer instructions
        reads = tokenizer.model_max_length
        if longest is not None and type(tokenizer).__name__.startswith("T5"):
            reads = longest.default
        with quiet_transformers():
            yield name, reads, [len(each) for each in tokenizer(list(texts), truncation=False)["input_ids"]]


def skip_last_layers(encoders: Sequence[Any], clip_skip: int, is_xl: bool) -> None:
    """Check the number of last layers that prompts skip, and let diffusers find the layers after them.

    Args:
        encoders: CLIP text encoders of a pipeline.
        clip_skip: number of layers.
        is_xl: whether the pipeline is an SDXL pipeline, which never reads the last layer.
    """
    within(1, min(each.config.num_hidden_layers for each in encoders) - is_xl, clip_skip=clip_skip)
    for each in encoders:
        if not hasattr(each, "text_model"):  # diffusers 0.42 reads this attribute, which transformers 5 has removed
            vars(each)["text_model"] = each  # not a submodule


class TextEncoders(nn.Module):
    """Mixin that embeds prompts with the text encoders of a diffusers pipeline.

    Each model family implements `embed`. In some families, text encoders contain most of a pipeline's weights. They
    can therefore be kept on the CPU (`offload_text_encoders`), or removed from memory once all texts are known
    (`free_text_encoders`).
    """

    pipeline: Any
    network: Any
    text_encoders: nn.ModuleList
    _known: tuple[dict[str, Prompts], Prompts] | None = None
    _further: tuple[str, ...] = ()
    trains_text: bool = False
    """Whether the text encoders have adapters, such that embeddings have gradients in training."""

    def embed(self, texts: list[str], device: torch.device) -> Prompts:
        """Embed B texts, each truncated or padded to the same length; the text encoders are on `device`."""
        raise NotImplementedError

    def embedded_negative(self, texts: list[str], device: torch.device) -> Prompts:
        """Embed B texts in the way the pipeline embeds negative prompts; the text encoders are on `device`."""
        return self.embed(texts, device)

    def embedded_empty(self, n: int, device: torch.device) -> Prompts:
        """Embed n empty prompts, as the pipeline does for guidance; the text encoders are on `device`."""
        return self.embedded_negative([""] * n, device)

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        """Embed B texts, each truncated or padded to the encoder's length; the result is on the network's device."""
        if self._known is None:
            with self._gradients():
                return self.embed(list(texts), self._encoding_device()).to(self._network_device())
        unknown = [text for text in texts if text not in self._known[0]]
        if unknown:
            raise ValueError(f"the text encoders were freed after caching, and cannot embed the prompt {unknown[0]!r}")
        return concatenate_prompts([self._known[0][text] for text in texts]).to(self._network_device())

    def empty_prompts(self, n: int) -> Prompts:
        """Embed n empty prompts, as the pipeline does for guidance; the embeddings are on the network's device."""
        if self._known is None:
            with self._gradients():
                return self.embedded_empty(n, self._encoding_device()).to(self._network_device())
        return self._known[1].rows([0] * n).to(self._network_device())

    @torch.no_grad()
    def negative_prompts(self, text: str, n: int) -> Prompts:
        """Embed a negative prompt n times, as the pipeline does; an empty string means the empty prompt."""
        if not text:
            return self.empty_prompts(n)
        if self._known is not None:
            return self.encode_prompts([text] * n)
        return self.embedded_negative([text] * n, self._encoding_device()).to(self._network_device())

    def offload_text_encoders(self) -> None:
        """Keep the text encoders on the CPU from now on, even if the model is moved to a different device."""
        encoders = self.text_encoders.to("cpu")
        del self.text_encoders
        self.__dict__["text_encoders"] = encoders  # no longer a submodule, so `to` does not move it

    def keep_embedded(self, texts: Sequence[str]) -> None:
        """Register additional texts that `free_text_encoders` must embed, so that their embeddings stay available."""
        self._further = (*self._further, *texts)

    def free_text_encoders(self, texts: Sequence[str]) -> None:
        """Embed the given texts and the empty prompt, and then remove the text encoders from memory.

        If all parameters of the network are trained, the text encoders are not removed but moved to the CPU, because
        they are saved with the model.

        Args:
            texts: all texts that will be needed afterwards, except those passed to `keep_embedded`.
        """
        if self._known is not None:
            return
        if all(parameter.requires_grad for parameter in self.network.parameters()):
            self.offload_text_encoders()
            return
        embedded = {text: self.encode_prompts([text]).to("cpu") for text in dict.fromkeys([*texts, *self._further])}
        self._known = embedded, self.empty_prompts(1).to("cpu")
        for parameter in self.text_encoders.parameters():
            parameter.data = parameter.data.new_empty(0)  # in place, because DistributedDataParallel keeps references
        for name in ENCODERS:
            if getattr(self.pipeline, name, None) is not None:
                setattr(self.pipeline, name, None)
        self.__dict__.pop("text_encoders", None)
        self.text_encoders = nn.ModuleList()

    def _gradients(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self.trains_text and torch.is_grad_enabled())

    def _encoding_device(self) -> torch.device:
        return next(self.text_encoders.parameters()).device

    def _network_device(self) -> torch.device:
        return next(self.network.parameters()).device
