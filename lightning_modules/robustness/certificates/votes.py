"""Count a classifier's votes on noisy images, in full batches for many images at a time.

Draw number d of an image and a stage of its certification is x + sigma e, where e depends on (seed, image, stage, d)
alone: blocks of 100 draws are seeded one by one. So neither the batch size nor the number of processes changes what
the classifier is shown. What it answers is the same too, unless two logits are so close that the order of a sum, which
may change with the batch size, decides between them. Other kinds of device draw other noise.

How often that is, was measured on a CPU with a ResNet-20 that had seen no noise and 6,000 noisy copies of six CIFAR-10
images (`tests/benchmarks/test_flipped_votes.py`): batches of 77 in place of 1000 changed no vote, in float32 and under
bfloat16 autocast, so the rate is below 0.05 % at 95 % confidence; nor did the layout `channels_last`, which under
bfloat16 moves logits by up to 0.06.

Noise is drawn and added in float32, and the certificate is that of exact arithmetic, here as in the literature. Voracek
and Hein (Sound Randomized Smoothing in Floating-Point Arithmetic, ICLR 2023, arXiv 2207.07209) show that the difference
can be abused, and how to close it for quantised images.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.randomness.generators import bits_of
from lightning_modules.interfaces import SmoothedClassifier
from lightning_modules.resumable.tested_images import LabelledImage
from lightning_modules.robustness.certificates.modes import BLOCK, Certificate, Certifying, Draws, Mode, Radius, Votes
from lightning_modules.robustness.certificates.statistics import gaussian_radius


class GaussianSmoothing:
    """The smoothed classifier of Cohen et al. (2019): one vote on x + sigma e, and the radius sigma Phi^-1(p).

    Args:
        network: maps images `[B, C, H, W]` to logits `[B, K]`.
    """

    certificate = "Cohen et al. 2019"

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return self.network(torch.add(image, noise, alpha=sigma))[None]

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        return gaussian_radius(probability[0], sigma)


class BlockNoise:
    """Standard normal noise in float32, a pure function of (seed, image, stage, block) on each kind of device.

    Generators of some devices keep 32 bits of a seed. Seeds of one image are consecutive, so its blocks differ even
    there.

    Args:
        seed: seed of all noise.
        device: device on which it is drawn.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.generator = torch.Generator(device)
        self._latest: tuple[tuple[int, int, int], Tensor] | None = None

    def block(self, index: int, stage: int, block: int, shape: torch.Size) -> Tensor:
        """Draw one block.

        Args:
            index: position of the image in its set.
            stage: number of the stream of noise, below 4096.
            block: number of the block, below 2^20.
            shape: `[C, H, W]`, shape of the image.

        Returns:
            `[BLOCK, C, H, W]`.
        """
        key = (index, stage, block)
        if self._latest is None or self._latest[0] != key:  # batches may end inside a block
            first = bits_of(self.seed, index)
            self.generator.manual_seed((first + (stage << 20) + block) % 2**64)
            device = self.generator.device
            noise = torch.randn(BLOCK, *shape, generator=self.generator, device=device, dtype=torch.float32)
            self._latest = key, noise
        return self._latest[1]

    def draws(self, index: int, stage: int, start: int, stop: int, shape: torch.Size) -> list[Tensor]:
        """Give draws `start` to `stop` in pieces `[., C, H, W]`, a piece for each block that they lie in."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        return [
            self.block(index, stage, block, shape)[max(start - block * BLOCK, 0) : stop - block * BLOCK]
            for block in blocks
        ]


@dataclass(frozen=True)
class Certified:
    """A finished image."""

    index: int
    label: int
    certificate: Certificate
    seconds: float
    """Its share, by draws, of the time of the batches that it was in."""


@dataclass(eq=False)
class _InProgress:
    """An image that waits for votes."""

    image: LabelledImage
    certifying: Certifying
    request: Draws
    votes: Votes
    launched: int
    """The first draw of the request that is in no batch yet."""
    counted: int = 0
    seconds: float = 0.0


class _Part(NamedTuple):
    """Draws of one image in one batch."""

    item: _InProgress
    start: int
    stop: int


class _Launched(NamedTuple):
    """A batch whose votes are on their way to the host."""

    parts: list[_Part]
    counts: Tensor
    arrived: torch.cuda.Event | None


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class VoteCounter:
    """Certifies images with full batches, in which draws of several images may lie side by side.

    Images that came first are served first, so few are under way at a time. Votes are counted on the device, and read
    by the host one batch later, while the next one is computed:

                  plan and launch batch 1
                  plan and launch batch 2    while the device computes 1
        read 1,   plan and launch batch 3    while it computes 2
        read 2,   plan and launch batch 4    while it computes 3

    Batch 3 is the first that knows the votes of batch 1. An image that waits for them has no draws in batch 2, and the
    next images take its room.

    Args:
        smoothed: gives logits of noisy images, and a radius.
        mode: decides how many draws an image is given.
        sigma: standard deviation of the noise, in pixel units.
        batch_size: number of draws in a batch of each process.
        seed: seed of the noise.
        device: device of the images.
        rank: this process, where all processes share the draws of each image, and otherwise 0.
        world_size: number of processes that share the draws of each image.
        add_over_processes: sums an int64 tensor over these processes, in place; every process calls it equally often.
        after_batch: quick function, called with `num_draws` after each batch when the images that it finished have been
            taken; it may end the certification by an exception.
    """

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        mode: Mode,
        sigma: float,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        add_over_processes: Callable[[Tensor], None] | None = None,
        after_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.smoothed = smoothed
        self.mode = mode
        self.sigma = sigma
        self.batch_size = batch_size
        self.noise = BlockNoise(seed, device)
        self.device = device
        self.rank = rank
        self.world_size = world_size
        self.add_over_processes = add_over_processes
        self.after_batch = after_batch
        self.num_draws = 0
        """Draws evaluated so far by all the processes that share them."""
        self._waiting: list[_InProgress] = []
        self._kinds: tuple[int, int] | None = None
        # One object for all images, by which a mode may keep what it computed for this radius.
        self._radius: Radius = lambda probability: smoothed.certified_radius(probability, sigma)

    def certify(self, images: Iterator[LabelledImage]) -> Iterator[Certified]:
        """Certify images as they come.

        Args:
            images: images of one shape, taken when there is room for another one.

        Yields:
            Each image once, in the order in which they are finished.

        Raises:
            ValueError: if the network's logits are not numbers or not of the shape that is documented.
        """
        before: _Launched | None = None
        since = time.perf_counter()
        while (parts := self._next_batch(images)) or before is not None:
            launched = self._launch(parts) if parts else None
            if before is not None:
                finished = self._count(before, since)
                since = time.perf_counter()
                yield from finished
            before = launched
            if self.after_batch is not None:
                self.after_batch(self.num_draws)

    def _next_batch(self, images: Iterator[LabelledImage]) -> list[_Part]:
        """Choose the draws of one batch of every process, the oldest images' first."""
        parts: list[_Part] = []
        room = self.batch_size * self.world_size
        position = 0
        while room:
            if position == len(self._waiting):
                image = next(images, None)
                if image is None:
                    break
                self._waiting.append(self._begin(image))
            item = self._waiting[position]
            size = min(item.request.stop - item.launched, room)
            if size:
                parts.append(_Part(item, item.launched, item.launched + size))
                item.launched += size
                room -= size
            position += 1
        return parts

    def _begin(self, image: LabelledImage) -> _InProgress:
        streams, classes = self._kinds or self._probe(image.image)
        certifying = self.mode.certify(self._radius, image.label)
        request = next(certifying)
        return _InProgress(image, certifying, request, np.zeros((streams, classes), np.int64), request.start)

    @torch.no_grad()
    def _probe(self, image: Tensor) -> tuple[int, int]:
        logits = self.smoothed.smoothed_logits(image[None], torch.zeros_like(image)[None], self.sigma)
        if logits.ndim != 3 or logits.shape[1] != 1:
            raise ValueError(
                f"logits of one image must be [1, K], or [S, 1, K] from smoothed_logits; got {list(logits.shape)}, "
                f"with the votes counted first"
            )
        self._kinds = logits.shape[0], logits.shape[2]
        return self._kinds

    @torch.no_grad()
    def _launch(self, parts: list[_Part]) -> _Launched:
        assert self._kinds is not None
        streams, classes = self._kinds
        counts = torch.zeros(len(parts), streams, classes + 1, dtype=torch.int64, device=self.device)
        own = self._own(parts)
        if own:
            image = _joined([part.item.image.image.expand(part.stop - part.start, -1, -1, -1) for _, part in own])
            noise = _joined([piece for _, part in own for piece in self._noise(part)])
            logits = self.smoothed.smoothed_logits(image, noise, self.sigma)
            vote = torch.where(logits.isnan().any(dim=2), classes, logits.argmax(dim=2))
            place = torch.arange(len(parts), device=self.device)
            place = _joined([place[number].expand(part.stop - part.start) for number, part in own])
            cell = (place * streams + torch.arange(streams, device=self.device)[:, None]) * (classes + 1) + vote
            counts.view(-1).scatter_add_(0, cell.flatten(), torch.ones_like(cell).flatten())
        if self.add_over_processes is not None:
            self.add_over_processes(counts)
        self.num_draws += sum(part.stop - part.start for part in parts)
        if self.device.type != "cuda":
            return _Launched(parts, counts.cpu(), None)
        host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
        host.copy_(counts, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return _Launched(parts, host, arrived)

    def _noise(self, part: _Part) -> list[Tensor]:
        image = part.item.image
        return self.noise.draws(image.index, part.item.request.stage, part.start, part.stop, image.image.shape)

    def _own(self, parts: list[_Part]) -> list[tuple[int, _Part]]:
        """Find this process's draws, with the numbers of their parts: a run of equal length for each process."""
        total = sum(part.stop - part.start for part in parts)
        share = -(-total // self.world_size)
        first, last = self.rank * share, (self.rank + 1) * share
        own: list[tuple[int, _Part]] = []
        passed = 0
        for number, part in enumerate(parts):
            start, stop = max(part.start, part.start + first - passed), min(part.stop, part.start + last - passed)
            if start < stop:
                own.append((number, _Part(part.item, start, stop)))
            passed += part.stop - part.start
        return own

    def _count(self, batch: _Launched, since: float) -> list[Certified]:
        """Give each image its votes of a batch, and finish those that need no more."""
        if batch.arrived is not None:
            batch.arrived.synchronize()
        elapsed = time.perf_counter() - since
        total = sum(part.stop - part.start for part in batch.parts)
        finished = []
        for part, votes in zip(batch.parts, batch.counts.numpy(), strict=True):
            item, size = part.item, part.stop - part.start
            if votes[:, -1].any():
                raise ValueError(
                    f"the network's logits are NaN for {votes[:, -1].sum()} of {size} noisy copies of image "
                    f"{item.image.index}"
                )
            item.votes = item.votes + votes[:, :-1]
            item.counted += size
            item.seconds += elapsed * size / total
            if item.counted == item.request.stop - item.request.start:
                try:
                    item.request = item.certifying.send(item.votes)
                except StopIteration as end:
                    self._waiting.remove(item)
                    finished.append(Certified(item.image.index, item.image.label, end.value, item.seconds))
                else:
                    item.votes = np.zeros_like(item.votes)
                    item.launched, item.counted = item.request.start, 0
        return finished
