"""Corrected training masks. A rank shares them with its DataLoader workers and saves them in checkpoints."""

import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LARGEST_IN_MEMORY = 1 << 25
"""Largest number of bytes in shared memory, which containers limit. Larger sets use a memory-mapped file."""


class CorrectedMasks:
    """Corrected uint8 masks, which may have different sizes.

    DataLoader workers share the memory of the masks, so they use a corrected mask the next time they fetch its sample.
    For large datasets, the masks are memory-mapped from a sparse file, in which only corrected masks take disk space.

    Args:
        size: height and width of each mask, `[N, 2]`, int64.
        path: path of the memory-mapped file. None means shared memory.
        writes: whether this rank writes corrections to the file. If several ranks map the same file, only one of them
            needs to write.
    """

    def __init__(self, size: Tensor, path: Path | None = None, writes: bool = True) -> None:
        self.size = size
        self.start = torch.cat([torch.zeros(1, dtype=torch.int64), size.prod(dim=1).cumsum(0)])
        self.one_size = bool((size == size[0]).all())
        self.changed = torch.zeros(len(size), dtype=torch.bool).share_memory_()
        """Boolean tensor `[N]`: whether each mask has been corrected."""
        self.path = path
        self.writes = writes
        if path is None:
            self._pixels = torch.zeros(int(self.start[-1]), dtype=torch.uint8).share_memory_()
        else:
            self._pixels = self._map()

    def _map(self) -> Tensor:
        return torch.from_file(str(self.path), shared=True, size=int(self.start[-1]), dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_pixels": None} if self.path else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path:
            self._pixels = self._map()

    def mask(self, sample: int) -> Tensor:
        """Return the corrected mask `[H, W]` of a sample.

        The result is undefined if `changed` is false for the sample.
        """
        return self._pixels[self.start[sample] : self.start[sample + 1]].view(*self.size[sample].tolist())

    def current(self, index: Tensor, given: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Replace the masks of corrected samples by their corrections.

        Args:
            index: positions of the samples, `[B]`, int64.
            given: original uint8 masks `[H, W]` of these samples. They are not modified.
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
        """Store corrected masks of samples.

        Args:
            index: positions of the samples, `[n]`, int64.
            label: corrected masks `[n, H, W]`, uint8. If a mask is larger than the sample, its top left part is stored.
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

    def checkpoint_state(self) -> dict[str, Tensor]:
        """Return the positions and the compressed masks of all corrected samples, for a checkpoint."""
        index = self.changed.nonzero().flatten()
        packed = [zlib.compress(self.mask(sample).numpy().tobytes(), level=1) for sample in index.tolist()]
        length = torch.tensor([len(mask) for mask in packed], dtype=torch.int64)
        joined = torch.frombuffer(bytearray(b"".join(packed) or b"\0"), dtype=torch.uint8)
        return {"index": index, "length": length, "masks": joined}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Replace all corrections with the corrections in a checkpoint.

        Raises:
            ValueError: if the corrections in the checkpoint do not fit the masks.
        """
        self.changed.fill_(False)
        start = 0
        for sample, length in zip(saved["index"].tolist(), saved["length"].tolist(), strict=True):
            pixels = zlib.decompress(saved["masks"][start : start + length].numpy().tobytes())
            start += length
            if sample >= len(self.size) or len(pixels) != int(self.size[sample].prod()):
                raise ValueError(
                    f"the checkpoint's corrected mask of training sample {sample} does not fit the training set: "
                    "the checkpoint belongs to other images"
                )
            if self.writes:
                self.mask(sample).flatten().copy_(torch.frombuffer(bytearray(pixels), dtype=torch.uint8))
            self.changed[sample] = True
