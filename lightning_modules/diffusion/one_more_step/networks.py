"""Networks that are conditioned on a text, but not on time."""

import itertools
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.arguments import one_of
from datamodules.files.limits import sentence
from datamodules.files.text_files import read_json_object
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.backbones.weights import check_config, load, read_weights

TIME = ("time_emb_proj", "time_embedding")


class TimeFreeUNet(nn.Module):
    """A diffusers U-Net whose time embedding is set to zero and frozen.

    The output is bit-identical to the output of the authors' network, which has no time embedding. Apart from the time
    embedding, all parameters have the same names as in the authors' network.

    Args:
        network: a `diffusers.UNet2DConditionModel`.
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
        """Predict v, `[B, c, h, w]`, from noise of the same shape and B prompts."""
        time = torch.zeros((), dtype=torch.int64, device=noise.device)
        return self.network(noise, time, encoder_hidden_states=prompts.embedding.to(noise.dtype)).sample


def released_unet(name_or_path: str, variant: Literal["fp16"] | None = None) -> TimeFreeUNet:
    """Load one of the networks that the authors released.

    The file of such a network contains no time embedding, so the time embedding of the returned network is zero.

    Args:
        name_or_path: local folder of a released model, or its name on the Hugging Face Hub, such as
            `h1t/oms_b_openclip_15_21`. Only the subfolder `oms_module` is read.
        variant: fp16 loads the file with half-precision weights. The weights are always converted to float32.
    """
    from diffusers import UNet2DConditionModel

    one_of((None, "fp16"), variant=variant)
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name_or_path, allow_patterns=["oms_module/*"]))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no released model {name_or_path}: there is no such folder in {Path.cwd()}, and it could not be "
                f"downloaded; run `hf download {name_or_path}` where there is a network, and give the folder"
            ) from error
    place = folder / "oms_module"
    config = read_json_object(place / "config.json")
    check_config(place / "config.json", config)
    try:
        network: Any = UNet2DConditionModel.from_config(config)
    except Exception as error:  # diffusers raises many types of errors for invalid values
        raise ValueError(f"{place / 'config.json'} defines no U-Net: {sentence(error)}") from error
    file = place / f"diffusion_pytorch_model{'' if variant is None else f'.{variant}'}.safetensors"
    timed = {key: value for key, value in network.state_dict().items() if any(part in TIME for part in key.split("."))}
    load(network, timed | read_weights(file), file)
    return TimeFreeUNet(network)


class PromptedMLP(nn.Module):
    """An MLP for images with a few hundred pixels; its inputs are noise and the mean token embedding of a text.

    Args:
        in_features: number of values in an image, C H W.
        prompt_features: D, number of features of a token's embedding.
        width: number of units in each of the two hidden layers.
    """

    def __init__(self, in_features: int, prompt_features: int, width: int = 128) -> None:
        super().__init__()
        sizes = (in_features + prompt_features, width, width)
        hidden = [layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, in_features))

    def forward(self, noise: Tensor, prompts: Prompts) -> Tensor:
        """Predict v, `[B, C, H, W]`, from noise of the same shape and B prompts."""
        values = torch.cat([noise.flatten(1), prompts.embedding.mean(dim=1).to(noise.dtype)], dim=1)
        return self.layers(values).view_as(noise)
