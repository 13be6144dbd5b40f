"""Inpainting and colourisation with an unconditionally trained score model, in `test` and `predict`."""

from typing import Any

import torch
from torch import Tensor

from datamodules.corruptions.operators import Grayscale, Inpainting
from datamodules.corruptions.operators.inpainting import Masks
from datamodules.corruptions.operators.interface import Operator
from datamodules.distributed.collectives import run_seed
from datamodules.pixel_ranges import to_unit
from datamodules.randomness.counter import CounterRNG
from datamodules.randomness.generators import drawing
from lightning_modules.diffusion.measured_restoration import centred_measurements, measured_columns
from lightning_modules.diffusion.score_sde.conditions import colourisation, inpainting
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import ImageColumn, MeasurementSource, require_data
from lightning_modules.sde.flow import ProbabilityFlow
from lightning_modules.sde.samplers import Draw
from lightning_modules.tasks.restorer import RestorerSteps

STREAM = 20_000
"""Index of the random stream with which an image is sampled; its mask and measurement noise use other streams."""


class KnownParts(RestorerSteps):
    """Mixin for score models with the test and prediction steps for `MeasuredImages`.

    With a mask operator, images are inpainted from their known pixels; with `Grayscale`, they are colourised. The
    random numbers of an image are seeded by its index. The result for an image therefore depends on its batch only if
    the sampler has a corrector, because a corrector averages norms over the batch.
    """

    def setup(self: Any, stage: str) -> None:
        if stage != "predict" and not isinstance(self.trainer.datamodule, MeasurementSource):
            return
        self._check(require_data(self.trainer, MeasurementSource, type(self).__name__).operator)

    def _check(self: Any, operator: Operator) -> None:
        if not isinstance(operator, Inpainting | Masks | Grayscale):
            raise ValueError(
                f"data.operator must be a mask (RandomPixels, FreeForm, MaskFolder) or Grayscale for a score model, "
                f"got {type(operator).__name__}"
            )
        if isinstance(self.sampler, ProbabilityFlow):
            raise ValueError("model.sampler: ProbabilityFlow cannot inpaint or colourise; use PredictorCorrector")

    def restore(  # type: ignore[override]
        self: Any, measured: Tensor, operator: Operator, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sample images in [0, 1], `[B, C, H, W]`, from the known pixels or grey values of images in [0, 1].

        This needs no Trainer.

        Args:
            measured: measurements, as `operator.forward` computes them from images in [0, 1].
            operator: `Inpainting` with the masks of this batch, or `Grayscale`.
            generator: random generator for all random numbers; None uses PyTorch's global generator.
        """
        self._check(operator)
        known = to_unit(operator.pseudo_inverse(centred_measurements(measured, operator)))
        return self._restore(known, operator, drawing(generator))

    def estimate(self: Any, batch: Any) -> Tensor:
        """Sample images in [0, 1], `[B, C, H, W]`, from the known pixels or grey values in a `MeasuredImageBatch`."""
        operator = require_data(self.trainer, MeasurementSource, type(self).__name__).operator
        index, known = batch["index"], batch["noisy"]
        draw = CounterRNG(run_seed(), 0, index, STREAM).normal
        return self._restore(known, operator.of(index, tuple(known.shape[2:])), draw)

    def _restore(self: Any, known: Tensor, operator: Any, draw: Draw) -> Tensor:
        if isinstance(operator, Grayscale):
            return at_least_float32(self._colourise(known, draw))
        return at_least_float32(self._inpaint(known, operator.mask, draw))

    def image_columns(self: Any, batch: Any, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show the known part, the sample and the clean image; large images are also shown as zoomed crops."""
        return measured_columns(super().image_columns(batch, outputs), batch)

    def inpaint(self: Any, image: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Replace the pixels of images in [0, 1], `[B, C, H, W]`, where a mask is 0; they are known where it is 1."""
        return self._inpaint(image, mask, drawing(generator))

    def colourise(self: Any, grey: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Colourise grey images in [0, 1], `[B, 3, H, W]`, whose three channels are equal."""
        return self._colourise(grey, drawing(generator))

    def _inpaint(self: Any, image: Tensor, mask: Tensor, draw: Draw) -> Tensor:
        data = self.data_of(image.to(self.dtype))
        return self._sample(data, draw, self.score, inpainting(self.process, data, mask, draw))

    def _colourise(self: Any, grey: Tensor, draw: Draw) -> Tensor:
        data = self.data_of(grey.to(self.dtype))
        return self._sample(data, draw, self.score, colourisation(self.process, data, draw))
