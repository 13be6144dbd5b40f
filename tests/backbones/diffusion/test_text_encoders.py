"""Text encoders can be moved to the CPU or freed; embeddings are the same as with encoders on the network's device."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_encoders import Prompts
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.diffusion.finetuning.objectives import LossOptions
from tests.backbones.diffusion.family_checks import FAMILIES, noise, side_of
from tests.backbones.diffusion.test_export import moved
from tests.diffusion.finetuning.models import captioned, loss_of_a_step, trainer, tuning

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


def with_text(folder: Path, **options: Any) -> TextToImage:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "tuning": "lora",
        "adapters": Adapters(2),
        "text_adapters": Adapters(2, alpha=3),
        **options,
    }
    return TextToImage(str(folder), **given)


@pytest.mark.parametrize("fixture", ["text_to_image", "xl"])
def test_diffusers_alone_loads_adapters_of_text_encoders(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda min_version: None)  # wants 0.22
    folder = request.getfixturevalue(fixture)
    model, plain = with_text(folder).eval(), DiffusionPipeline.from_pretrained(folder)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "latents": noise(model, 1)}

    def drawn(pipeline: Any) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        return pipeline("a cat", **options, output_type="pt", generator=torch.Generator().manual_seed(0)).images

    torch.testing.assert_close(drawn(model.pipeline), drawn(plain), atol=1e-6, rtol=0)
    moved(model.text_encoders)
    expected = drawn(model.pipeline)
    assert (expected - drawn(plain)).abs().max() > 1e-3
    save_model(model, tmp_path / "lora", writes=True)
    plain.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(drawn(plain), expected, atol=1e-5, rtol=0)
    save_model(model, tmp_path / "merged", writes=True, merge=True)
    torch.testing.assert_close(
        drawn(DiffusionPipeline.from_pretrained(tmp_path / "merged")), expected, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(drawn(model.pipeline), expected, atol=0, rtol=0)


@pytest.mark.parametrize("fixture", ["text_to_image", "xl"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_every_adapter_of_a_text_encoder_has_the_gradient_of_the_pipelines_calls(
    fixture: str, recomputed: bool, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    model = with_text(folder, gradient_checkpointing=recomputed).train()
    moved(model)
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = loss_of_a_step(tuning(model, min_snr_gamma=None), {"image": image, "caption": ["a cat", "dog", "b"]})
    found = [each.grad for each in model.parameters() if each.requires_grad]
    assert all(gradient is not None and gradient.any() for gradient in found)
    model.zero_grad()
    torch.manual_seed(5)
    draw, e, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.randint(1000, (3,))
    posterior, abar = model.vae.encode(2 * image - 1).latent_dist, model.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    z = (posterior.mean + posterior.std * draw) * model.vae.config.scaling_factor
    embedded = model.pipeline.encode_prompt(
        ["a cat", "dog", "b"], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    added: Any = (
        {"text_embeds": embedded[2], "time_ids": torch.tensor([[16, 16, 0, 0, 16, 16]] * 3)} if model.is_xl else {}
    )
    output = model.network(abar.sqrt() * z + (1 - abar).sqrt() * e, t, embedded[0], added_cond_kwargs=added).sample
    expected = (output - e).square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    gradients = [each.grad for each in model.parameters() if each.requires_grad]
    torch.testing.assert_close(found, gradients, rtol=1e-3, atol=1e-5)


def test_dropped_captions_have_the_present_embedding_of_the_empty_prompt(text_to_image: Path) -> None:
    model = with_text(text_to_image).train()
    module = tuning(model, caption_dropout=0.999999)
    module.dropout.prepare(model)
    before = module.dropout(model.encode_prompts(["a cat"])).embedding
    moved(model)
    after = module.dropout(model.encode_prompts(["a cat"])).embedding
    assert after.requires_grad
    torch.testing.assert_close(after, model.empty_prompts(1).embedding)
    assert not torch.allclose(after, before)


def test_what_does_not_fit_adapters_of_text_encoders_is_rejected(text_to_image: Path, tmp_path: Path) -> None:
    for options, message in (
        (
            {"tuning": "full", "adapters": Adapters()},
            "text_adapters need tuning lora, .*, got full, lora, lora and False",
        ),
        ({"text_adapters": Adapters(kind="oft")}, "text_adapters need .*, got lora, lora, oft and False"),
        ({"offload_text_encoders": True}, "text_adapters need .*offload_text_encoders false, got .* and True"),
        ({"text_adapters": Adapters(targets=["to_q"])}, r"adapters\.targets: CLIPTextModel has no layer named to_q"),
    ):
        with pytest.raises(ValueError, match=message):
            with_text(text_to_image, **options)
    with pytest.raises(ValueError, match="cache_dir must be null with text_adapters, because embeddings change"):
        tuning(with_text(text_to_image), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"text_adapters must be null with loss\.dpo_beta"):
        tuning(with_text(text_to_image), min_snr_gamma=None, loss=LossOptions(dpo_beta=1.0))
    module: Any = tuning(with_text(text_to_image))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other: Any = tuning(with_text(text_to_image, text_adapters=None))
    other.trainer = SimpleNamespace(state=SimpleNamespace(fn=None))
    with pytest.raises(ValueError, match=r"text_adapters must be \{'peft_type': 'lora', 'r': 2.*, got None"):
        other.on_load_checkpoint(checkpoint)
