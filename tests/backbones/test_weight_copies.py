"""Frozen weights on the CPU, of which a layer's copies are on the device."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.backbones.quantization import prepare_for_ddp
from lightning_modules.backbones.weight_copies import offloaded_names
from lightning_modules.diffusion.finetuning.data_checks import check_sharding
from tests.backbones.diffusion.family_checks import FAMILIES, noise, side_of
from tests.backbones.diffusion.test_export import moved
from tests.diffusion.finetuning.models import tuning
from tests.nightly import nightly_beyond


def lora(folder: Path, recomputes: bool = True, **weights: Any) -> TextToImage:
    torch.manual_seed(0)
    kind = type(text_to_image_pipeline(str(folder)))
    return kind(str(folder), Weights(**weights), "lora", Adapters(2), recomputes).train()


def loss(model: TextToImage, side: int) -> torch.Tensor:
    t = torch.tensor([0.3] if model.prediction == "flow" else [300])
    return model(noise(model, 1, side), t, model.encode_prompts(["a cat"])).square().sum()


@pytest.mark.parametrize(
    ("fixture", "quantization"),
    nightly_beyond(
        [("text_to_image", None), ("text_to_image", "float8"), ("flux", None), ("hunyuan_dit", "float8")],
        product(["text_to_image", *FAMILIES], [None, "float8"]),
    ),
)
def test_offloaded_blocks_have_the_loss_and_gradients_of_the_plain_run(
    fixture: str, quantization: Any, request: pytest.FixtureRequest
) -> None:
    found = []
    for offloaded in (False, True):
        model = lora(request.getfixturevalue(fixture), offload_blocks=offloaded, quantization=quantization)
        moved(model)
        value = loss(model, side_of(fixture))
        value.backward()
        found.append([value, *(each.grad for each in model.parameters() if each.requires_grad)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True) if one is not None)
    assert len(offloaded_names(model.network)) > 20


@pytest.mark.parametrize("fixture", ["stable_diffusion_3", "text_to_image"])
def test_blocks_compute_on_the_device_and_their_weights_stay_on_the_cpu(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    """The device is `meta`, which rejects weights on the CPU and has no values."""
    model = lora(request.getfixturevalue(fixture), offload_blocks=True)
    prompts, network, names = model.encode_prompts(["a cat"]), model.network.to("meta"), offloaded_names(model.network)
    homes = {name: each for name, each in network.named_parameters() if name in names}
    assert {each.device.type for each in homes.values()} == {"cpu"}
    assert {each.device.type for name, each in network.named_parameters() if name not in names} == {"meta"}
    latent = noise(model, 1, 16).to("meta")
    model(latent, torch.tensor([300.0], device="meta"), prompts.to("meta")).sum().backward()
    assert {each.grad.device.type for each in network.parameters() if each.grad is not None} == {"meta"}
    assert all(network.get_parameter(name) is each for name, each in homes.items())


def test_offloaded_weights_are_left_out_of_ddp(flux: Path) -> None:
    module = tuning(lora(flux, offload_blocks=True))
    prepare_for_ddp(module)
    left_out = set(module._ddp_params_and_buffers_to_ignore)  # type: ignore[arg-type]
    assert left_out == {f"network.network.{name}" for name in offloaded_names(module.network.network)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": "full"}, "tuning must be lora or frozen with weights.offload_blocks, got full"),
        (
            {"gradient_checkpointing": False},
            "gradient_checkpointing must be True with weights.offload_blocks, got False",
        ),
        ({"adapters": Adapters(dora=True)}, "adapters.dora must be False with weights.offload_blocks, got True"),
        ({"quantization": "nf4"}, "weights.quantization must be None or float8 with weights.offload_blocks, got nf4"),
    ],
)
def test_what_does_not_fit_is_rejected_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"tuning": "lora", "gradient_checkpointing": True, **options}
    weights = Weights(offload_blocks=True, quantization=given.pop("quantization", None))
    with pytest.raises(ValueError, match=re.escape(message)):
        Flux("/nowhere", weights, **given)


def test_offloaded_weights_are_not_sharded(flux: Path) -> None:
    module: Any = tuning(lora(flux, offload_blocks=True))
    module.trainer = type("Trainer", (), {"datamodule": None})()
    with pytest.raises(ValueError, match=r"weights\.offload_blocks must be false with ModelParallelStrategy"):
        check_sharding(module)
