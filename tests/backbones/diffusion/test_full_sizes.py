"""The networks that the configurations name have the published numbers of parameters, and take a step at full size."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, empty

KLEIN = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "guidance_embeds": False,
}  # fmt: skip
SD3_MEDIUM = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
}  # fmt: skip
HUNYUAN_DIT = {  # the config of version 1.2 on the Hub
    "cross_attention_dim": 1024, "cross_attention_dim_t5": 2048, "hidden_size": 1408, "learn_sigma": True,
    "mlp_ratio": 4.3637, "norm_type": "layer_norm", "num_layers": 40, "patch_size": 2, "sample_size": 128,
    "in_channels": 4, "attention_head_dim": 88, "num_attention_heads": 16, "pooled_projection_dim": 1024,
    "use_style_cond_and_image_meta_size": False,
}  # fmt: skip
PIXART_SIGMA = {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": False}
WAN = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}  # the config of version 2.1 with 1.3B on the Hub


def stable_diffusion_3_medium(device: str) -> Any:
    """Build the transformer of Stable Diffusion 3 Medium."""
    with torch.device(device):
        return diffusers.SD3Transformer2DModel(**SD3_MEDIUM)


def flux2(network: Any) -> Tensor:
    guidance = empty(1) if network.config.guidance_embeds else None
    ids = {"txt_ids": empty(512, 4), "img_ids": empty(4096, 4)}
    return network(
        empty(1, 4096, 128),
        empty(1, 512, network.config.joint_attention_dim),
        empty(1),
        guidance=guidance,
        **ids,
    )[0]


def lumina2(network: Any) -> Tensor:
    """The network reads the text lengths on the host, and tensors on the meta device have no values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "tolist", lambda lengths: [256])
        return network(
            empty(1, 16, 128, 128),
            empty(1),
            empty(1, 256, 2304),
            torch.ones(1, 256, dtype=torch.bool),
        )[0]


@pytest.mark.parametrize(
    ("name", "config", "parameters", "step"),
    [
        ("SD3Transformer2DModel", SD3_MEDIUM, 2_028_328_000, lambda network: network(
            empty(2, 16, 128, 128), empty(2, 333, 4096), empty(2, 2048), empty(2))[0]),
        ("FluxTransformer2DModel", {"guidance_embeds": True}, 11_901_408_320, None),
        pytest.param("ChromaTransformer2DModel", {}, 8_899_983_424, lambda network: network(
            empty(1, 4096, 64), empty(1, 512, 4096), empty(1), empty(4096, 3), empty(512, 3), empty(1, 512 + 4096))[0],
            marks=pytest.mark.nightly),
        pytest.param("Flux2Transformer2DModel", {}, 32_223_281_152, flux2, marks=pytest.mark.nightly),
        ("Flux2Transformer2DModel", KLEIN, 3_875_544_576, flux2),
        pytest.param("QwenImageTransformer2DModel", {}, 20_430_401_088, lambda network: network(
            empty(1, 4096, 64), empty(1, 512, 3584), empty(1, 512, dtype=torch.bool), empty(1), [[(1, 64, 64)]])[0],
            marks=pytest.mark.nightly),
        ("SanaTransformer2DModel", {}, 1_604_462_752, lambda network: network(
            empty(2, 32, 32, 32), empty(2, 300, 2304), empty(2), encoder_attention_mask=empty(2, 300))[0]),
        ("ZImageTransformer2DModel", {}, 6_154_908_736, lambda network: torch.stack(network(
            list(empty(2, 16, 1, 128, 128)), empty(2), [empty(20, 2560), empty(90, 2560)])[0])),
        ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}, 2_609_769_152, lumina2),  # the width of Gemma 2 2B
        ("PixArtTransformer2DModel", PIXART_SIGMA, 610_856_096, lambda network: network(
            empty(2, 4, 128, 128), empty(2, 300, 4096), empty(2), {}, encoder_attention_mask=empty(2, 300))[0][:, :4]),
        ("HunyuanDiT2DModel", HUNYUAN_DIT, 1_499_952_032, None),
        pytest.param("WanTransformer3DModel", WAN, 1_418_996_800, lambda network: network(
            empty(1, 16, 21, 60, 104), empty(1), empty(1, 512, 4096))[0], marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_a_full_size_transformer_takes_a_step_on_the_meta_device(
    name: str, config: dict[str, Any], parameters: int, step: Callable[[Any], Tensor] | None
) -> None:
    """A config without values is that of the published model, whose sizes are the defaults of diffusers."""
    with torch.device("meta"):
        network: Any = getattr(diffusers, name)(**config)
        assert sum(parameter.numel() for parameter in network.parameters()) == parameters
        if step is None:
            return
        step(network).mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    # The last block of Qwen-Image has no output for the text.
    assert all(each.startswith("transformer_blocks.59.") and ("txt" in each or "add" in each) for each in without)
