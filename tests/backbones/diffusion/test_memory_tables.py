"""The numbers in the memory tables of `docs/fine_tuning.md` follow from the networks and from the formulas there."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

import lightning_modules.backbones.diffusion  # noqa: F401 - defines the families
from lightning_modules.backbones.adaptation import Adapters, with_lora
from lightning_modules.backbones.diffusion.text_to_image import families
from lightning_modules.backbones.weight_copies import network_blocks
from tests.backbones.diffusion.test_full_sizes import HUNYUAN_DIT, KLEIN, PIXART_SIGMA, SD3_MEDIUM

XL = {
    "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "PixArt-Sigma": ("PixArtTransformer2DModel", PIXART_SIGMA),
    "Stable Diffusion 1.5": ("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}),
    "Hunyuan-DiT 1.2": ("HunyuanDiT2DModel", HUNYUAN_DIT),
    "Sana 1.6B": ("SanaTransformer2DModel", {}),
    "Stable Diffusion 3 Medium": ("SD3Transformer2DModel", SD3_MEDIUM),
    "SDXL": ("UNet2DConditionModel", XL),
    "Lumina-Image 2.0": ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}),
    "FLUX.2-klein 4B": ("Flux2Transformer2DModel", KLEIN),
    "Z-Image": ("ZImageTransformer2DModel", {}),
    "Chroma": ("ChromaTransformer2DModel", {}),
    "FLUX.1-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}),
    "FLUX.2-dev": ("Flux2Transformer2DModel", {}),
}


def rows_of(model: str) -> list[list[str]]:
    """Return a model's rows in the tables of the section on memory, without the name."""
    section = Path("docs/fine_tuning.md").read_text().split("\n## Memory\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [row[1:] for row in rows if row[0].split(",")[0] == model]


def size(parameters: Any) -> int:
    return sum(each.numel() * each.element_size() for each in parameters if not each.requires_grad)


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def card(number: float) -> str:
    return next((f"{each} GB" for each in (12, 24, 48, 80) if number / 1e9 + 4 <= each), "more")


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", NETWORKS)
def test_the_memory_tables_follow_from_the_network(model: str) -> None:
    name, config = NETWORKS[model]
    family = families()[name]
    with torch.device("meta"):
        network: Any = getattr(diffusers, name)(**config).to(torch.bfloat16)
        total = sum(each.numel() for each in network.parameters())
        linear = [
            each for key, each in network.named_modules()
            if isinstance(each, nn.Linear) and not key.startswith(tuple(family.unquantized) or " ")
        ]  # fmt: skip
        weights, scales = (sum(each.weight.numel() for each in linear), sum(each.out_features for each in linear))
        with_lora(network, Adapters(4, targets=family.default_lora_targets))
        adapters = sum(each.numel() for each in network.parameters() if each.requires_grad)
        bfloat16 = size(network.parameters())
        blocks = [size(block.parameters()) for block in network_blocks(network)]
        offloaded = bfloat16 - sum(blocks) + max(blocks)
        network.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
        float8 = size(network.parameters()) + max(blocks)
    int8, nf4 = (weights * share + 2 * (total - weights) for share in (1, 0.5625))
    first, *quantized, last = rows_of(model)
    assert bfloat16 == 2 * total
    assert first == [
        f"{total:,}", gigabytes(2 * total), f"{adapters:,}", gigabytes(2 * total + 20 * adapters),
        gigabytes(20 * total), f"{gigabytes(20 * total / 8)} each",
    ]  # fmt: skip
    for row in quantized:
        assert row == [f"{weights:,}", gigabytes(2 * total), gigabytes(int8 + 2 * scales), gigabytes(nf4)]
    trained = 20 * 4 * adapters  # rank 16
    assert last == [
        gigabytes(bfloat16), gigabytes(float8), gigabytes(offloaded), card(bfloat16 + trained), card(float8 + trained),
        card(nf4 + trained) if quantized else "-", card(offloaded + trained), card(20 * total),
    ]  # fmt: skip
