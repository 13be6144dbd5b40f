"""Interface of labelled text datasets.

A dataset reads its splits, and its DataModule tokenizes the texts.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from datamodules.sets import Source, SplitSet


@dataclass(frozen=True)
class Texts(Source):
    """The texts of one split, in memory.

    Args:
        first: texts, or the first text of each pair, `[N]`.
        second: second text of each pair, `[N]`. None for single texts.
        label: labels `[N]`, int64 for classification or float32 for regression.
    """

    first: Sequence[str]
    second: Sequence[str] | None
    label: Tensor
    in_memory = True

    def __post_init__(self) -> None:
        lengths = [len(part) for part in (self.first, self.second, self.label) if part is not None]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(f"there must be as many texts as labels, and at least one, got {lengths}")


class TextSet(SplitSet[Texts], ABC):
    """Dataset of texts, or of text pairs, with one label each."""
