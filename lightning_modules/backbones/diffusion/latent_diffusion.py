"""Interface of latent text-to-image models.

Fine-tuning, caching and export work with every model family that implements it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from lightning_modules.backbones.diffusion.pipelines import NetworkPrediction
from lightning_modules.backbones.diffusion.text_to_image import Prompts


class LatentDiffusion(Protocol):
    """A latent text-to-image model built from a diffusers pipeline.

    `TextToImage` implements it for Stable Diffusion and SDXL. A family is a subclass with the parts of its pipeline,
    `embedded`, `forward`, its default LoRA targets and an entry in `FAMILIES` of `text_to_image.py`.
    """

    pipeline: Any
    """The diffusers pipeline, which also samples."""
    network: Any
    """Its predicting network, `parts[0]` of the pipeline."""
    vae: Any
    text_encoders: Any
    scheduler: Any
    """Noise levels: abar_t of T timesteps, or for flow matching times t in [0, 1], given to the network as T t."""
    prediction: NetworkPrediction
    """Predicted quantity: epsilon, v_prediction or sample at abar_t, or flow, e - z."""
    parts: Sequence[str]

    @property
    def prompt_fields(self) -> tuple[str, ...]:
        """Names of the fields of `Prompts` that the model uses."""

    @property
    def size_multiple(self) -> int:
        """Height and width of an image must be divisible by this number of pixels."""

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        """Embed B texts by all text encoders, on the network's device."""

    def free_text_encoders(self, texts: Sequence[str]) -> None:
        """Remove the text encoders from memory, after the last texts have been embedded."""

    def empty_prompts(self, n: int) -> Prompts:
        """Embed the empty prompt n times, as the pipeline does for guidance."""

    def moments(self, image: Tensor) -> Tensor:
        """Compute mean and standard deviation of the encoder's distribution, `[B, 2, c, h, w]`."""

    def latent(self, moments: Tensor, draw: Tensor | None = None) -> Tensor:
        """Compute scaled and shifted latents z from moments."""

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z to images."""

    def latent_shape(self, n: int, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Return the shape of z for n images."""

    def __call__(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the quantity that `prediction` names, shaped like z_t."""
