"""Generate images in blocks, on any number of ranks, and compute the features of these images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callbacks.drawing.samples import save_samples
from callbacks.generation.extraction import Extractor
from callbacks.generation.statistics import Features
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.cached_array import Parts, cached_array
from datamodules.randomness.generators import seed_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


def sampled_bytes(
    module: "LightningModule", n: int, seed: int | Sequence[int], clips: bool = False, **options: Any
) -> Tensor:
    """Sample n images `[n, C, H, W]`, converted to uint8 by rounding down, as in the published protocol.

    Args:
        module: a `Generator`, in evaluation mode.
        n: number of images.
        seed: seed of all random numbers, or n seeds if the module is a `SeededRows`.
        clips: whether the module samples clips `[n, T, C, H, W]`.
        options: further arguments of `sample`.
    """
    sampler: Any = module
    device, name = module.device, type(module).__name__
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seeds = [seed] if isinstance(seed, int) else seed
        torch.manual_seed(seeds[0])  # for random numbers that the module samples without the generator
        generators = [torch.Generator().manual_seed(each) for each in seeds]
        generator = generators[0] if len(generators) == 1 else generators
        images = sampler.sample(n, generator=generator, **options).float()
    if images.ndim != 4 + clips or len(images) != n:
        kind = f"clips [{n}, T, C, H, W]" if clips else f"images [{n}, C, H, W]"
        raise ValueError(f"{name}.sample({n}) must return {kind}, got {list(images.shape)}")
    lowest, highest = torch.stack(images.aminmax()).tolist()
    if not (lowest >= -0.01 and highest <= 1.01):
        raise ValueError(f"{name}.sample must return images in [0, 1], got {lowest:g}...{highest:g}")
    return (images * 255).clamp(0, 255).to(torch.uint8)


class GeneratedBlocks:
    """The blocks of images of one measurement; the random numbers of a block depend only on (seed, block).

    Args:
        trainer: the trainer, during validation or testing.
        module: a `Generator`, in evaluation mode.
        extractor: extractor of the features.
        count: number of images in all blocks.
        batch_size: number of images per block; the last block may have fewer images.
        seed: random seed.
    """

    picture: Path | None = None
    """File for a grid of the first block's images; the grid is drawn when these images are generated."""
    num_shown = 0

    def __init__(
        self,
        trainer: "Trainer",
        module: "LightningModule",
        extractor: Extractor,
        count: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.extractor = extractor
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
        extractor.network.to(module.device)

    def images(self, number: int) -> Tensor:
        """Generate the images of one block, `[B, C, H, W]`, uint8."""
        return sampled_bytes(self.module, self.sizes[number], seed_of(self.seed, number))

    def features(self, number: int) -> Tensor:
        """Compute the features of one block, `[B, D]`."""
        images = self.images(number)
        if number == 0 and self.picture is not None and self.num_shown:
            save_samples(images[: self.num_shown], self.picture)
        return self.extractor(list(images), self.module.device, lambda place: f"image {place} of block {number}")

    def all_features(self, folder: Path) -> Features:
        """Generate the missing blocks, and return the features of all images. Must be called on every rank.

        Args:
            folder: folder in which features are stored until the measurement ends, so that a killed measurement can
                resume. All ranks must have access to the folder.

        Returns:
            The features of all images, `[N, D]`, memory-mapped.
        """
        identity = {
            "module": f"{type(self.module).__module__}.{type(self.module).__qualname__}",
            "weights": hash_of_module(self.module),
            "precision": str(self.trainer.precision),
            "extractor": self.extractor.identity,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": self.count,
        }
        identity = self.trainer.strategy.broadcast(identity)  # buffers may differ between ranks

        def compute(numbers: list[int]) -> Parts:
            for number in numbers:
                yield number, self.features(number).cpu().numpy()

        return cached_array(
            folder, "features", identity, len(self.sizes), compute, lambda: self.trainer.received_sigterm
        )
