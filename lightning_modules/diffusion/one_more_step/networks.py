"""Networks conditioned on a text but not on time."""

import itertools

import torch
from torch import Tensor, nn

from lightning_modules.backbones.diffusion.text_to_image import Prompts

TIME = ("time_emb_proj", "time_embedding")


class TimeFreeUNet(nn.Module):
    """A diffusers U-Net whose time embeddings are zeroed and frozen.

    The output is bit-identical to that of the authors' network without time embedding. All other parameter names are
    the same.

    Args:
        network: a `diffusers.UNet2DConditionModel`.

    Raises:
        ValueError: if the network has no time embedding layers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        timed = [part for name, part in network.named_modules() if name.split(".")[-1] in TIME]
        if not timed:
            raise ValueError(f"network must be a diffusers U-Net with time embedding, got {type(network).__name__}")
        for parameter in (parameter for part in timed for parameter in part.parameters()):
            parameter.requires_grad_(False)
            nn.init.zeros_(parameter)
        self.network = network

    def forward(self, noise: Tensor, prompts: Prompts) -> Tensor:
        """Predict v `[B, c, h, w]` from noise of the same shape and B prompts."""
        time = torch.zeros((), dtype=torch.int64, device=noise.device)
        return self.network(noise, time, encoder_hidden_states=prompts.embedding.to(noise.dtype)).sample


class PromptedMLP(nn.Module):
    """An MLP for images of a few hundred pixels; its inputs are noise and the mean token embedding of the text.

    Args:
        in_features: values per image, C H W.
        prompt_features: D, embedding size of a token.
        width: units of each of the two hidden layers.
    """

    def __init__(self, in_features: int, prompt_features: int, width: int = 128) -> None:
        super().__init__()
        sizes = (in_features + prompt_features, width, width)
        hidden = [layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, in_features))

    def forward(self, noise: Tensor, prompts: Prompts) -> Tensor:
        """Predict v `[B, C, H, W]` from noise of the same shape and B prompts."""
        values = torch.cat([noise.flatten(1), prompts.embedding.mean(dim=1).to(noise.dtype)], dim=1)
        return self.layers(values).view_as(noise)
