"""Diffusers U-Nets that are conditioned on an image: mu_theta and mu_zeta of StableNormal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.arguments import one_of
from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.diffusion.stable_normal.control_encoders import (
    SemanticEncoder,
    control_encoder,
    inject_residuals,
    run_control_encoder,
)
from lightning_modules.diffusion.stable_normal.patch_features import PatchFeatures

DECODER = ("up_blocks", "conv_norm_out", "conv_out")
SEMANTIC = "semantic_encoder.pt"
CONTROL = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
HINT = "controlnet_cond_embedding."
"""Prefix of the weight names of a ControlNet's hint branch. Released files contain this unused branch."""


class ReleasedModel(TextToImage):
    """The diffusion model of a released StableNormal model, such as Stable-X/yoso-normal-v0-3.

    To load the encoder as well, pass the same folder as the argument `encoders` of `ConditionedUNet`. Python files in
    the folder are not run.
    """

    pipeline_class: ClassVar[str | None] = "StableDiffusionPipeline"
    unread: ClassVar[Sequence[str]] = ("controlnet", "dino_controlnet")


class PixelUNet(nn.Module):
    """A pixel-space U-Net with the noise schedule of Stable Diffusion. It has no text encoder and no autoencoder.

    Args:
        network: diffusers `UNet2DConditionModel` with 3 input channels and 3 output channels; it receives zeros as text
            embeddings.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        from diffusers import DDIMScheduler

        config: Any = network.config
        if (config.in_channels, config.out_channels) != (3, 3):
            raise ValueError(
                f"model.network must have 3 input and output channels, got {config.in_channels} and "
                f"{config.out_channels}"
            )
        self.network: Any = network
        self.vae = nn.Identity()
        self.scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def encode(self, image: Tensor) -> Tensor:
        return to_signed(image)

    def decode(self, latent: Tensor) -> Tensor:
        return to_unit(latent)

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        return Prompts(torch.zeros(len(texts), 1, self.network.config.cross_attention_dim))


class ConditionedUNet(nn.Module):
    """A diffusion model with two encoders, which condition it on an image and on the image's semantic features.

    Args:
        model: `lightning_modules.backbones.diffusion.text_to_image.TextToImage` with `tuning: full`, or a `PixelUNet`.
        features: extractor of semantic features, for the refiner; None disables semantic conditioning.
        prompt: fixed text prompt of the U-Net.
        trained: part of the U-Net to train: `decoder` or `all`. The encoders of the image and of the features are
            always trained.
        encoders: folder with the encoders of a trained model, either saved by a run or released by the authors. None
            initialises the encoders with copies of the U-Net's encoder.
    """

    model: Any
    text: Tensor

    def __init__(
        self,
        model: nn.Module,
        features: PatchFeatures | None = None,
        prompt: str = "The normal map",
        trained: Literal["decoder", "all"] = "decoder",
        encoders: str | None = None,
    ) -> None:
        super().__init__()
        one_of(("decoder", "all"), trained=trained)
        self.model = model
        unet = self.model.network
        self.encoder = control_encoder(unet)
        self.features = features
        self.semantic_encoder = None if features is None else SemanticEncoder(unet, features.channels)
        self.register_buffer("text", self.model.encode_prompts([prompt]).embedding, persistent=False)
        if trained == "decoder":
            unet.requires_grad_(False)
            for name in DECODER:
                getattr(unet, name).requires_grad_(True)
        self.folder = None if encoders is None else Path(encoders).expanduser()
        if self.folder is not None:
            self.load_encoders(self.folder)

    @property
    def pixels_per_latent(self) -> int:
        """Side length, in image pixels, of the square that one pixel of the latents represents."""
        if isinstance(self.model, PixelUNet):
            return 1
        return self.model.pipeline.vae_scale_factor

    def semantics(self, image: Tensor, size: Sequence[int]) -> Sequence[Tensor] | None:
        """Compute the semantic conditioning from images in [0, 1], `[B, 3, H, W]`; one call serves all sampling steps.

        The argument `size` is the height and width of the latents, h, w.
        """
        if self.semantic_encoder is None:
            return None
        text = self.text.expand(len(image), -1, -1).to(image.dtype)
        return self.semantic_encoder(self.features(image), size, text)  # type: ignore[misc]

    def forward(self, x: Tensor, timestep: Tensor, image: Tensor, semantics: Sequence[Tensor] | None = None) -> Tensor:
        """Apply the U-Net, conditioned on an image, to noisy latents; the output has the shape of x.

        Args:
            x: noisy latents, `[B, c, h, w]`.
            timestep: timesteps t, `[B]`, int64.
            image: latents of the image, `[B, c, h, w]`.
            semantics: output of the method `semantics`; None for a model without semantic conditioning.
        """
        text = self.text.expand(len(x), -1, -1).to(x.dtype)
        skips, middle = run_control_encoder(self.encoder, image, timestep, text)
        with inject_residuals(self.model.network, semantics):
            return self.model.network(
                x,
                timestep,
                text,
                down_block_additional_residuals=skips,
                mid_block_additional_residual=middle,
            ).sample

    def save(self, folder: Path) -> None:
        """Save the encoders and the model in diffusers format.

        A model without a pipeline is saved only as a `unet`.
        """
        pipeline = getattr(self.model, "pipeline", None)
        if pipeline is None:
            self.model.network.save_pretrained(folder / "unet")
        else:
            pipeline.save_pretrained(folder)
        self.encoder.save_pretrained(folder / "controlnet")
        if self.semantic_encoder is not None:
            torch.save(self.semantic_encoder.state_dict(), folder / SEMANTIC)

    def load_encoders(self, folder: Path) -> None:
        """Load encoders from a folder that `save` wrote, or from one that the authors released."""
        from lightning_modules.backbones.weights import loaded_from, read_weights

        places = [folder / "controlnet" / name for name in CONTROL]
        files = {self.encoder: next((place for place in places if place.is_file()), places[0])}
        if self.semantic_encoder is not None:
            files[self.semantic_encoder] = folder / SEMANTIC
        for encoder, file in files.items():
            if not file.is_file():
                raise FileNotFoundError(
                    f"encoders: {file} does not exist; expected a folder saved by a run or released"
                )
            try:
                weights = read_weights(file)
                encoder.load_state_dict({key: value for key, value in weights.items() if not key.startswith(HINT)})
                loaded_from(file, encoder)
            except RuntimeError as error:
                raise ValueError(f"encoders: {file} does not fit: {' '.join(str(error).split())}") from error
