"""Test and prediction of images of which pixels or grey values are known, by a model that was trained without."""

from typing import Any

import torch
from torch import Tensor

from datamodules.corruptions.operators import Grayscale, Inpainting
from datamodules.corruptions.operators.inpainting import Masks
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.counter import CounterRNG
from datamodules.randomness.generators import drawing
from lightning_modules.diffusion.measured_restoration import measured_columns
from lightning_modules.diffusion.score_sde.conditions import colourisation, inpainting
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import ImageColumn, MeasurementSource, require_data
from lightning_modules.sde.flow import ProbabilityFlow
from lightning_modules.sde.samplers import Draw
from lightning_modules.tasks.restorer import RestorerSteps

STREAM = 20_000
"""Of the random numbers of samples; those of masks and of noise are others."""


class KnownParts(RestorerSteps):
    """Give a score model the tests and predictions of `MeasuredImages`.

    Around known pixels (operators of masks) an image is inpainted, and known grey values (`Grayscale`) are
    colourised. Numbers are drawn for each image by its position in the set, so that a sampler without a corrector,
    whose norms are of a batch, gives it the same result in whatever batch.
    """

    def setup(self: Any, stage: str) -> None:
        if stage != "predict" and not isinstance(self.trainer.datamodule, MeasurementSource):
            return
        operator = require_data(self.trainer, MeasurementSource, type(self).__name__).operator
        if not isinstance(operator, Inpainting | Masks | Grayscale):
            raise ValueError(
                f"data.operator: a score model knows pixels (RandomPixels, FreeForm, MaskFolder) or grey values "
                f"(Grayscale) of its samples, got {type(operator).__name__}"
            )
        if isinstance(self.sampler, ProbabilityFlow):
            raise ValueError("model.sampler: the probability flow has no step that could respect what is known")

    def estimated(self: Any, batch: Any) -> Tensor:
        """Draw images `[B, C, H, W]` in [0, 1] that fit to what is known of those of a `MeasuredImageBatch`."""
        operator = require_data(self.trainer, MeasurementSource, type(self).__name__).operator
        index, known = batch["index"], batch["noisy"]
        draw = CounterRNG(run_seed(), 0, index, STREAM).normal
        if isinstance(operator, Grayscale):
            return at_least_float32(self._colourised(known, draw))
        return at_least_float32(self._inpainted(known, operator.of(index, tuple(known.shape[2:])).mask, draw))

    def image_columns(self: Any, batch: Any, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show what is known of each image, the sample and the clean image; of large images, parts too."""
        return measured_columns(super().image_columns(batch, outputs), batch)

    def inpaint(self: Any, image: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw what fits to images `[B, C, H, W]` in [0, 1] where a mask is 0; they are known where it is 1."""
        return self._inpainted(image, mask, drawing(generator))

    def colourise(self: Any, grey: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw colours that fit to grey images `[B, 3, H, W]` in [0, 1], whose channels are alike."""
        return self._colourised(grey, drawing(generator))

    def _inpainted(self: Any, image: Tensor, mask: Tensor, draw: Draw) -> Tensor:
        data = self.data_of(image.to(self.dtype))
        return self._sampled(data, draw, self.score, inpainting(self.process, data, mask, draw))

    def _colourised(self: Any, grey: Tensor, draw: Draw) -> Tensor:
        data = self.data_of(grey.to(self.dtype))
        return self._sampled(data, draw, self.score, colourisation(self.process, data, draw))
