"""MPS, the multi-dimensional preference score: CLIP with cross-attention from image tokens to selected text tokens.

    s(x, c) = exp(tau) cos(e(c), A(x, c)_1),   A = cross-attention blocks from image tokens to text tokens,

Here x is an image, c is a text, exp(tau) is a learned scale, e(c) is CLIP's embedding of the text, and A(x, c)_1 is the
first output token of A. Image tokens attend only to those text tokens i for which

    max_j <c_i, k_j> > 0.3 max_i max_j <c_i, k_j>

where c_i are CLIP's projected embeddings of the text tokens, and k_j are those of the tokens of a condition. The
condition is a list of words that describe good images.

Source: Zhang, Wang, Wu, Wang, Chen, Zhang, Wu, Wan, Zhang and Wang, Learning Multi-dimensional Human Preference for
Text-to-Image Generation, CVPR 2024, arXiv 2405.14705, with the layers, names and threshold of the authors' code, which
scores one image at a time.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.files.tensor_files import read_pickled_module
from lightning_modules.backbones.adaptation import frozen
from lightning_modules.backbones.weights import below, load, weights_file, weights_in
from lightning_modules.diffusion.golden_noise.rewards import CLIPReward

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
"""The authors' condition for the overall score."""
THRESHOLD = 0.3
HEAD = 64
"""Number of features of each attention head."""
UNSAVED = ("position_ids", "pos_emb")
"""Endings of the names of tensors that are not loaded, because their values can be computed from their sizes."""


class Norm(nn.Module):
    """Layer normalisation whose bias is the constant zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias)  # type: ignore[arg-type]


class SwiGLU(nn.Module):
    """Activation function: compute x silu(g), where x and g are the two halves of the input."""

    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * F.silu(gate)


def shared_key_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention in which all heads share the same keys and values.

    Queries are `[B, heads, N, D]`, keys and values are `[B, M, D]`, and the result is `[B, N, heads * D]`.
    """
    found = F.scaled_dot_product_attention(query, key[:, None], value[:, None], attn_mask=mask)
    return found.transpose(1, 2).flatten(2)


def in_heads(x: Tensor) -> Tensor:
    """Split features, `[B, N, heads * D]`, into heads; the result is `[B, heads, N, D]`."""
    return x.unflatten(2, (-1, HEAD)).transpose(1, 2)


class CrossAttention(nn.Module):
    """Cross-attention from image tokens to text tokens, in parallel with a feed-forward network."""

    def __init__(self, width: int, heads: int, inside: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.to_q = nn.Linear(width, heads * HEAD, bias=False)
        self.to_kv = nn.Linear(width, 2 * HEAD, bias=False)
        self.to_out = nn.Linear(heads * HEAD, width, bias=False)
        self.ff = nn.Sequential(
            nn.Linear(width, 2 * inside, bias=False), SwiGLU(), nn.Linear(inside, width, bias=False)
        )

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x)
        key, value = self.to_kv(text).chunk(2, dim=-1)
        return self.to_out(shared_key_attention(in_heads(self.to_q(x)), key, value, mask[:, None])) + self.ff(x)


class Rotation(nn.Module):
    """Rotary position embedding of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000 ** (-torch.arange(0, HEAD, 2) / HEAD))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the features of N tokens, `[..., N, D]`, by angles that are proportional to their positions."""
        inv_freq: Tensor = self.inv_freq  # type: ignore[assignment]
        angle = (torch.arange(x.shape[-2], device=x.device)[:, None] * inv_freq).repeat(1, 2).to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat((-second, first), dim=-1) * angle.sin()


