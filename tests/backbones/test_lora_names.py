"""Adapters under the names of other programs: read by diffusers alone, and by the rules of ComfyUI."""

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_modules.backbones import diffusion
from lightning_modules.backbones.adaptation import Adapters, adapt
from lightning_modules.backbones.diffusion.export import merge_adapters
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights, adapted_parts
from lightning_modules.backbones.lora_names import Tool, save_adapters
from tests.backbones.diffusion.test_export import moved
from tests.nightly import nightly_beyond

JOINT, FEED_FORWARD = diffusion.Flux.default_lora_targets, [f"feed_forward.linear_{number}" for number in (1, 2, 3)]


def tuned(folder: Path, weights: Weights = Weights(), **options: Any) -> TextToImage:
    """Load a tiny pipeline of any family with adapters."""
    options = {"adapters": Adapters(2, alpha=3, rslora=True), **options}
    if folder.name.startswith("wan"):
        return diffusion.Wan(str(folder), weights, "lora", **options).eval()
    if "text_adapters" in options:
        return TextToImage(str(folder), weights, "lora", **options).eval()
    return text_to_image_pipeline(str(folder), weights, "lora", **options).eval()


def saved(model: TextToImage, file: Path, tool: Tool) -> dict[str, Tensor]:
    moved(model)
    save_adapters(adapted_parts(model), file, tool)
    return load_file(file)


def changes(network: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """Return the change of each adapted weight, as peft computes it."""
    layers = ((key, layer) for key, layer in network.named_modules() if name in getattr(layer, "scaling", {}))
    return {key: layer.get_delta_weight(name).detach() for key, layer in layers}  # type: ignore[operator]


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value.view_as(expected[key]), expected[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fixture", "tool"),
    [("flux", "comfyui"), ("flux_kontext", "comfyui"), ("chroma", "comfyui"), ("flux2", "kohya")]
    + [(fixture, tool) for fixture in ("qwen_image", "z_image") for tool in ("kohya", "comfyui")],
)
def test_diffusers_alone_reads_the_names_of_transformers(
    fixture: str, tool: Tool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    model = tuned(folder)
    saved(model, tmp_path / "lora.safetensors", tool)
    alone = type(model.pipeline).from_pretrained(folder)
    alone.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="own")
    close(changes(alone.transformer, "own"), changes(model.network))


@pytest.mark.parametrize("tool", ["kohya", "comfyui"])
def test_diffusers_alone_reads_the_names_of_wan(tool: Tool, wan: Path, tmp_path: Path) -> None:
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]  # it needs all with kohya's names
    model = diffusion.Wan(str(wan), tuning="lora", adapters=Adapters(2, alpha=3, targets=targets))
    saved(model, tmp_path / "lora.safetensors", tool)
    alone = diffusers.WanPipeline.from_pretrained(wan)
    alone.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="own")
    close(changes(alone.transformer, "own"), changes(model.network))
    again = diffusion.Wan(
        str(wan), Weights(lora=str(tmp_path / "lora.safetensors")), "lora", Adapters(2, targets=targets)
    )
    close(changes(again.network), changes(model.network))


def at_full_width(network: Any, adapters: Adapters) -> Any:
    """Add random adapters to a network on the meta device."""
    adapt(network, "lora", adapters=adapters)
    for module in network.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                setattr(module, key, nn.Parameter(torch.randn(parameter.shape)))
    return network


@pytest.mark.parametrize(
    ("kind", "tool", "layers"),
    [
        ("Flux", "kohya", [*JOINT, "proj_mlp", "single_transformer_blocks.0.proj_out", "ff.net.0.proj", "ff.net.2"]),
        ("Flux", "kohya", [*JOINT, "norm.linear", "norm1.linear", "norm1_context.linear", "ff_context.net.2"]),
        ("Chroma", "kohya", JOINT),
        ("Lumina2", "comfyui", ["to_q", "to_k", "to_v", "to_out.0", *FEED_FORWARD, "norm1.linear"]),
    ],
)
def test_diffusers_alone_reads_layers_that_others_fuse(kind: str, tool: Tool, layers: Any, tmp_path: Path) -> None:
    """diffusers splits fused layers at the widths of the released networks, and those of Lumina 2 only if all have
    adapters.
    """
    sizes = {"num_layers": 1, **({"num_refiner_layers": 1} if kind == "Lumina2" else {"num_single_layers": 1})}
    with torch.device("meta"):
        network = getattr(diffusers, f"{kind}Transformer2DModel")(**sizes)
    alpha = 2 if kind == "Lumina2" else 3  # diffusers rejects the alphas of Lumina 2
    at_full_width(network, Adapters(2, alpha=alpha, targets=layers))
    file = tmp_path / "lora.safetensors"
    save_adapters({"transformer": network}, file, tool)
    tensors = load_file(file)
    if kind == "Lumina2":
        assert all(float(tensors.pop(name)) == len(tensors[f"{name[:-5]}lora_A.weight"])
                   for name in list(tensors) if name.endswith(".alpha"))  # fmt: skip
    read = getattr(diffusers, f"{kind}Pipeline").lora_state_dict(tensors)
    found, expected = {}, {}
    for name, layer in network.named_modules():
        if hasattr(layer, "lora_A"):
            up, down = layer.lora_B.default.weight.detach().double(), layer.lora_A.default.weight.detach().double()
            expected[name] = up @ down.sum(1) * alpha / 2
    for name, down in read.items():
        if "lora_A" in name:
            layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
            found[layer] = read[name.replace("lora_A", "lora_B")].double() @ down.double().sum(1)
    added = found.keys() - expected.keys()  # the rows of layers without an adapter
    assert not any(found.pop(name).any() for name in added)
    close(found, expected)


