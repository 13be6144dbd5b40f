"""Export of a fine-tuned network as a function of noisy latents, times and prompt embeddings."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.backbones.quantization import is_quantized
from lightning_modules.interfaces import Exported, ExportedInput, refuse_sigma

DIMENSIONS = {"embedding": "L D", "pooled": "P", "mask": "L", "second": "M E", "second_mask": "M"}
"""Names of the dimensions of each `Prompts` field, without the batch dimension."""


class ExportsNetwork:
    """Mixin for LightningModules that exports the network of a fine-tuned diffusion model.

    The LightningModule must define `network`, `objective` and `average`.
    """

    def export_function(self: Any, sigma: float | None = None) -> Exported:
        """Return the network with its averaged weights, for export; see `interfaces.Exportable`."""
        refuse_sigma(sigma, self)
        if is_quantized(self.network):
            raise ValueError(
                "quantization: a network with quantised weights cannot be exported; "
                "`push RUN --merged --output FOLDER` writes its dequantised weights with the adapters merged"
            )
        if getattr(self.network, "frame_multiple", None) is not None:
            raise ValueError(
                "a model of clips cannot be exported; `push RUN --merged --output FOLDER` writes its pipeline"
            )
        sizes = dict(zip("CHW", self.network.latent_shape(1)[1:], strict=True))
        pixels = isinstance(self.network, PixelSpace)
        noisy = "noisy images; a clean image is in [-1, 1]" if pixels else "noisy latents"
        inputs = {
            "x": ExportedInput("B C H W", torch.randn, noisy),
            "t": ExportedInput("B", self._times, "times, as in the model's scheduler"),
        }
        if self.edits:
            inputs["source"] = ExportedInput("B C H W", torch.randn, "latents of source images")
        if not pixels:
            prompts = self.network.empty_prompts(1)
            for key in self.network.prompt_fields:
                letters, is_mask = DIMENSIONS[key], key.endswith("mask")
                sizes |= dict(zip(letters.split(), getattr(prompts, key).shape[1:], strict=True))
                inputs[key] = ExportedInput(
                    f"B {letters}", torch.ones if is_mask else torch.randn, f"{key} of the prompts, as float"
                )
        description = f"the model's prediction of type {self.network.prediction}"
        weights = self.average.used_by(self.network)
        return Exported("network", self._predict, inputs, "prediction", "B C H W", description, sizes, weights)

    def _times(self: Any, n: int) -> Tensor:
        return self.objective.scheduler_times(self.objective.held_out_times(torch.arange(n)))

    def _predict(self: Any, x: Tensor, t: Tensor, *prompts: Tensor) -> Tensor:
        if not prompts:
            return self.network(x, t, None)
        source = {}
        if self.edits:
            source["source"], *prompts = prompts  # type: ignore[assignment]
        return self.network(x, t, Prompts(**dict(zip(self.network.prompt_fields, prompts, strict=True))), **source)
