"""New tokens for CLIP text encoders. The embeddings of these tokens are trained, and all other weights are frozen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.arguments import one_of, within
from lightning_modules.backbones.diffusion.pipelines import tokenizers_of
from lightning_modules.backbones.diffusion.text_to_image import TextToImage

Property = Literal["object", "style"]
TEMPLATES = {
    "object": [
        "{}", "a photo of {}", "a photo of the {}", "a close-up of {}", "a bright photo of {}", "a dark photo of {}",
        "a cropped photo of {}", "a blurry photo of {}", "a photo of one {}", "a picture of a small {}",
        "a picture of a large {}", "{} from the side",
    ],
    "style": [
        "in the style of {}", "a painting in the style of {}", "a drawing in the style of {}",
        "a landscape in the style of {}", "a portrait in the style of {}", "a bright picture in the style of {}",
        "a dark picture in the style of {}", "a detail of a picture in the style of {}",
    ],
}  # fmt: skip
"""Prompts for images without captions; `{}` is replaced with the new word."""


def templates_of(given: Property | Sequence[str]) -> list[str]:
    """Return the templates `given`, or the default templates of a property."""
    if isinstance(given, str):
        one_of(TEMPLATES, templates=given)
    found = list(TEMPLATES[given] if isinstance(given, str) else given)
    if wrong := [text for text in found or [""] if "{}" not in text]:
        raise ValueError(f"templates must contain {{}} for the new word, got {wrong[0]!r}")
    return found


MOST_TOKENS = 1000
"""Largest number of new tokens; prompts of pipelines have 77 to 512 tokens."""


class ExtendedEmbedding(nn.Embedding):
    """Token embedding in which only the new tokens, whose indices start at `first`, have trainable vectors.

    The trainable vectors are float32. Outputs have the precision of the frozen weights.
    """

    vectors: nn.Parameter
    first: int

    def forward(self, input: Tensor) -> Tensor:
        place = input - self.first
        is_new = (place >= 0) & (place < len(self.vectors))
        old = F.embedding(input.masked_fill(is_new, 0), self.weight)
        new = F.embedding(place.masked_fill(~is_new, 0), self.vectors).to(old.dtype)
        return torch.where(is_new[..., None], new, old)


def new_tokens(placeholder: str, count: int) -> list[str]:
    """Return the names of `count` new tokens, as diffusers names them: `<cat>`, `<cat>_1`, `<cat>_2`."""
    return [placeholder, *(f"{placeholder}_{number}" for number in range(1, count))]


def check_tokens(tokenizers: Sequence[Any], placeholder: str, initializer: str, count: int) -> None:
    """Reject a placeholder that a tokenizer already knows, and an initializer that is not exactly one token."""
    within(1, MOST_TOKENS, num_vectors=count)
    if not placeholder or placeholder.split() != [placeholder]:
        raise ValueError(f"placeholder_token must be one word without spaces, such as <cat>, got {placeholder!r}")
    for tokenizer in tokenizers:
        vocabulary = tokenizer.get_vocab()
        for token in new_tokens(placeholder, count):
            if token in vocabulary or f"{token.lower()}</w>" in vocabulary:
                raise ValueError(
                    f"placeholder_token must be new, but the tokenizer of the pipeline has {token!r}: choose another "
                    f"word, such as <my-{token.strip('<>')}>"
                )
        pieces = tokenizer.tokenize(initializer)
        if len(pieces) != 1:
            raise ValueError(
                f"initializer_token must be one token of the pipeline, but {initializer!r} is {len(pieces)} tokens: "
                f"choose another word"
            )


def check_captions(captions: Sequence[str] | None, placeholder: str) -> None:
    """Reject captions that do not contain the new word."""
    if without := [text for text in captions or () if placeholder not in text]:
        raise ValueError(
            f"captions must contain placeholder_token {placeholder}, but one is {without[0]!r}: add the word, or "
            f"remove all captions to train with templates"
        )


def check_pipeline_class(name: str) -> None:
    """Reject a pipeline class that cannot load learned embeddings."""
    if not hasattr(getattr(diffusers, name, None), "load_textual_inversion"):
        raise ValueError(
            f"network: diffusers cannot load a textual inversion into {name}; supported are Stable Diffusion, SDXL and "
            f"FLUX.1"
        )


def check_pipeline_files(network: Mapping[str, Any], placeholder: str, initializer: str, count: int) -> None:
    """Check a pipeline's class and the new tokens before the pipeline's weights are loaded.

    This function ignores missing and damaged files, which are reported when the pipeline is loaded.

    Args:
        network: constructor arguments of the model, including `pipeline`.
        placeholder: the new word, which is also the name of the first new token.
        initializer: existing token whose embedding initialises all vectors.
        count: number of new tokens, each with a trainable vector.
    """
    try:
        weights = network["weights"]
        name, tokenizers = tokenizers_of(weights["config"] or network["pipeline"], weights["local_files_only"])
    except (OSError, ValueError, ImportError, KeyError):
        return
    check_pipeline_class(name)
    check_tokens([*tokenizers.values()], placeholder, initializer, count)


def add_tokens(network: TextToImage, placeholder: str, initializer: str, count: int) -> list[ExtendedEmbedding]:
    """Add the tokens of a new word to every CLIP text encoder of a model, and to the tokenizers of these encoders.

    Args:
        network: frozen model, which is changed in place.
        placeholder: the new word, which is also the name of the first new token.
        initializer: existing token whose embedding initialises all vectors.
        count: number of new tokens, each with a trainable vector.

    Returns:
        The extended embedding layer of each CLIP text encoder, in the order of the pipeline's encoders.
    """
    pipeline = network.pipeline
    check_pipeline_class(type(pipeline).__name__)
    names = [name for name in ("", "_2") if _is_clip(getattr(pipeline, f"text_encoder{name}", None))]
    tokenizers = [getattr(pipeline, f"tokenizer{name}") for name in names]
    check_tokens(tokenizers, placeholder, initializer, count)
    found = []
    for name, tokenizer in zip(names, tokenizers, strict=True):
        encoder = getattr(pipeline, f"text_encoder{name}")
        weight = encoder.get_input_embeddings().weight
        start = weight[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(initializer)[0])]
        tokenizer.add_tokens(new_tokens(placeholder, count))
        tokens, width = weight.shape
        extended = ExtendedEmbedding(tokens, width, _weight=weight.data, _freeze=True)
        extended.vectors = nn.Parameter(start.detach().float().repeat(count, 1))
        extended.first = tokenizer.convert_tokens_to_ids(placeholder)
        encoder.set_input_embeddings(extended)
        found.append(extended)
    return found


def _is_clip(encoder: Any) -> bool:
    return type(encoder).__name__.startswith("CLIPTextModel")


def save_tokens(embeddings: Sequence[ExtendedEmbedding], placeholder: str, folder: Path) -> None:
    """Save the trained vectors of each text encoder in files for diffusers' `load_textual_inversion`.

    The vectors of the first encoder are saved to `learned_embeds.safetensors`, and those of the second encoder to
    `learned_embeds_2.safetensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, embedding in enumerate(embeddings, 1):
        vectors = embedding.vectors.detach().cpu().contiguous()
        save_file({placeholder: vectors}, folder / f"learned_embeds{f'_{number}' if number > 1 else ''}.safetensors")
