"""Interface of latent text-to-image models.

Fine-tuning, caching and export work with every model family that implements this interface.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from lightning_modules.backbones.diffusion.pipelines import NetworkPrediction
from lightning_modules.backbones.diffusion.text_to_image import Prompts


class LatentDiffusion(Protocol):
    """A latent text-to-image model built from a diffusers pipeline.

    `TextToImage` implements this protocol for Stable Diffusion and SDXL. Every other model family is a subclass of
    `TextToImage`. Such a subclass defines the parts and classes of its pipeline, the methods `embed` and `forward`,
    and its default LoRA targets, and is exported by the `__init__.py` of this package.
    """

    pipeline: Any
    """The diffusers pipeline of the model, which is also used for sampling."""
    network: Any
    """The denoising network of the pipeline, which is the part named `parts[0]`."""
    vae: Any
    text_encoders: Any
    scheduler: Any
    """Diffusers scheduler: abar_t for T timesteps, or, in flow matching, t in [0, 1] with the network input T t."""
    prediction: NetworkPrediction
    """Predicted quantity: epsilon, v_prediction or sample for diffusion, and flow (e - z) for flow matching."""
    parts: Sequence[str]
    takes_source: bool
    """Whether the model edits a source image."""
    clip_skip: int | None
    """Number of last layers of the text encoders that prompts skip; None skips no layer."""

    @property
    def prompt_fields(self) -> tuple[str, ...]:
        """Names of the fields of `Prompts` that the model uses."""

    @property
    def size_multiple(self) -> int:
        """Number by which the height and width of an image, in pixels, must be divisible."""

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        """Embed B texts with all text encoders; the result is on the network's device."""

    def free_text_encoders(self, texts: Sequence[str]) -> None:
        """Embed the texts that will still be needed, and then remove the text encoders from memory."""

    def empty_prompts(self, n: int) -> Prompts:
        """Embed n empty prompts, as the pipeline does for guidance."""

    def moments(self, image: Tensor) -> Tensor:
        """Encode images; return the mean and standard deviation of the encoder's distribution, `[B, 2, c, h, w]`."""

    def latent(self, moments: Tensor, draw: Tensor | None = None) -> Tensor:
        """Compute latents z, which are scaled and shifted, from the output of `moments`."""

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latents z to images."""

    def latent_shape(self, n: int, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """Return the shape of z for n images."""

    def __call__(self, latent: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        """Predict the quantity named by `prediction`, with the shape of z_t."""
