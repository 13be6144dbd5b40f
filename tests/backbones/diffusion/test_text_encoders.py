"""Text encoders can be moved to the CPU or freed; embeddings are the same as with encoders on the network's device."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline

from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_encoders import Prompts
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from tests.backbones.diffusion.family_checks import FAMILIES, noise, side_of
from tests.diffusion.finetuning.models import captioned, trainer, tuning

FIRST = ("text_to_image", "flux", "qwen_image")


def assert_same(found: Prompts, expected: Prompts) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "family",
    [
        *FIRST,
        *(pytest.param(one, marks=pytest.mark.nightly) for one in ("xl", *FAMILIES) if one not in FIRST),
    ],
)
def test_freed_encoders_leave_known_prompts_and_the_pipeline_samples_from_them(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = text_to_image_pipeline(str(request.getfixturevalue(family)))
    texts = ["a cat", "dog"]
    expected, empty = model.encode_prompts(texts), model.empty_prompts(3)
    latent = noise(model, 2, side_of(family))

    def sampled() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return model.generate(expected, latent, num_inference_steps=1, guidance_scale=2.0, generator=generator)

    before = sampled()
    encoders = [weakref.ref(each) for each in model.text_encoders]
    weights = [weakref.ref(each) for encoder in model.text_encoders for each in encoder.parameters()]
    assert encoders
    model.free_text_encoders(["dog", "a cat", "dog"])
    gc.collect()
    assert [each() for each in encoders] == [None] * len(encoders)
    assert [each() for each in weights] == [None] * len(weights)
    assert_same(model.encode_prompts(texts), expected)
    assert_same(model.empty_prompts(3), empty)
    with pytest.raises(ValueError, match="the text encoders were freed after caching, and cannot embed the prompt 'b'"):
        model.encode_prompts(["dog", "b"])
    torch.testing.assert_close(sampled(), before, rtol=1e-4, atol=1e-5)
    model.free_text_encoders(["b"])  # as in a second fit


NEGATIVE = ("sana", "lumina2", "xl", "stable_diffusion_3", "pixart_sigma", "chroma", "qwen_image", "z_image")


@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=[pytest.mark.nightly] * (at > 1)) for at, each in enumerate(NEGATIVE)]
)
def test_negative_prompts_are_embedded_as_the_pipeline_embeds_them(family: str, request: pytest.FixtureRequest) -> None:
    folder, side = request.getfixturevalue(family), side_of(family)
    model, alone = text_to_image_pipeline(str(folder)), DiffusionPipeline.from_pretrained(folder)
    latent, prompts = noise(model, 1, side), ["a cat"]
    own: dict[str, Any] = {"use_resolution_binning": False} if family in ("sana", "pixart_sigma") else {}
    expected = alone(
        [*prompts], negative_prompt=["grey dog"], latents=model.pack(latent), height=side, width=side,
        output_type="pt", num_inference_steps=1, generator=torch.Generator().manual_seed(0),
        **model.for_guidance(3.0), **own,
    ).images  # fmt: skip
    model.negative_prompt = "grey dog"
    options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 3.0}
    embedded = model.encode_prompts(prompts)
    found = model.generate(embedded, latent, **options, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    model.negative_prompt = ""
    plain = model.generate(embedded, latent, **options, generator=torch.Generator().manual_seed(0))
    assert (plain - found).abs().max() > 1e-3


def test_memory_is_freed_even_if_a_wrapper_refers_to_the_weights(text_to_image: Path) -> None:
    """DistributedDataParallel is such a wrapper, because it keeps a list that includes the frozen parameters."""
    model = TextToImage(str(text_to_image))
    kept = list(model.text_encoders.parameters())
    model.free_text_encoders([""])
    assert {parameter.numel() for parameter in kept} == {0}


def test_the_encoders_of_a_fully_trained_model_are_kept_on_the_cpu_and_saved(flux: Path, tmp_path: Path) -> None:
    model = Flux(str(flux), tuning="full")
    model.free_text_encoders(["a"])
    assert not any("text_encoders" in name for name, _ in model.named_parameters())
    assert model.encode_prompts(["anything"]).embedding.any()
    save_model(model, tmp_path / "saved", writes=True)
    assert FluxPipeline.from_pretrained(tmp_path / "saved").text_encoder_2 is not None


def test_offloaded_encoders_stay_on_the_cpu_and_their_prompts_go_to_the_network(flux: Path) -> None:
    expected = Flux(str(flux)).encode_prompts(["a cat"])
    model = Flux(str(flux), offload_text_encoders=True)
    assert_same(model.encode_prompts(["a cat"]), expected)
    model.to("meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in model.text_encoders.parameters()} == {"cpu"}
    assert model.encode_prompts(["a cat"]).embedding.device.type == "meta"
    assert model.empty_prompts(2).pooled.device.type == "meta"  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_training_on_cached_prompts_frees_the_encoders_and_samples_and_validates(
    dtype: Any, flux: Path, tmp_path: Path
) -> None:
    network = Flux(str(flux), tuning="lora", weights=Weights(dtype=dtype))
    network.pipeline.default_sample_size = 8
    module = tuning(network, cache_dir=str(tmp_path / "cache"), prompts=["a fox"], caption_dropout=0.5)
    data, own = captioned(tmp_path / "images"), trainer(tmp_path)
    own.fit(module, data)
    assert list(network.text_encoders.parameters()) == []
    assert network.pipeline.text_encoder is None
    own.validate(module, data, verbose=False)
    assert module.sample(2, torch.Generator().manual_seed(0)).shape == (2, 3, 16, 16)
    columns = module.image_columns(next(iter(data.val_dataloader())), None)
    assert columns["sample"].values.shape == (1, 3, 16, 16)  # type: ignore[union-attr]
