"""Corrections of training masks, kept once for a process and its loader workers, and saved with the checkpoint."""

import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LARGEST_IN_MEMORY = 1 << 25
"""Bytes of masks that go into shared memory, of which containers have little; more are mapped onto a file."""


class CorrectedMasks:
    """The masks that were corrected, uint8, each of its own size.

    Memory is shared with the loader's workers: they see a correction when they next fetch the sample. Large sets are
    mapped onto a file, which only what has been corrected takes room in.

    Args:
        size: `[N, 2]`, int64: height and width of each mask.
        path: the file; None keeps the set in shared memory.
        writes: whether this process writes the masks; where processes map the same file, one of them is enough.
    """

    def __init__(self, size: Tensor, path: Path | None = None, writes: bool = True) -> None:
        self.size = size
        self.start = torch.cat([torch.zeros(1, dtype=torch.int64), size.prod(dim=1).cumsum(0)])
        self.one_size = bool((size == size[0]).all())
        self.changed = torch.zeros(len(size), dtype=torch.bool).share_memory_()
        """`[N]`: which masks were corrected."""
        self.path = path
        self.writes = writes
        if path is None:
            self._pixels = torch.zeros(int(self.start[-1]), dtype=torch.uint8).share_memory_()
        else:
            self._pixels = self._mapped()

    def _mapped(self) -> Tensor:
        return torch.from_file(str(self.path), shared=True, size=int(self.start[-1]), dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_pixels": None} if self.path else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path:
            self._pixels = self._mapped()

    def mask(self, sample: int) -> Tensor:
        """The corrected mask of a sample, `[H, W]`; meaningless where `changed` is false."""
        return self._pixels[self.start[sample] : self.start[sample + 1]].view(*self.size[sample].tolist())

    def current(self, index: Tensor, given: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Masks with their corrections, where there are any.

        Args:
            index: `[B]`, int64: samples.
            given: their masks before correction, `[H, W]` each, uint8; not modified.
        """
        changed = self.changed[index]
        if not changed.any():
            return given
        if isinstance(given, Tensor):
            stored = self._pixels.view(len(self.size), *given.shape[1:])[index]
            return torch.where(changed[:, None, None], stored, given)
        samples = index.tolist()
        return [self.mask(i) if new else mask for i, new, mask in zip(samples, changed, given, strict=True)]

    def write(self, index: Tensor, label: Tensor) -> None:
        """Replaces masks.

        Args:
            index: `[n]`, int64.
            label: `[n, H, W]`, uint8; of a larger array than a sample's mask, the upper left part counts.
        """
        if self.writes:
            if self.one_size and len(index):
                height, width = self.size[0].tolist()
                self._pixels.view(-1, height, width)[index] = label[:, :height, :width]
            else:
                for sample, mask in zip(index.tolist(), label, strict=True):
                    height, width = self.size[sample].tolist()
                    self.mask(sample).copy_(mask[:height, :width])
        self.changed[index] = True

    def saved(self) -> dict[str, Tensor]:
        """Pack the changed samples, and their masks compressed one after another, for a checkpoint."""
        index = self.changed.nonzero().flatten()
        packed = [zlib.compress(self.mask(sample).numpy().tobytes(), level=1) for sample in index.tolist()]
        length = torch.tensor([len(mask) for mask in packed], dtype=torch.int64)
        joined = torch.frombuffer(bytearray(b"".join(packed) or b"\0"), dtype=torch.uint8)
        return {"index": index, "length": length, "masks": joined}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Takes the corrections of a checkpoint in place of all others.

        Raises:
            ValueError: if they are those of other masks.
        """
        self.changed.fill_(False)
        start = 0
        for sample, length in zip(saved["index"].tolist(), saved["length"].tolist(), strict=True):
            pixels = zlib.decompress(saved["masks"][start : start + length].numpy().tobytes())
            start += length
            if sample >= len(self.size) or len(pixels) != int(self.size[sample].prod()):
                raise ValueError(
                    f"the checkpoint's corrected mask of training sample {sample} does not fit the training set: it "
                    "was made with other images"
                )
            if self.writes:
                self.mask(sample).flatten().copy_(torch.frombuffer(bytearray(pixels), dtype=torch.uint8))
            self.changed[sample] = True
