"""The exported network takes every field of the prompts that its family uses, including masks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.exporting import program
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.interfaces import Exportable
from tests.diffusion.finetuning.models import tuning


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("text_to_image", ["embedding"]),
        ("stable_diffusion_3", ["embedding", "pooled"]),
        ("pixart_sigma", ["embedding", "mask"]),
        pytest.param("hunyuan_dit", ["embedding", "mask", "second", "second_mask"], marks=pytest.mark.nightly),
    ],
)
def test_the_function_is_the_call_of_the_network_with_all_fields(
    family: str, fields: list[str], request: pytest.FixtureRequest
) -> None:
    network = text_to_image_pipeline(str(request.getfixturevalue(family)), tuning="lora")
    module = tuning(network).eval()
    assert isinstance(module, Exportable)
    exported = module.export_function()
    assert list(exported.inputs) == ["x", "t", *fields]
    prompts = network.encode_prompts(["a cat", "dog"])
    given: list[Any] = [getattr(prompts, field).float() for field in fields]
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(network.latent_shape(2), generator=generator), torch.tensor([400, 7])
    with torch.no_grad(), exported.weights:
        found = exported.function(x, t, *given)
        torch.testing.assert_close(found, network(x, t, prompts), rtol=1e-5, atol=1e-6)
        if "mask" in fields:  # without a mask, padding changes the prediction
            seen = [torch.ones_like(one) if "mask" in name else one for name, one in zip(fields, given, strict=True)]
            assert (exported.function(x, t, *seen) - found).abs().max() > 1e-5


def test_times_are_those_of_the_scheduler(stable_diffusion_3: Path, text_to_image: Path) -> None:
    """Flow matching uses t in [0, 1], and its network receives 1000 t."""
    for folder in (stable_diffusion_3, text_to_image):
        module = tuning(text_to_image_pipeline(str(folder), tuning="lora"))
        times = module.export_function().inputs["t"].sample(64)
        assert 500 < times.max() <= 1000
        assert 0 <= times.min() < 500


@pytest.mark.parametrize(
    "family",
    [
        "stable_diffusion_3",
        *(
            pytest.param(family, marks=pytest.mark.nightly)
            for family in ("pixart_sigma", "flux", "flux2", "sana", "qwen_image", "hunyuan_dit")
        ),
    ],
)
def test_the_batch_of_a_program_is_free(
    family: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trace` compares the program with the network for batch sizes other than the traced one."""
    monkeypatch.setattr(program, "MULTIPLES", ())  # height and width are fixed
    module = tuning(text_to_image_pipeline(str(request.getfixturevalue(family)), tuning="lora")).eval()
    exported = module.export_function()
    with exported.weights:
        traced = program.trace(module, exported, dict(exported.sizes))
    assert all(0 in dynamic for dynamic in traced.dynamic)
    assert "B" not in traced.sizes


@pytest.mark.nightly
def test_a_network_that_needs_lengths_of_texts_on_the_host_is_rejected(lumina2: Path) -> None:
    module = tuning(text_to_image_pipeline(str(lumina2), tuning="lora")).eval()
    exported = module.export_function()
    with exported.weights, pytest.raises(ValueError, match="cannot be exported: its computation depends on values or"):
        program.trace(module, exported, dict(exported.sizes))
