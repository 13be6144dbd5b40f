"""A text encoder without learned weights, for small image models."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.backbones.diffusion.text_to_image import Prompts


class HashedWords(nn.Module):
    """Embed each word as a fixed random vector. The embeddings of the empty text and of padding are zero.

    Args:
        features: D, number of features of a word's embedding.
        length: L, maximum number of words in a text; longer texts are truncated.
        vectors: number of hash buckets, each with its own vector. Different words may share a bucket.
    """

    vector: Tensor

    def __init__(self, features: int = 16, length: int = 4, vectors: int = 1024) -> None:
        super().__init__()
        at_least(1, features=features, length=length, vectors=vectors)
        self.length = length
        with torch.device("cpu"):
            drawn = torch.randn(vectors, features, generator=torch.Generator().manual_seed(0))
        self.register_buffer("vector", drawn)

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        """Embed B texts; the embedding is a tensor `[B, L, D]`."""
        vectors, features = self.vector.shape
        embedding = self.vector.new_zeros(len(texts), self.length, features)
        words = [(row, place, word) for row, text in enumerate(texts) for place, word in enumerate(text.split())]
        words = [entry for entry in words if entry[1] < self.length]
        if words:
            index = [(row, place, zlib.crc32(word.lower().encode()) % vectors) for row, place, word in words]
            rows, places, number = torch.tensor(index).to(self.vector.device, non_blocking=True).unbind(dim=1)
            embedding[rows, places] = self.vector[number]
        return Prompts(embedding)

    def empty_prompts(self, n: int) -> Prompts:
        """Embed the empty text n times."""
        return self.encode_prompts([""] * n)
