"""Noisy recordings of one split with the clean ones, held in memory, and crops cut out of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

Split = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class Recordings:
    """The noisy and clean recordings of one split, which may differ in length.

    Args:
        names: names of the recordings, `[N]`, without suffix.
        noisy: N arrays `[samples]`, int16.
        clean: N arrays of the same lengths and type.
        rate: samples a second.
        table: what each was made from, a row each, where they are drawn.
        table_name: of the file in the run directory that the table is written to.

    Raises:
        ValueError: if there is no recording, or a noisy one and its clean one differ in length, naming it.
    """

    names: Sequence[str]
    noisy: Sequence[NDArray[np.int16]]
    clean: Sequence[NDArray[np.int16]]
    rate: int
    table: pd.DataFrame | None = None
    table_name: str = "mixtures"

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a set of recordings is empty")
        for name, noisy, clean in zip(self.names, self.noisy, self.clean, strict=True):
            if noisy.shape != clean.shape:
                raise ValueError(f"{name}: the noisy recording has {len(noisy)} samples, the clean one {len(clean)}")

    def first(self, count: int | None) -> "Recordings":
        """Take the first recordings; None takes all."""
        lists = {key: getattr(self, key)[:count] for key in ("names", "noisy", "clean")}
        return replace(self, **lists, table=None if self.table is None else self.table[:count])


class SpeechSet(ABC):
    """A set of noisy and clean recordings: a plain object that reads its splits, and knows nothing of batches."""

    rate: int
    """Samples a second."""
    seed: int | None = None
    """Random seed of what is drawn; None takes that of the DataModule."""

    @abstractmethod
    def recordings(self, split: Split) -> Recordings:
        """Read a split.

        Raises:
            FileNotFoundError: if recordings are missing, saying what was expected where.
            ValueError: if a file is damaged or the set has no such split.
        """


class CropStore:
    """Recordings in one block of memory, out of which crops are cut, all of a batch at once.

    Args:
        recordings: N arrays `[samples]`; one that is shorter than a crop has zeros around it.
        length: of a crop, in samples.
    """

    def __init__(self, recordings: Sequence[NDArray[np.int16]], length: int) -> None:
        short = [max(length - len(each), 0) for each in recordings]
        whole = [np.pad(each, (lack // 2, lack - lack // 2)) for each, lack in zip(recordings, short, strict=True)]
        self.length = length
        self.values = torch.from_numpy(np.concatenate(whole))
        self.count = torch.tensor([len(each) for each in whole])
        self.start = self.count.cumsum(0) - self.count

    def to(self, device: torch.device) -> Self:
        """Move the recordings to a device, and return the store itself."""
        if self.values.device != device:
            for name in ("values", "count", "start"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def cut(self, index: Tensor, uniform: Tensor) -> Tensor:
        """Cut a crop out of each of some recordings.

        Args:
            index: `[B]`, int64: positions of the recordings.
            uniform: `[B]` in [0, 1): places, uniform over all.

        Returns:
            `[B, length]`, int16.
        """
        first = self.start[index] + (uniform * (self.count[index] - self.length + 1)).long()
        return self.values.as_strided((self.values.numel() - self.length + 1, self.length), (1, 1)).index_select(
            0, first
        )
