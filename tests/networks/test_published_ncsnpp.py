"""The authors' checkpoints with our names, compared with a list of their parameters and values of their code.

The networks have levels with 8 and 16 channels, one residual block each, and attention at 4 x 4. The authors' code
computed the values in float64 from the parameters and inputs of `state` and `image`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.config_files import settings_of
from lightning_modules.networks.ncsnpp import NCSNpp
from lightning_modules.networks.published_ncsnpp import published_names, score_sde_weights
from tests.command import ROOT

SIZE: dict[str, Any] = {"image_size": 8, "width": 8, "multipliers": (1, 2), "num_blocks": 1, "attention_sizes": (4,)}
DDPMPP: dict[str, Any] = {"fir": False, "pyramid": "none", "centre_input": False}
TIMES: dict[str, Any] = {"embedding": "positional", "divide_by_level": False}
ENCODER = ("linear 16 32", "linear 32 32", "conv 3 8", "residual 8 8", "resize 8 8")
INSIDE = ("residual 8 16", "attention 16", "residual 16 16", "attention 16", "residual 16 16", "residual 32 16")
DECODER = ("residual 24 16", "attention 16")
LAST = ("norm 8", "conv 8 3")
FINE = ("resize 16 16", "residual 24 8", "residual 16 8")
LAYOUTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "NCSN++": ({}, ("frequencies 8", *ENCODER, "pyramid 3 8", *INSIDE, *DECODER, *FINE, *LAST)),
    "NCSN++, discrete": (
        TIMES,
        ("linear 8 32", *ENCODER[1:], "pyramid 3 8", *INSIDE, *DECODER, *FINE, *LAST),
    ),
    "DDPM++": (
        DDPMPP | TIMES,
        ("linear 8 32", *ENCODER[1:], *INSIDE, *DECODER, *FINE, *LAST),
    ),
    "NCSN++, large images": (
        {"pyramid": "skip"},
        ("frequencies 8", *ENCODER, "combine 3 8", *INSIDE, *DECODER, "norm 16", "conv 16 3", *FINE, *LAST),
    ),
}
PLACES = [0, 50, 100, 191, 192, 300]
OUTPUTS = {
    "NCSN++": [
        *(-0.6268998291826761, -0.5413750042911143, -0.19956464851527725),
        *(0.24028648013394532, -0.10834729738364018, -0.03211695730061934),
    ],
    "NCSN++, discrete": [
        *(-0.3161427599007614, -0.10725894989870044, -0.2466451900560524),
        *(-0.21542742412063892, -0.3199869797386039, -0.10469141679509177),
    ],
    "DDPM++": [
        *(0.12064093252799496, 0.34620381545075646, 0.02461793464578151),
        *(-0.22551456585489932, 0.13574744036611142, 0.09464118783974403),
    ],
    "NCSN++, large images": [
        *(0.07399258990713467, 1.5349881501554437, 0.2061713524606198),
        *(0.03138964415404466, 0.03445237468062395, 0.17356950555372308),
    ],
}


def parameters(layers: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the authors' parameters, in their order."""
    for number, layer in enumerate(layers):
        kind, *sizes = layer.split()
        before, after = int(sizes[0]), int(sizes[-1])
        parts: list[tuple[str, tuple[int, ...]]] = {
            "frequencies": [(".W", (after,))],
            "linear": [(".weight", (after, before))],
            "conv": [(".weight", (after, before, 3, 3))],
            "norm": [(".weight", (after,))],
            "pyramid": [(".Conv2d_0.weight", (after, before, 3, 3))],
            "combine": [(".Conv_0.weight", (after, before, 1, 1))],
            "attention": [(".GroupNorm_0.weight", (after,))] + [(f".NIN_{k}.W", (after, after)) for k in range(4)],
            "residual": [
                (".GroupNorm_0.weight", (before,)),
                (".Conv_0.weight", (after, before, 3, 3)),
                (".Dense_0.weight", (after, 32)),
                (".GroupNorm_1.weight", (after,)),
                (".Conv_1.weight", (after, after, 3, 3)),
                (".Conv_2.weight", (after, before, 1, 1)),
            ],
        }[kind.replace("resize", "residual")]
        for name, shape in parts[:-1] if kind == "residual" and before == after else parts:
            yield f"all_modules.{number}{name}", shape
            if kind != "frequencies":
                bias = name.replace(".weight", ".bias").replace(".W", ".b")
                yield f"all_modules.{number}{bias}", (shape[1] if ".NIN" in name else shape[0],)


