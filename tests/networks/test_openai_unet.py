"""Published U-Nets under the names of diffusers give the same result as this file's own forward pass of them."""

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNet2DModel
from torch import Tensor, nn

from experiments.config_files import settings_of
from lightning_modules.networks.openai_unet import openai_weights
from tests.command import ROOT
from tests.networks.compared import count

HEAD = 32
SMALL: dict[str, Any] = {
    **{"sample_size": 8, "out_channels": 6, "block_out_channels": [32, 64], "layers_per_block": 2},
    **{"attention_head_dim": HEAD, "attn_norm_num_groups": 32, "resnet_time_scale_shift": "scale_shift"},
}
CONVOLUTIONS = {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
RESIDUALS = {
    **{"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]},
    **{"up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]},
    **{"downsample_type": "resnet", "upsample_type": "resnet"},
}
LAYOUTS = {"convolutions, improved diffusion": (CONVOLUTIONS, False), "residual blocks, guided": (RESIDUALS, True)}


class Residual(nn.Module):
    def __init__(self, before: int, after: int, resampled: nn.Module | None = None) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(128, 2 * after))
        last = nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, after), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.resampled = resampled or nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers[2](self.resampled(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(self.resampled(x)) + self.out_layers[1:](h)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        heads = self.qkv(self.norm(flat)).unflatten(1, (-1, 3 * HEAD))
        q, k, v = heads[:, :, :HEAD], heads[:, :, HEAD : 2 * HEAD], heads[:, :, 2 * HEAD :]
        weight = torch.einsum("bhct,bhcs->bhts", q, k).div(math.sqrt(HEAD)).softmax(dim=-1)
        return x + self.proj_out(torch.einsum("bhts,bhcs->bhct", weight, v).flatten(1, 2)).view_as(x)


class Published(nn.Module):
    """Levels with 32 and 64 channels, two residual blocks each, and attention on the second level."""

    def __init__(self, residual_samplers: bool) -> None:
        super().__init__()
        halve, double = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
        op, conv = nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        down: nn.Module = nn.Sequential(OrderedDict(op=op))
        up: nn.Module = nn.Sequential(OrderedDict(enlarge=double, conv=conv))
        if residual_samplers:
            down, up = Residual(32, 32, halve), Residual(64, 64, double)
        self.time_embed = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
        self.input_blocks = nn.ModuleList(
            nn.ModuleList(block)
            for block in (
                [nn.Conv2d(3, 32, 3, padding=1)],
                *([Residual(32, 32)], [Residual(32, 32)], [down]),
                *([Residual(32, 64), Attention(64)], [Residual(64, 64), Attention(64)]),
            )
        )
        self.middle_block = nn.ModuleList([Residual(64, 64), Attention(64), Residual(64, 64)])
        self.output_blocks = nn.ModuleList(
            nn.ModuleList(block)
            for block in (
                *([Residual(128, 64), Attention(64)], [Residual(128, 64), Attention(64)]),
                [Residual(96, 64), Attention(64), up],
                *([Residual(96, 32)], [Residual(64, 32)], [Residual(64, 32)]),
            )
        )
        self.out = nn.Sequential(nn.GroupNorm(32, 32), nn.SiLU(), nn.Conv2d(32, 6, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(16, dtype=t.dtype) / 16)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))

        def through(layers: Any, x: Tensor) -> Tensor:
            for layer in layers:
                x = layer(x, time) if isinstance(layer, Residual) else layer(x)
            return x

        kept = [x]
        for block in self.input_blocks:
            kept.append(through(block, kept[-1]))
        x = through(self.middle_block, kept[-1])
        for block in self.output_blocks:
            x = through(block, torch.cat([x, kept.pop()], dim=1))
        return self.out(x)


def published(residual_samplers: bool) -> Published:
    random = torch.Generator().manual_seed(0)
    network = Published(residual_samplers).double().eval()
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return network


@pytest.mark.parametrize(("layout", "residual_samplers"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_it_computes_what_the_published_layout_does(
    layout: dict[str, Any], residual_samplers: bool, tmp_path: Path
) -> None:
    theirs = published(residual_samplers)
    torch.save(theirs.state_dict(), tmp_path / "published.pt")
    ours = UNet2DModel(**SMALL, **layout).double().eval()
    assert openai_weights(ours, str(tmp_path / "published.pt")) is ours
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (0.0, 17.0, 289.5):
        time = torch.full((2,), t, dtype=torch.float64)
        with torch.no_grad():
            # diffusers computes the angles of the embedding in float32
            torch.testing.assert_close(ours(image, time).sample, theirs(image, time), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "parameters"), [("cifar10", 52_546_438), ("imagenet", 552_814_086)])
def test_layouts_of_the_configurations_are_the_published_ones(name: str, parameters: int) -> None:
    config = yaml.safe_load((ROOT / "configs" / "denoised_smoothing" / f"{name}.yaml").read_text())
    inner = config["model"]["init_args"]["denoiser"]["init_args"]["network"]
    assert inner["class_path"] == "lightning_modules.networks.openai_unet.openai_weights"
    with torch.device("meta"):
        unet = UNet2DModel(**inner["init_args"]["network"]["init_args"])
    assert count(unet) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("imagenet", 552_814_086), ("ffhq", 93_563_910)])
def test_networks_that_restore_have_the_published_layouts(name: str, parameters: int) -> None:
    settings = settings_of(ROOT / "configs" / "red_diff" / f"{name}.yaml")
    start = "model.network.network.network."
    options = {key.removeprefix(start): value for key, value in settings.items() if key.startswith(start)}
    assert options.pop("class_path") == "diffusers.UNet2DModel"
    with torch.device("meta"):
        assert count(UNet2DModel(**options)) == parameters
