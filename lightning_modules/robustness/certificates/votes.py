"""Count the votes of a classifier on noisy copies of images, in full batches.

A batch may contain copies of several images. Sample d of image x in a stage of its certification is x + sigma e, where
the noise e depends only on (seed, image, stage, d). Each block of 100 samples has a separate seed. The inputs of the
classifier therefore do not depend on the batch size or the world size. The votes do not depend on them either, with one
exception: if two logits are very close, the vote depends on rounding errors, which can change with the batch size.
Different types of device generate different noise.

We measured how many votes change because of rounding (`tests/benchmarks/test_flipped_votes.py`). The measurement used a
CPU, a ResNet-20 trained without noise, and 6,000 noisy copies of six CIFAR-10 images. Changing the batch size from 1000
to 77 changed no vote, in float32 or with bfloat16 autocast. At 95 % confidence, the rate of changed votes is therefore
below 0.05 %. The memory format `channels_last` changed no vote either, although it changes logits by up to 0.06 under
bfloat16 autocast.

As in the literature, noise is sampled and added in float32, whereas the certificate assumes exact arithmetic. Voracek
and Hein (Sound Randomized Smoothing in Floating-Point Arithmetic, ICLR 2023, arXiv 2207.07209) show how this gap can be
exploited, and how it can be closed for quantised images.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, positive
from datamodules.randomness.generators import bits_of, sample_integers
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import SmoothedClassifier
from lightning_modules.robustness.certificates.modes import (
    BLOCK,
    SCORE_UNITS,
    Certificate,
    Certifying,
    Draws,
    FixedSampling,
    Mode,
    Radius,
    Votes,
)
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.training.evaluation_mode import evaluating
from lightning_modules.training.tested_images import LabelledImage


class GaussianSmoothing:
    """Smoothed classifier of Cohen et al. (2019): each noisy image x + sigma e gives one vote; R = sigma Phi^-1(p).

    Args:
        network: network that maps images `[B, C, H, W]` to logits `[B, K]`.
    """

    certificate = "Cohen et al. 2019"

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return self.network(torch.add(image, noise, alpha=sigma))[None]

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        return gaussian_radius(probability[0], sigma)


class BlockNoise:
    """Generator of reproducible standard normal noise in float32.

    On each type of device, the noise is a pure function of (seed, image, stage, block). The random generators of some
    devices use only 32 bits of a seed. Even on these devices, the blocks of one image differ, because their seeds are
    consecutive integers.

    Args:
        seed: seed of all noise.
        device: device on which the noise is generated.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.generator = torch.Generator(device)
        self._latest: tuple[tuple[int, int, int], Tensor] | None = None

    def block(self, index: int, stage: int, block: int, shape: torch.Size) -> Tensor:
        """Generate one block of noise samples.

        Args:
            index: index of the image in the dataset.
            stage: index of the noise stream, below 4096.
            block: index of the block, below 2^20.
            shape: shape of the image, `[C, H, W]`.

        Returns:
            `[BLOCK, C, H, W]`.
        """
        key = (index, stage, block)
        if self._latest is None or self._latest[0] != key:  # the previous batch may have ended within a block
            first = bits_of(self.seed, index)
            self.generator.manual_seed((first + (stage << 20) + block) % 2**64)
            device = self.generator.device
            noise = torch.randn(BLOCK, *shape, generator=self.generator, device=device, dtype=torch.float32)
            self._latest = key, noise
        return self._latest[1]

    def draws(self, index: int, stage: int, start: int, stop: int, shape: torch.Size) -> list[Tensor]:
        """Return the noise samples from `start` up to `stop`, exclusive: one tensor `[., C, H, W]` per block."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        return [
            self.block(index, stage, block, shape)[max(start - block * BLOCK, 0) : stop - block * BLOCK]
            for block in blocks
        ]


@dataclass(frozen=True)
class Certified:
    """Certification result of an image."""

    index: int
    label: int
    certificate: Certificate
    seconds: float
    """Computing time of the image, in seconds. The time of a batch is divided among its images by sample counts."""


@dataclass(eq=False)
class _InProgress:
    """An image that is being certified."""

    image: LabelledImage
    certifying: Certifying
    request: Draws
    votes: Votes
    launched: int
    """Index of the first requested noise sample that has not yet been placed in a batch."""
    counted: int = 0
    seconds: float = 0.0


class _Part(NamedTuple):
    """Those samples of a batch that belong to one image."""

    item: _InProgress
    start: int
    stop: int


class _Launched(NamedTuple):
    """A batch whose vote counts are being copied to the host."""

    parts: list[_Part]
    counts: Tensor
    arrived: torch.cuda.Event | None


def _scores(logits: Tensor) -> Tensor:
    """Compute scores, followed by their squares, `[B, 2 S, K + 1]`, from logits `[S, B, K]`.

    See `Mode.soft` for the definition of a score. The last column marks samples whose logits contain NaN.
    """
    probability = at_least_float32(logits).softmax(dim=2)
    score = (probability.nan_to_num(nan=0.0) * SCORE_UNITS).floor().long().clamp(max=SCORE_UNITS)
    broken = probability.isnan().any(dim=2, keepdim=True).long()
    rows = [torch.cat([score, broken], dim=2), torch.cat([score.square(), torch.zeros_like(broken)], dim=2)]
    return torch.cat(rows).transpose(0, 1)


def _count_samples(counts: Tensor, place: Tensor, logits: Tensor, soft: bool) -> None:
    """Add the votes or scores given by logits `[S, B, K]` to `counts`, `[parts, rows, K + 1]`.

    Sample b is added to the part with the index `place[b]`.
    """
    if soft:
        counts.index_add_(0, place, _scores(logits))
        return
    streams, _, classes = logits.shape
    vote = torch.where(logits.isnan().any(dim=2), classes, logits.argmax(dim=2))
    cell = (place * streams + torch.arange(streams, device=counts.device)[:, None]) * (classes + 1) + vote
    counts.view(-1).scatter_add_(0, cell.flatten(), torch.ones_like(cell).flatten())


def _join(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class VoteCounter:
    """Vote counter that certifies images in batches that are always full.

    To fill a batch, samples of several images are combined. Images are processed in the order of arrival, so that only
    a few images are in progress at any time. The device counts the votes. The host reads the counts of a batch while
    the device computes the next batch:

                  plan and launch batch 1
                  plan and launch batch 2    while the device computes 1
        read 1,   plan and launch batch 3    while it computes 2
        read 2,   plan and launch batch 4    while it computes 3

    Batch 3 is therefore the first batch that can depend on the votes of batch 1. If an image needs the votes of batch 1
    to continue, it has no samples in batch 2, which is filled with samples of the next images.

    Args:
        smoothed: smoothed classifier; it computes the logits of noisy images, and the certified radius.
        mode: sampling mode; it decides how many samples of each image are evaluated.
        sigma: standard deviation of the noise, in pixel units.
        batch_size: number of samples per batch and rank.
        seed: seed of the noise.
        device: device of the images.
        rank: rank of this process if the samples of an image are distributed over ranks, otherwise 0.
        world_size: number of ranks over which the samples of an image are distributed.
        add_over_processes: function that sums an int64 tensor over the `world_size` ranks, in place. All ranks call
            this function equally often.
        after_batch: function that is called with `num_draws` after each batch, once the caller has consumed the results
            of the batch. This function should be fast. If it raises an exception, the certification stops.
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
        """Number of samples evaluated so far, summed over the `world_size` ranks."""
        # On a CPU, fresh memory for the activations of more samples costs more than calls of the network.
        self._at_once = min(batch_size, BLOCK) if device.type == "cpu" else batch_size
        self._waiting: list[_InProgress] = []
        self._kinds: tuple[int, int] | None = None
        # The same function object is used for all images, so that a mode can cache results for it.
        self._radius: Radius = lambda probability: smoothed.certified_radius(probability, sigma)

    def certify(self, images: Iterator[LabelledImage]) -> Iterator[Certified]:
        """Certify images from an iterator.

        Args:
            images: iterator over images of equal shape. The next image is read when a batch has room for more samples.

        Yields:
            The result of each image, in order of completion.

        Raises:
            ValueError: if logits are NaN, or do not have the shape `[S, B, K]`.
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
        """Choose the samples of the next batch, which all ranks share; images that arrived first have priority."""
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
        votes = np.zeros((streams * (2 if self.mode.soft else 1), classes), np.int64)
        return _InProgress(image, certifying, request, votes, request.start)

    @torch.no_grad()
    def _probe(self, image: Tensor) -> tuple[int, int]:
        logits = self.smoothed.smoothed_logits(image[None], torch.zeros_like(image)[None], self.sigma)
        if logits.ndim != 3 or logits.shape[1] != 1:
            raise ValueError(
                f"logits of one image must be [1, K], or [S, 1, K] if smoothed_logits returns S votes; got "
                f"{list(logits.shape)} from smoothed_logits"
            )
        self._kinds = logits.shape[0], logits.shape[2]
        return self._kinds

    @torch.no_grad()
    def _launch(self, parts: list[_Part]) -> _Launched:
        assert self._kinds is not None
        streams, classes = self._kinds
        rows = streams * (2 if self.mode.soft else 1)
        counts = torch.zeros(len(parts), rows, classes + 1, dtype=torch.int64, device=self.device)
        own = self._own(parts)
        if own:
            image = _join([part.item.image.image.expand(part.stop - part.start, -1, -1, -1) for _, part in own])
            noise = _join([piece for _, part in own for piece in self._noise(part)])
            pieces = zip(image.split(self._at_once), noise.split(self._at_once), strict=True)
            logits = torch.cat([self.smoothed.smoothed_logits(*piece, self.sigma) for piece in pieces], dim=1)
            place = torch.arange(len(parts), device=self.device)
            place = _join([place[number].expand(part.stop - part.start) for number, part in own])
            _count_samples(counts, place, logits, self.mode.soft)
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
        """Return this rank's samples of a batch, each range with the index of the part that it belongs to.

        The samples of a batch are split into contiguous ranges of equal length, one per rank.
        """
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
        """Add the votes of a batch to the counts of its images, and return the images that need no more samples."""
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


def certify(
    network: Callable[[Tensor], Tensor] | SmoothedClassifier,
    images: Tensor,
    sigma: float,
    mode: Mode = FixedSampling(),  # noqa: B008 - immutable
    batch_size: int = 1000,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> list[Certificate]:
    """Certify the predictions of a smoothed classifier for images, with the network in evaluation mode.

    Args:
        network: maps images `[B, C, H, W]` in [0, 1] to logits `[B, K]`; a `SmoothedClassifier` has its own smoothing.
        images: `[N, C, H, W]` in [0, 1].
        sigma: standard deviation of the noise, in pixel units.
        mode: rule that chooses the number of noise samples per image.
        batch_size: number of noisy images per batch; a CPU evaluates at most 100 at once.
        labels: labels `[N]`; only the mode `Curve` needs them.
        generator: generator that seeds the noise; None uses PyTorch's global generator.

    Returns:
        One certificate per image, with `prediction` (-1 if the classifier abstains) and `radius` in pixel units.

    Examples:
        >>> from lightning_modules.robustness.certificates import FixedSampling
        >>> network = lambda images: torch.stack([images.mean(dim=(1, 2, 3)), 1 - images.mean(dim=(1, 2, 3))], dim=1)
        >>> images = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
        >>> found = certify(network, images, sigma=0.25, mode=FixedSampling(n=1000))
        >>> [each.prediction for each in found], [round(each.radius, 1) for each in found]
        ([1, 0], [0.6, 0.6])
    """
    positive(sigma=sigma)
    at_least(1, batch_size=batch_size)
    if labels is None and mode.name == "curve":
        raise ValueError("mode curve needs labels, got None: pass labels, or use mode FixedSampling")
    smoothed = network if isinstance(network, SmoothedClassifier) else GaussianSmoothing(network)
    seed = int(sample_integers(2**62, 1, generator))
    counter = VoteCounter(smoothed, mode, sigma, batch_size, seed, images.device)
    known = [-1] * len(images) if labels is None else labels.tolist()
    given = (LabelledImage(index, *each) for index, each in enumerate(zip(images, known, strict=True)))
    with evaluating(network):  # type: ignore[arg-type]  # a protocol does not say that its module can be called
        found = {each.index: each.certificate for each in counter.certify(given)}
    return [found[index] for index in range(len(images))]