class ParallelBlock(nn.Module):
    """Self-attention of image tokens, in parallel with a feed-forward network."""

    def __init__(self, width: int, heads: int, inside: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.rotary_emb = Rotation()
        self.sizes = (heads * HEAD, HEAD, HEAD, 2 * inside)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.sizes), bias=False)
        self.attn_out = nn.Linear(heads * HEAD, width, bias=False)
        self.ff_out = nn.Sequential(SwiGLU(), nn.Linear(inside, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value, hidden = self.fused_attn_ff_proj(self.norm(x)).split(self.sizes, dim=-1)
        query, key = self.rotary_emb(in_heads(query)), self.rotary_emb(key)
        return self.attn_out(shared_key_attention(query, key, value)) + self.ff_out(hidden)


class Residual(nn.Module):
    """Residual connection around a module `fn`: x + fn(x, ...)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        return x + self.fn(x, *given)


class CrossModel(nn.Module):
    """Blocks in which image tokens, `[B, N, D]`, attend to text tokens, `[B, M, D]`, that a mask, `[B, 1, M]`, selects.

    Args:
        width: D, number of features of a token.
        layers: number of blocks.
        heads: number of attention heads.
        inside: width of the feed-forward networks.
    """

    def __init__(self, width: int, layers: int, heads: int, inside: int) -> None:
        super().__init__()
        sizes = (width, heads, inside)
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(CrossAttention(*sizes)), Residual(ParallelBlock(*sizes))]) for _ in range(layers)
        )

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        layer: Any
        for layer in self.layers:
            across, within = layer
            x = within(across(x, text, mask))
        return x


def cross_model(weights: Mapping[str, Tensor], source: str) -> CrossModel:
    """Build the cross-attention blocks from their weights, whose shapes determine the sizes of the blocks."""
    try:
        width, query = (weights[f"layers.0.0.fn.{name}.weight"] for name in ("to_kv", "to_q"))
        inside = weights["layers.0.0.fn.ff.2.weight"].shape[1]
    except (KeyError, IndexError) as error:
        raise ValueError(f"{source} does not contain the weights of MPS: it lacks {error}") from error
    count = len({found[1] for key in weights if (found := re.match(r"layers\.(\d+)\.", key))})
    model = CrossModel(width.shape[1], count, len(query) // HEAD, inside)
    load(model, weights, source)
    return model


class MPS(CLIPReward):
    """Compute the multi-dimensional preference score (MPS) of images for texts; higher scores are better.

    The published file `MPS_overall_checkpoint.pth` is a pickle of the authors' model. Only its tensors are read; no
    code in the file is run. The probability that one image is preferred to another is the logistic function of the
    difference between their scores. The weights are not saved in checkpoints.

    Args:
        weights: published file, or file with the state dict of the published model.
        name_or_path: CLIP model from transformers, which defines the sizes and the tokenizer. MPS was fine-tuned from
            this model. See `CLIPReward`.
        local_files_only: load CLIP only from the Hugging Face cache, without network access.
    """

    def __init__(
        self,
        weights: str,
        name_or_path: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        local_files_only: bool = False,
    ) -> None:
        file = weights_file(weights)
        content = {
            key: value
            for key, value in weights_in(read_pickled_module(file), file).items()
            if not key.endswith(UNSAVED)
        }
        with torch.device("cpu"):  # the weights could not be loaded and checked on the meta device
            cross = cross_model(below(content, "cross_model."), weights)
        super().__init__(name_or_path, local_files_only=local_files_only)
        load(self.model, below(content, "model."), weights)
        self.cross = frozen(cross)
        frozen(self.model)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        return self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        read = self.model.text_model(self.tokens([*texts, CONDITION]).to(images.device))
        tokens = self.model.text_projection(read.last_hidden_state)
        text, condition = tokens[:-1], tokens[-1]
        similarity = (text @ condition.T).amax(dim=2)
        mask = similarity / similarity.amax(dim=1, keepdim=True) > THRESHOLD
        seen = self.model.visual_projection(self.model.vision_model(self.pixels(images)).last_hidden_state)
        found = self.cross(seen, text, mask[:, None])[:, 0]
        embedding = self.model.text_projection(read.pooler_output[:-1])
        return (self.model.logit_scale.exp() * F.cosine_similarity(embedding, found)).to(images.dtype)
