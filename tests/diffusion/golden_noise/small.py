"""Small components of the method for its tests."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from datamodules.prompts.noise_pairs import NoisePairs
from datamodules.prompts.prompt_sets import Prompt, PromptSet
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.golden_noise import GoldenNoise, NPNet
from lightning_modules.diffusion.hash_embedding import HashedWords
from lightning_modules.networks.time_conditioned_mlp import PromptedImageMLP
from tests.grouped import grouped

STABLE_DIFFUSION: dict[str, Any] = {
    **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    **{"steps_offset": 1, "set_alpha_to_one": False},
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def npnet(channels: int = 4, size: int = 8, prompt_features: int = 6, **more: Any) -> NPNet:
    """Build NPNet around a convolution."""
    torch.manual_seed(0)
    features = nn.Conv2d(3, 5, 3, padding=1)
    shape = (channels, size, size)
    return NPNet(shape, prompt_features, features, **{"feature_channels": 5, "image_size": 12, **more}).double()


class Identity(nn.Module):
    """Returns the noise unchanged."""

    latent_shape = (4, 8, 8)

    def forward(self, noise: Tensor, prompts: Prompts) -> Tensor:
        return noise


class Embedding(nn.Module):
    """Replacement for a pipeline: its text embeddings are tensors on the meta device."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scheduler = DDIMScheduler(**STABLE_DIFFUSION)

    def encode_prompts(self, texts: Sequence[str]) -> Prompts:
        return Prompts(torch.empty(len(texts), 77, self.width, device="meta"))


class Texts(PromptSet):
    """A few texts; the seed of a text is not its position."""

    def __init__(self, num: int = 7) -> None:
        self.num = num

    def prompts(self) -> list[Prompt]:
        return [Prompt(10 + n, 100 - n, "abc"[n % 3]) for n in range(self.num)]


def brightness(images: Tensor, texts: Sequence[str]) -> Tensor:
    return images.flatten(1).mean(dim=1)


def module(**more: Any) -> GoldenNoise:
    """Build the method with a model of 8 x 8 images."""
    torch.manual_seed(0)
    network = npnet(1, **{"prompt_features": 6}).float()
    encoder, denoiser = HashedWords(features=6, length=1), PromptedImageMLP(64, 6, width=16, depth=1)
    model = PixelModel(denoiser, DDIMScheduler(**STABLE_DIFFUSION), encoder)
    options = {"rewards": {"brightness": brightness}, "sampling": Sampling(3, 2.0), **more}
    return GoldenNoise(network, model, **options)


def data(**more: Any) -> NoisePairs:
    given: dict[str, Any] = {"prompts": Texts(), "batch_size": 2, "evaluation_batch_size": 3, "num_workers": 0, **more}
    return NoisePairs(**grouped(NoisePairs, given))
