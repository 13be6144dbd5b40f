"""Names and alphas of adapters in the files of kohya's sd-scripts and of ComfyUI, for networks of diffusers.

Both programs name most transformers as the original repositories do, and those fuse layers that diffusers keeps apart:
q, k and v are one layer. A LoRA of a fused layer has the matrices A of its parts below each other, and their matrices B
as the blocks of a block-diagonal matrix. The names are those of `comfy/lora.py` of ComfyUI, of `networks/` of
sd-scripts, and, for FLUX.2, Qwen-Image, Z-Image and Wan, those that diffusers reads with the prefix `lora_unet_`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.backbones.adapters import adapter_names
from lightning_modules.backbones.weights import join_names

Tool = Literal["kohya", "comfyui"]
Layers = Mapping[str, tuple[str, Mapping[str, str]]]
"""Blocks by their name in diffusers: the original name, and by original names of layers the layers of diffusers."""
QKV, ADDED = "attn.to_q attn.to_k attn.to_v", "attn.add_q_proj attn.add_k_proj attn.add_v_proj"
DOUBLE = {
    "img_attn.qkv": QKV, "img_attn.proj": "attn.to_out.0", "txt_attn.qkv": ADDED, "txt_attn.proj": "attn.to_add_out",
}  # fmt: skip
FLUX: Layers = {
    "transformer_blocks": ("double_blocks", DOUBLE | {
        "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2", "img_mod.lin": "norm1.linear",
        "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2", "txt_mod.lin": "norm1_context.linear",
    }),
    "single_transformer_blocks": ("single_blocks", {
        "linear1": f"{QKV} proj_mlp", "linear2": "proj_out", "modulation.lin": "norm.linear",
    }),
}  # fmt: skip
FLUX2: Layers = {
    "transformer_blocks": ("double_blocks", DOUBLE | {
        "img_mlp.0": "ff.linear_in", "img_mlp.2": "ff.linear_out",
        "txt_mlp.0": "ff_context.linear_in", "txt_mlp.2": "ff_context.linear_out",
    }),
    "single_transformer_blocks": ("single_blocks", {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"}),
}  # fmt: skip
SD3: Layers = {
    "transformer_blocks": ("joint_blocks", {
        "x_block.attn.qkv": QKV, "x_block.attn.proj": "attn.to_out.0", "x_block.mlp.fc1": "ff.net.0.proj",
        "x_block.attn2.qkv": QKV.replace("attn", "attn2"), "x_block.attn2.proj": "attn2.to_out.0",
        "x_block.mlp.fc2": "ff.net.2", "context_block.attn.qkv": ADDED, "context_block.attn.proj": "attn.to_add_out",
        "context_block.mlp.fc1": "ff_context.net.0.proj", "context_block.mlp.fc2": "ff_context.net.2",
    }),
}  # fmt: skip
PIXART: Layers = {
    "transformer_blocks": ("blocks", {
        "attn.qkv": QKV.replace("attn", "attn1"), "attn.proj": "attn1.to_out.0", "cross_attn.q_linear": "attn2.to_q",
        "cross_attn.kv_linear": "attn2.to_k attn2.to_v", "cross_attn.proj": "attn2.to_out.0",
        "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
    }),
}  # fmt: skip
WAN: Layers = {
    "blocks": ("blocks", {
        **{f"{old}.{name}": f"{new}.to_{name}" for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2"))
           for name in "qkv"},
        "self_attn.o": "attn1.to_out.0", "cross_attn.o": "attn2.to_out.0", "ffn.0": "ffn.net.0.proj",
        "ffn.2": "ffn.net.2",
    }),
}  # fmt: skip
LUMINA2: Layers = {
    blocks: (blocks, {
        "attention.qkv": QKV, "attention.out": "attn.to_out.0", "adaLN_modulation.1": "norm1.linear",
        **{f"feed_forward.w{n}": f"feed_forward.linear_{n}" for n in (1, 2, 3)},
    })
    for blocks in ("layers", "noise_refiner", "context_refiner")
}  # fmt: skip


class Names(NamedTuple):
    """Names of the layers of a transformer.

    Attributes:
        blocks: names in the original repository; None if they are those of diffusers.
        comfyui: prefix in ComfyUI; after `transformer.`, it reads the names of diffusers.
        kohya: whether programs with kohya's names know the transformer.
    """

    blocks: Layers | None
    comfyui: str
    kohya: bool = True


NAMES = {
    "SD3Transformer2DModel": Names(SD3, "transformer."),
    "FluxTransformer2DModel": Names(FLUX, "transformer."),
    "ChromaTransformer2DModel": Names(FLUX, "transformer."),
    "Flux2Transformer2DModel": Names(FLUX2, "transformer."),
    "QwenImageTransformer2DModel": Names(None, "diffusion_model."),
    "ZImageTransformer2DModel": Names(None, "diffusion_model."),
    "Lumina2Transformer2DModel": Names(LUMINA2, "diffusion_model."),
    "WanTransformer3DModel": Names(WAN, "diffusion_model."),
    "PixArtTransformer2DModel": Names(PIXART, "transformer.", kohya=False),
}
"""Names by the diffusers class of a transformer."""
SCALED = ("lora_B.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a")
"""The tensor of an adapter that carries a change of its scale."""
MERGED = "`push RUN --merged --output FOLDER` writes the weights with the adapters merged into them"


def adapters_by_layer(network: Any) -> dict[str, dict[str, Tensor]]:
    """Map the adapted layers of a network to the tensors of their adapters, such as `lora_A.weight`."""
    found: dict[str, dict[str, Tensor]] = {}
    state = network.state_dict()
    for name in sorted(adapter_names(network)):
        layer, kind = re.split(r"\.(?=(?:lora|hada|lokr|oft)_)", name.replace(".default", ""), maxsplit=1)
        found.setdefault(layer, {})[kind] = state[name]
    return found


def tool_names(network: Any, part: str, tool: Tool, encoders: int = 1) -> dict[str, tuple[str, ...]]:
    """Map a tool's name of each adapted layer of a network to the layers of diffusers that it contains.

    Args:
        network: network with adapters.
        part: name of the network in its pipeline, such as `unet`, `transformer` or `text_encoder_2`.
        tool: `kohya` or `comfyui`.
        encoders: number of text encoders with adapters.

    Raises:
        ValueError: if the tool has no name for the network or one of the layers.
    """
    layers = adapters_by_layer(network)
    if part.startswith("text_encoder"):
        prefix = "lora_te" if encoders == 1 else f"lora_te{part[13:] or 1}"
        return {f"{prefix}_text_model_{name.removeprefix('text_model.').replace('.', '_')}": (name,) for name in layers}
    if part == "unet":
        return {f"lora_unet_{name.replace('.', '_')}": (name,) for name in layers}
    kind = next((each.__name__ for each in type(network).__mro__ if each.__name__ in NAMES), None)
    names = NAMES[kind] if kind else None
    if names is None or (tool == "kohya" and not names.kohya):
        raise ValueError(f"{tool} has no names for adapters of {type(network).__name__}: {MERGED}")
    found: dict[str, tuple[str, ...]] = {}
    unknown = []
    for layer in layers:
        original = (layer, (layer,)) if names.blocks is None else _original(layer, names.blocks)
        if original is None:
            unknown.append(layer)
        elif tool == "kohya":
            found[f"lora_unet_{original[0].replace('.', '_')}"] = original[1]
        elif names.comfyui == "transformer.":
            found[f"transformer.{layer}"] = (layer,)
        else:
            found[f"{names.comfyui}{original[0]}"] = original[1]
    if unknown:
        raise ValueError(
            f"{tool} has no names for adapters of {join_names(unknown)} of {kind}: leave them out of adapters.targets"
        )
    return found


def _original(layer: str, blocks: Layers) -> tuple[str, tuple[str, ...]] | None:
    """Return the original name of a layer, and all layers that are fused under this name."""
    block, _, rest = layer.partition(".")
    number, _, name = rest.partition(".")
    new, table = blocks.get(block, ("", {}))
    return next(
        (
            (f"{new}.{number}.{original}", tuple(f"{block}.{number}.{each}" for each in fused.split()))
            for original, fused in table.items()
            if name in fused.split()
        ),
        None,
    )


def save_adapters(parts: Mapping[str, Any], file: Path, tool: Tool) -> None:
    """Save the adapters of networks under the names of a tool, each layer with its alpha.

    LoHa and LoKr have the names of LyCORIS, which scales a LoKr of two full matrices by 1, whatever its alpha.

    Args:
        parts: networks with adapters by their names in the pipeline, the denoising network first.
        file: new `.safetensors` file.
        tool: `kohya` or `comfyui`.

    Raises:
        ValueError: if the tool cannot read the adapters.
    """
    found: dict[str, Tensor] = {}
    for part, network in parts.items():
        adapters = adapters_by_layer(network)
        kinds = {kind for tensors in adapters.values() for kind in tensors}
        if unread := [kind for kind in kinds if kind.startswith(("oft_", "lora_magnitude"))]:
            name = "OFT" if unread[0].startswith("oft_") else "DoRA"
            raise ValueError(f"--format {tool} is for LoRA, LoHa and LoKr, not for {name}: {MERGED}")
        apart = tool_names(network, part, "comfyui", len(parts) - 1)
        for name, fused in tool_names(network, part, tool, len(parts) - 1).items():
            own = [layer for layer in fused if layer in adapters]
            tensors, scale = dict(adapters[own[0]]), network.get_submodule(own[0]).scaling["default"]
            if len(fused) > 1:
                if "lora_A.weight" not in tensors:
                    remedy = "--format comfyui keeps them apart" if f"transformer.{own[0]}" in apart else MERGED
                    raise ValueError(f"{tool} fuses {join_names(fused)}, which only LoRA can have together: {remedy}")
                tensors["lora_A.weight"] = torch.cat([adapters[layer]["lora_A.weight"] for layer in own])
                tensors["lora_B.weight"] = torch.block_diag(
                    *(
                        adapters[layer]["lora_B.weight"]
                        if layer in own
                        else torch.zeros(network.get_submodule(layer).out_features, 0)
                        for layer in fused
                    )
                )
            if {"lokr_w1", "lokr_w2"} <= tensors.keys():
                tensors["lokr_w1"], scale = tensors["lokr_w1"] * scale, 1.0
            found |= {f"{name}.{_renamed(kind, name)}": value for kind, value in tensors.items()}
            found[f"{name}.alpha"] = torch.tensor(float(scale * _rank(tensors)))
    if not found:
        raise ValueError(f"--format {tool} needs a text-to-image model with tuning: lora; this run has no adapters")
    save_file({name: value.detach().cpu().contiguous() for name, value in found.items()}, file)


def _renamed(kind: str, name: str) -> str:
    """Return a tool's name of a tensor of an adapter."""
    return (
        {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}.get(kind, kind)
        if (name.startswith("lora_"))
        else kind
    )