def filled(shape: tuple[int, ...], start: float) -> Tensor:
    return 0.3 * torch.sin(0.7 * torch.arange(int(np.prod(shape)), dtype=torch.float64) + start).reshape(shape)


def checkpoint(path: Path, layers: tuple[str, ...], prefix: str = "module.", averaged: bool = True) -> Path:
    """Save a checkpoint whose trained weights differ from the averaged ones."""
    state = {name: filled(shape, place) for place, (name, shape) in enumerate(parameters(layers))}
    average = [value for name, value in state.items() if not name.endswith("modules.0.W")]
    trained = {prefix + name: value + (not name.endswith("modules.0.W")) for name, value in state.items()}
    content: dict[str, Any] = {"model": {f"{prefix}sigmas": torch.ones(3), **trained}, "step": 3, "optimizer": {}}
    if averaged:
        content["ema"] = {"decay": 0.999, "num_updates": 3, "shadow_params": average}
    torch.save(content, path)
    return path


def image() -> Tensor:
    return 0.5 + 0.5 * torch.sin(0.13 * torch.arange(384, dtype=torch.float64)).reshape(2, 3, 8, 8)


@pytest.mark.parametrize(("options", "layers"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_names_and_their_order_are_those_of_the_authors_code(options: dict[str, Any], layers: tuple[str, ...]) -> None:
    with torch.device("meta"):
        network = NCSNpp(**SIZE, **options)
    names, own = published_names(network), network.state_dict()
    assert list(names) == [name for name, _ in parameters(layers)]
    assert set(names.values()) == set(own)
    assert all(own[names[name]].shape == shape for name, shape in parameters(layers) if "Dense" not in name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_network_computes_what_the_authors_code_does(layout: str, tmp_path: Path) -> None:
    options, layers = LAYOUTS[layout]
    network = NCSNpp(**SIZE, **options).double().eval()
    path = checkpoint(tmp_path / "checkpoint_24.pth", layers)
    assert score_sde_weights(network, str(path)) is network
    level = [17.0, 500.0] if "embedding" in options else [0.5, 3.0]
    with torch.no_grad():
        found = network(image(), torch.tensor(level, dtype=torch.float64)).flatten()[PLACES]
    # diffusers computes the angles of the time embedding in float32
    expected = torch.tensor(OUTPUTS[layout], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if "embedding" in options else 1e-12)


def test_weights_without_averages_are_read(tmp_path: Path) -> None:
    options, layers = LAYOUTS["DDPM++"]
    network = NCSNpp(**SIZE, **options).double()
    score_sde_weights(network, str(checkpoint(tmp_path / "plain.pth", layers, "", averaged=False)))
    expected = 1 + filled((32, 8), 0)
    torch.testing.assert_close(network.get_parameter("told.0.weight").data, expected, rtol=0, atol=0)


def test_another_layout_is_one_sentence(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "deep.pth", LAYOUTS["NCSN++"][1])
    with pytest.raises(ValueError, match=r"deep\.pth has a different layout from the network: missing: all_modules\."):
        score_sde_weights(NCSNpp(**{**SIZE, "num_blocks": 2}), str(path))
    with pytest.raises(ValueError, match=r"unexpected: all_modules\.0\.W, "):
        score_sde_weights(NCSNpp(**SIZE, **DDPMPP, **TIMES), str(path))
    with pytest.raises(ValueError, match=r"wrong shape: .*told\.0\.weight \[32, 16\] instead of \[64, 32\]"):
        score_sde_weights(NCSNpp(**{**SIZE, "width": 16}), str(path))
    content = torch.load(path, weights_only=True)
    content["ema"]["shadow_params"].pop()
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"shadow_params must be a list of \d+ tensors, got \d+ values"):
        score_sde_weights(NCSNpp(**SIZE), str(path))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere"):
        score_sde_weights(NCSNpp(**SIZE), str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("data", ["cifar10_ve", "cifar10_vp"])
def test_configurations_read_into_the_networks_that_they_extend(data: str) -> None:
    released, trained = (
        settings_of(ROOT / "configs" / f"score_sde{end}" / f"{data}.yaml") for end in ("_released", "")
    )
    start = "model.network.network."
    inside = {key.removeprefix(start): value for key, value in released.items() if key.startswith(start)}
    own = {key.removeprefix("model.network."): value for key, value in trained.items() if "model.network." in key}
    assert inside == own