def test_layers_that_stable_diffusion_3_fuses(stable_diffusion_3: Path, tmp_path: Path) -> None:
    """sd-scripts computes alpha / rank B A for a layer that computes q, k and v at once."""
    model = tuned(stable_diffusion_3)
    tensors = saved(model, tmp_path / "lora.safetensors", "kohya")
    expected = changes(model.network)
    for stream, layers in (("x", ("to_q", "to_k", "to_v")), ("context", ("add_q_proj", "add_k_proj", "add_v_proj"))):
        name = f"lora_unet_joint_blocks_0_{stream}_block_attn_qkv"
        down, up, alpha = (tensors[f"{name}.{each}"] for each in ("lora_down.weight", "lora_up.weight", "alpha"))
        rows = torch.cat([expected[f"transformer_blocks.0.attn.{layer}"] for layer in layers])
        torch.testing.assert_close(alpha / len(down) * up @ down, rows, atol=1e-5, rtol=1e-4)


TEXT = {"text_adapters": Adapters(3, alpha=2, targets=["q_proj", "v_proj", "fc1"])}


def by_comfyui(tensors: dict[str, Tensor], networks: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Add the adapters of a file to the weights of networks, as ComfyUI does for names that it knows from diffusers.

    ComfyUI reads `transformer.` or `diffusion_model.` and the names of diffusers, or `lora_unet_`, `lora_te_`,
    `lora_te1_` and `lora_te2_` and those names with underscores. LoKr of two full matrices are not scaled.
    """
    left, found = dict(tensors), {}
    for part, network in networks.items():
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        texts = ("lora_te_text_model_", "lora_te2_text_model_" if part[13:] else "lora_te1_text_model_")
        for layer in [name.removesuffix(".weight") for name, value in weights.items() if value.ndim > 1]:
            flat = layer.removeprefix("text_model.").replace(".", "_")
            prefixes = [f"transformer.{layer}", f"diffusion_model.{layer}", f"lora_unet_{flat}"]
            names = [f"{text}{flat}" for text in texts] if part.startswith("text_encoder") else prefixes
            name = next((each for each in names if f"{each}.alpha" in left), None)
            if name is None:
                continue
            given = {key.removeprefix(f"{name}."): left.pop(key) for key in list(left) if key.startswith(f"{name}.")}
            alpha, shape = float(given.pop("alpha")), weights[f"{layer}.weight"].shape
            kinds = {re.sub("lora_A|lora_down", "a", re.sub("lora_B|lora_up", "b", key)) for key in given}
            if kinds == {"a.weight", "b.weight"}:
                up, down = (given[key] for key in sorted(given, key=lambda key: re.search("up|_B", key) is None))
                change = alpha / len(down) * up.flatten(1) @ down.flatten(1)
            elif "hada_w1_a" in given:
                first, second = (given[f"hada_w{n}_a"] @ given[f"hada_w{n}_b"] for n in (1, 2))
                change = alpha / len(given["hada_w1_b"]) * first * second
            elif "lokr_w2" in given:
                change = torch.kron(given["lokr_w1"], given["lokr_w2"])
            else:
                change = torch.kron(given["lokr_w1"], given["lokr_w2_a"] @ given["lokr_w2_b"])
                change = alpha / len(given["lokr_w2_b"]) * change
            weights[f"{layer}.weight"] += change.reshape(shape)
        found[part] = weights
    assert not left
    return found


@pytest.mark.parametrize(
    ("fixture", "options"),
    [
        ("text_to_image", TEXT),
        pytest.param("xl", TEXT, marks=pytest.mark.nightly),  # dear, and diffusers reads the same names
        *((fixture, {}) for fixture in ("stable_diffusion_3", "flux", "chroma", "flux2", "qwen_image", "z_image")),
        ("pixart_sigma", {}),
        ("text_to_image", {"adapters": Adapters(2, alpha=3, kind="loha")}),
        ("text_to_image", {"adapters": Adapters(9, alpha=3, kind="lokr")}),  # both of its matrices are full
        ("stable_diffusion_3", {"adapters": Adapters(1, alpha=3, kind="lokr")}),
        ("flux2", {"adapters": Adapters(2, alpha=3, kind="loha")}),
    ],
)
def test_comfyui_computes_the_same_weights_and_training_starts_at_them(
    fixture: str, options: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    model = tuned(folder, **options)
    tensors = saved(model, tmp_path / "lora.safetensors", "comfyui")
    parts = adapted_parts(model)
    plain = type(model.pipeline).from_pretrained(folder)
    found = by_comfyui(tensors, {part: getattr(plain, part) for part in parts})
    close(
        {f"{part}.{name}": value for part, state in found.items() for name, value in state.items()},
        {f"{part}.{name}": value for part, network in parts.items()
         for name, value in merge_adapters(network, network.state_dict()).items()},
    )  # fmt: skip
    again = tuned(folder, Weights(lora=str(tmp_path / "lora.safetensors")), **options)
    for part, network in adapted_parts(again).items():
        close(changes(network), changes(parts[part]))


@pytest.mark.parametrize(
    ("fixture", "tool"),
    nightly_beyond(
        [("text_to_image", "kohya"), ("flux", "kohya"), ("lumina2", "comfyui")],
        [(each, "kohya") for each in ("text_to_image", "stable_diffusion_3", "flux", "flux2", "qwen_image", "lumina2")]
        + [("lumina2", "comfyui")],
    ),
)
def test_training_starts_at_a_file_with_any_alpha(
    fixture: str, tool: Tool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    model = tuned(folder)
    saved(model, tmp_path / "lora.safetensors", tool)
    again = tuned(folder, Weights(lora=str(tmp_path / "lora.safetensors")), adapters=Adapters(2, alpha=5))
    close(changes(again.network), changes(model.network))


def test_training_starts_at_fused_layers_with_one_matrix(flux: Path, tmp_path: Path) -> None:
    """sd-scripts trains one LoRA of q, k and v. Their LoRA in diffusers then share the matrix A."""
    model = tuned(flux)
    tensors, file = saved(model, tmp_path / "lora.safetensors", "kohya"), tmp_path / "shared.safetensors"
    expected = changes(model.network)
    for name in [each for each in tensors if "qkv" in each or "linear1" in each]:
        width = len(tensors[name]) if name.endswith("up.weight") else 2
        shape = {"alpha": (), "lora_down.weight": (2, *tensors[name].shape[1:]), "lora_up.weight": (width, 2)}
        tensors[name] = torch.randn(shape[name.partition(".")[2]]).abs()
    qkv = "lora_unet_double_blocks_0_img_attn_qkv"
    rows = tensors[f"{qkv}.alpha"] / 2 * tensors[f"{qkv}.lora_up.weight"] @ tensors[f"{qkv}.lora_down.weight"]
    tensors["lora_unet_single_blocks_0_linear1.lora_up.weight"][3 * len(rows) // 3 :] = 0  # there is no proj_mlp
    save_file(tensors, file)
    found = changes(tuned(flux, Weights(lora=str(file))).network)
    for layer, value in zip(("to_q", "to_k", "to_v"), rows.chunk(3), strict=True):
        expected[f"transformer_blocks.0.attn.{layer}"] = value
        torch.testing.assert_close(found[f"transformer_blocks.0.attn.{layer}"], value, atol=1e-5, rtol=1e-4)
    tensors[f"{qkv}.lora_up.weight"] = torch.randn(len(rows), 6)
    tensors[f"{qkv}.lora_down.weight"] = torch.randn(6, tensors[f"{qkv}.lora_down.weight"].shape[1])
    save_file(tensors, file)
    with pytest.raises(ValueError, match=rf"adapters\.rank must be that of {re.escape(str(file))}, 2 and 6"):
        tuned(flux, Weights(lora=str(file)))
    tensors["lora_unet_single_blocks_0_linear1.lora_up.weight"] += 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"has further adapters single_transformer_blocks\.0\.proj_mlp"):
        tuned(flux, Weights(lora=str(file)))


@pytest.mark.parametrize(
    ("fixture", "tool", "adapters", "message"),
    [
        ("text_to_image", "kohya", Adapters(kind="oft"), "--format kohya is for LoRA, LoHa and LoKr, not for OFT"),
        ("text_to_image", "comfyui", Adapters(dora=True), "--format comfyui is for LoRA, LoHa and LoKr, not for DoRA"),
        ("sana", "comfyui", Adapters(), "comfyui has no names for adapters of SanaTransformer2DModel: `push RUN"),
        ("pixart_sigma", "kohya", Adapters(), "kohya has no names for adapters of PixArtTransformer2DModel: `push RUN"),
        ("flux", "kohya", Adapters(kind="loha"), "together: --format comfyui keeps them apart"),
        ("flux", "kohya", Adapters(targets=["x_embedder"]), "x_embedder of FluxTransformer2DModel: leave them out of "),
    ],
)  # fmt: skip
def test_what_a_program_cannot_read_is_refused(
    fixture: str, tool: Tool, adapters: Adapters, message: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = text_to_image_pipeline(str(request.getfixturevalue(fixture)), tuning="lora", adapters=adapters)
    with pytest.raises(ValueError, match=re.escape(message)):
        save_adapters(adapted_parts(model), tmp_path / "lora.safetensors", tool)
    assert not list(tmp_path.iterdir())