def _rank(tensors: Mapping[str, Tensor]) -> int:
    """Return the rank of an adapter by which a tool divides alpha; 1 if there is none."""
    named = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    return next((len(tensors[kind]) for kind in named if kind in tensors), 1)


def read_adapters(
    tensors: dict[str, Tensor], network: Any, part: str, encoders: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Move the tensors of a network's adapters out of a tool's file.

    Args:
        tensors: tensors of the file. Those that belong to the network are removed.
        network: network with adapters, which must have the layers and the rank of those in the file.
        part: name of the network in its pipeline.
        encoders: number of text encoders with adapters.

    Returns:
        The tensors by the names of the network, such as `blocks.0.attn.to_q.lora_A.weight`, and the scales of layers.
    """
    own = adapters_by_layer(network)
    state: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for tool in ("kohya", "comfyui"):
        try:
            names = tool_names(network, part, tool, encoders)
        except ValueError:  # diffusers may know the layers
            continue
        for name, fused in names.items():
            given = {
                kind: tensors.pop(key)
                for kind in {kind for layer in fused for kind in own.get(layer, ())}
                for key in (f"{name}.{kind}", f"{name}.{_renamed(kind, 'lora_')}")
                if key in tensors
            }
            if not given:
                continue
            rank = _rank(given)
            full = {"lokr_w1", "lokr_w2"} <= given.keys()
            alpha = tensors.pop(f"{name}.alpha", torch.tensor(rank))
            scale = 1.0 if full else float(alpha) / rank
            for layer, values in _split(given, fused, own, network).items():
                state |= {f"{layer}.{kind}": value for kind, value in values.items()}
                scales[layer] = scale
    return state, scales


def _split(
    given: dict[str, Tensor], fused: tuple[str, ...], own: Mapping[str, Mapping[str, Tensor]], network: Any
) -> dict[str, dict[str, Tensor]]:
    """Split the LoRA of a fused layer. Its parts have their own matrices A if B is block-diagonal, or else share A."""
    if len(fused) == 1 or len(given) < 2:
        return {fused[0]: given}
    down, up = given["lora_A.weight"], given["lora_B.weight"]
    sizes = [network.get_submodule(layer).out_features for layer in fused]
    if sum(sizes) != len(up):
        return {fused[0]: given}  # the check of sizes refuses it
    rows = dict(zip(fused, up.split(sizes), strict=True))
    adapted = [layer for layer in fused if layer in own]
    size, rest = divmod(len(down), len(adapted))
    parts = {layer: slice(i * size, (i + 1) * size) for i, layer in enumerate(adapted)}
    outside = {layer: rows[layer].clone() for layer in adapted}
    for layer, columns in parts.items():
        outside[layer][:, columns] = 0
    if rest or size != len(own[adapted[0]]["lora_A.weight"]) or any(each.any() for each in outside.values()):
        parts = dict.fromkeys(adapted, slice(None))
    found = {
        layer: {"lora_A.weight": down[columns], "lora_B.weight": rows[layer][:, columns]}
        for layer, columns in parts.items()
    }
    return found | {layer: {"lora_B.weight": rows[layer]} for layer in fused if layer not in own and rows[layer].any()}
