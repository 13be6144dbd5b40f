"""Prediction steps that write interpolated images to files. An interrupted prediction can be resumed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batches import InterpolationBatch
from datamodules.files.png import digest_in_png, write_png
from datamodules.jobs.stores import Files, digest_of
from datamodules.randomness.generators import sample_integers
from lightning_modules.tasks.writers import FolderWriter, levels_of
from lightning_modules.training.evaluation_mode import evaluating
from lightning_modules.training.requirements import require_trainer


def strip(frames: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Join L interpolated images, `[L, C, H, W]`, and the two end images into one strip, `[C, H, (L + 2) W]`."""
    return torch.cat([first, *frames, second], dim=-1)


class InterpolationSteps(FolderWriter):
    """Mixin whose prediction steps write interpolated images to the run directory.

    The interpolated images of a pair are written to `interpolated/<name>/<lambda>.png`. The strip
    `interpolated/<name>.png` shows the interpolated images between the two original images. The strip of a pair is
    written last, and a resumed run skips pairs that have a strip. A run cannot be resumed if the settings, the weights
    or the precision have changed, or if the images of a pair have changed.
    """

    written = "interpolated"
    settings_name = "interpolation_settings.json"
    samples_test_set = True

    def store(self: Any, folder: Path) -> Files:
        def write(path: Path, images: Sequence[NDArray[Any]], digest: str) -> None:
            for position, image in zip(self.positions, images[:-1], strict=True):
                write_png(path.with_suffix("") / f"{position:g}.png", image, digest)
            write_png(path, images[-1], digest)

        return Files(folder, ".png", write, digest_in_png)

    def predict_step(self: Any, batch: InterpolationBatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        """Interpolate those pairs of a batch that have no files yet, write the files, and return the pair names."""

        def compute(rows: list[int]) -> Iterator[list[NDArray[Any]]]:
            wanted = select_pairs(batch, rows)
            for frames, *ends in zip(
                self.interpolate_pairs(wanted).frames, wanted["first"], wanted["second"], strict=True
            ):
                yield [levels_of(image, 255).cpu().numpy() for image in (*frames, strip(frames, *ends))]

        digests = [digest_of(*pair) for pair in zip(batch["first"].float(), batch["second"].float(), strict=True)]
        return self.write(batch["name"], digests, compute)

    def interpolate(
        self: Any,
        first: Tensor,
        second: Tensor,
        prompts: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Interpolate between images at all positions, and return images `[B, L, C, H, W]`, not clipped to [0, 1].

        This needs no Trainer: `NoiseDiffusion(model).interpolate(first, second)`.

        Args:
            first: first images in [0, 1], `[B, C, H, W]`.
            second: second images.
            prompts: B prompts, for a model with prompts; None means empty prompts.
            generator: CPU generator whose numbers seed the noise of each pair, together with the seed of the run; None
                uses PyTorch's global generator.
        """
        given: InterpolationBatch = {
            "first": first,
            "second": second,
            "prompt": list(prompts or [""] * len(first)),
            "name": [str(pair) for pair in range(len(first))],
            "index": sample_integers(2**31, len(first), generator),
            "global_batch_size": len(first),
        }
        with evaluating(self):
            return self.interpolate_pairs(given).frames

    def sample(self: Any, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n images in [0, 1], `[n, C, H, W]`, interpolated at all positions between test pairs in random order.

        A pair is repeated only after all pairs have been used. If `num_samples` and `batch_size` of `FID` both equal
        the total number of interpolated images, `FID` therefore uses each of these images once.
        """
        trainer = require_trainer(self, "sample needs the test pairs", "interpolate(first, second)")
        loader = trainer.datamodule.test_dataloader()
        count, pairs = -(-n // len(self.positions)), len(loader.dataset)
        rounds = [torch.randperm(pairs, generator=generator) for _ in range(-(-count // pairs))]
        chosen = torch.cat(rounds)[:count]
        request = next(iter(loader.sampler))._replace(indices=chosen, global_batch_size=count)
        batch = trainer.strategy.batch_to_device(loader.dataset[request])
        return self.interpolate_pairs(batch).frames.flatten(0, 1)[:n].clamp(0, 1)


def select_pairs(batch: InterpolationBatch, rows: list[int]) -> InterpolationBatch:
    """Select the pairs at positions `rows` of a batch."""
    return {
        "first": batch["first"][rows],
        "second": batch["second"][rows],
        "prompt": [batch["prompt"][row] for row in rows],
        "name": [batch["name"][row] for row in rows],
        "index": batch["index"][rows],
        "global_batch_size": len(rows),
    }
