"""Noisy and clean recordings of one split in memory, and classes that crop recordings."""

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
    """Noisy and clean recordings of one split. The recordings may have different lengths.

    Args:
        names: names of the recordings without suffix, `[N]`.
        noisy: noisy recordings, N arrays `[samples]`, int16.
        clean: clean recordings, N arrays with the lengths and the dtype of `noisy`.
        sample_rate: sample rate in Hz.
        table: table with the sources or parameters of each generated recording.
        table_name: file name of the table in the run directory.
    """

    names: Sequence[str]
    noisy: Sequence[NDArray[np.int16]]
    clean: Sequence[NDArray[np.int16]]
    sample_rate: int
    table: pd.DataFrame | None = None
    table_name: str = "mixtures"

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a dataset has no recordings")
        for name, noisy, clean in zip(self.names, self.noisy, self.clean, strict=True):
            if noisy.shape != clean.shape:
                raise ValueError(
                    f"{name}: the noisy recording has {len(noisy)} samples, but the clean recording has {len(clean)}"
                )

    def first(self, count: int | None) -> "Recordings":
        """Return the first `count` recordings. None means all recordings."""
        lists = {key: getattr(self, key)[:count] for key in ("names", "noisy", "clean")}
        return replace(self, **lists, table=None if self.table is None else self.table[:count])


class SpeechSet(ABC):
    """Interface of datasets of noisy and clean recordings.

    A dataset reads its splits, and its DataModule decides which recordings form a batch.
    """

    sample_rate: int
    """Sample rate in Hz."""
    seed: int | None = None
    """Seed of generated data. None means the seed of the DataModule."""

    @abstractmethod
    def recordings(self, split: Split) -> Recordings:
        """Read the recordings of a split.

        Raises:
            FileNotFoundError: if recordings are missing. The message names the expected path.
            ValueError: if a file is damaged, or if the dataset does not have this split.
        """


class CropStore:
    """Recordings in one block of memory. All crops of a batch are cut in one operation.

    Args:
        recordings: N arrays `[samples]`. Recordings that are shorter than a crop are zero-padded on both sides.
        length: length of a crop, in audio samples.
    """

    def __init__(self, recordings: Sequence[NDArray[np.int16]], length: int) -> None:
        short = [max(length - len(each), 0) for each in recordings]
        whole = [np.pad(each, (lack // 2, lack - lack // 2)) for each, lack in zip(recordings, short, strict=True)]
        self.length = length
        self.values = torch.from_numpy(np.concatenate(whole))
        self.count = torch.tensor([len(each) for each in whole])
        self.start = self.count.cumsum(0) - self.count

    def to(self, device: torch.device) -> Self:
        """Move the recordings to a device, and return this object."""
        if self.values.device != device:
            for name in ("values", "count", "start"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def crop(self, index: Tensor, uniform: Tensor) -> Tensor:
        """Cut one crop from each of the selected recordings.

        Args:
            index: positions of the recordings, `[B]`, int64.
            uniform: uniform numbers in [0, 1), `[B]`, that determine the positions of the crops.

        Returns:
            Crops `[B, length]`, int16.
        """
        first = self.start[index] + (uniform * (self.count[index] - self.length + 1)).long()
        return self.values.as_strided((self.values.numel() - self.length + 1, self.length), (1, 1)).index_select(
            0, first
        )
