"""Latents z = s (E(2 x - 1) - m) of images x in [0, 1], for a diffusers autoencoder E with scale s and shift m."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from datamodules.files.text_files import read_json_object
from datamodules.pixel_ranges import to_signed, to_unit


class AutoencoderLatents(nn.Module):
    """Mixin that encodes images to latents z and decodes latents to images, with the autoencoder `vae`."""

    vae: Any
    scheduler: Any
    parts: Sequence[str]
    packing: ClassVar[int]
    frame_multiple: ClassVar[int | None] = None
    """For models of clips, number of frames per latent frame after the first frame; None for models of images."""

    @classmethod
    def size_multiple_before_loading(cls, pipeline: str, **settings: Any) -> int | None:
        """Return a number by which image height and width must be divisible; None if no config file defines it.

        Args:
            pipeline: folder or name of the pipeline.
            settings: further constructor arguments, as plain values; `weights` decides whether files are downloaded.
        """
        local = settings.get("weights", {}).get("local_files_only", False)
        return size_multiple_of(pipeline, cls.parts[0], cls.packing, local)

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents z."""
        return self.vae.config.latent_channels

    @property
    def scaling_factor(self) -> float | Tensor:
        return self.vae.config.scaling_factor

    @property
    def shift_factor(self) -> float | Tensor:
        """Shift factor m; it is 0 for Stable Diffusion and SDXL."""
        return self.vae.config.get("shift_factor") or 0.0

    def encode(self, image: Tensor, draw: Tensor | None = None) -> Tensor:
        """Encode images to z.

        Args:
            image: images, `[B, 3, H, W]` in [0, 1]; gradients flow back to them.
            draw: standard normal noise with the shape of z, for sampling from the encoder's distribution. None uses the
                mean of the distribution.
        """
        return self.latent(self.moments(image), draw)

    def moments(self, image: Tensor) -> Tensor:
        """Encode images in [0, 1] with E; return the mean and deviation of its distribution, `[B, 2, c, h, w]`."""
        posterior = self.vae.encode(to_signed(image).to(self.vae.dtype)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1).to(image.dtype)

    def latent(self, moments: Tensor, draw: Tensor | None = None) -> Tensor:
        """Compute latents z from the output of `moments`; see `encode` for `draw`."""
        mean, deviation = moments.unbind(dim=1)
        return self.scaling_factor * ((mean if draw is None else mean + deviation * draw) - self.shift_factor)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode z to images, `[B, 3, H, W]`, whose values may slightly exceed [0, 1]."""
        scaled = latent / self.scaling_factor + self.shift_factor
        return to_unit(self.vae.decode(scaled.to(self.vae.dtype)).sample).to(latent.dtype)


class NormalizedChannels(AutoencoderLatents):
    """Mixin for latents z = (E(2 x - 1) - m) / d, with the mean m and the standard deviation d of each channel."""

    mean: Tensor
    deviation: Tensor
    latent_axes: ClassVar[int] = 2
    """Number of dimensions of a channel of z."""

    def prepare_parts(self) -> None:
        for name, values in zip(("mean", "deviation"), self.channel_statistics(), strict=True):
            self.register_buffer(name, values.clone().view(-1, *[1] * self.latent_axes), persistent=False)

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Return m and d, one value for each channel of z."""
        return torch.tensor(self.vae.config.latents_mean), torch.tensor(self.vae.config.latents_std)

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents z."""
        return self.vae.config.z_dim

    @property
    def scaling_factor(self) -> Tensor:
        """Scaling factor 1 / d, with one value for each channel."""
        return 1 / self.deviation

    @property
    def shift_factor(self) -> Tensor:
        """Shift factor m, with one value for each channel."""
        return self.mean

    def extra_repr(self) -> str:
        return type(self.scheduler).__name__


def size_multiple_of(pipeline: str, network: str, packing: int, local_files_only: bool = False) -> int | None:
    """Return a number of pixels by which the height and width of an image must be divisible.

    The loaded model may require a multiple of this number.

    Args:
        pipeline: folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub. Only two config
            files are downloaded.
        network: folder of the denoising network: unet or transformer.
        packing: number of latent pixels that are packed into one input position of the network.
        local_files_only: never download files.

    Returns:
        The number of pixels, or None if the config files are missing or do not define it.
    """
    try:
        autoencoder, predicting = (_config(pipeline, part, local_files_only) for part in ("vae", network))
    except (OSError, ValueError):  # the error is raised again when the pipeline is loaded
        return None
    levels = [autoencoder.get(key) for key in ("block_out_channels", "encoder_block_out_channels")]
    lengths = [len(value) - 1 for value in levels if isinstance(value, list)]
    if isinstance(each := autoencoder.get("temperal_downsample"), list):  # only autoencoders for videos have this key
        lengths.append(len(each))
    times = lengths[0] if lengths else None
    patch = predicting.get("patch_size", 1)
    patch = patch[-1] if isinstance(patch, list) and patch else patch  # time, height and width
    if times is None or not 0 <= times < 16 or not isinstance(patch, int) or patch < 1:
        return None
    return 2**times * max(patch, math.isqrt(packing))


def _config(pipeline: str, part: str, local_files_only: bool) -> dict[str, Any]:
    folder = Path(pipeline).expanduser()
    if folder.is_dir():
        return read_json_object(folder / part / "config.json")
    from huggingface_hub import hf_hub_download

    return read_json_object(Path(hf_hub_download(pipeline, f"{part}/config.json", local_files_only=local_files_only)))
