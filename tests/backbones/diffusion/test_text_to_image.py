import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from lightning_modules.backbones.diffusion.hunyuan_dit import HunyuanDiT
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from tests.tiny_pipelines import save_inpainting, save_text_to_image


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_generates_what_diffusers_alone_generates(text_to_image: Path) -> None:
    model = TextToImage(str(text_to_image))
    alone: Any = StableDiffusionPipeline.from_pretrained(text_to_image)
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}
    expected = alone(["a cat", "dog"], latents=noise(), output_type="pt", **options).images
    generated = model.generate(model.encode_prompts(["a cat", "dog"]), noise(), **options)
    torch.testing.assert_close(generated, expected)
    assert model.latent_shape(3) == (3, 4, 8, 8)
    assert model.image_size == 16


def test_sdxl_has_two_encoders_and_looks_at_sizes(xl: Path) -> None:
    model = TextToImage(str(xl))
    alone: Any = StableDiffusionXLPipeline.from_pretrained(xl)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    expected = alone(["a cat", "dog"], latents=noise(), output_type="pt", **options).images
    prompts = model.encode_prompts(["a cat", "dog"])
    assert prompts.embedding.shape == (2, 16, 32)
    assert prompts.pooled is not None
    assert prompts.pooled.shape == (2, 16)
    torch.testing.assert_close(model.generate(prompts, noise(), **options), expected)
    empty = model.empty_prompts(3)
    assert empty.pooled is not None
    assert not empty.embedding.any()
    assert not empty.pooled.any()
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
    added = {"text_embeds": prompts.pooled, "time_ids": sizes}
    timestep = torch.tensor([3, 500])
    direct = alone.unet(noise(), timestep, encoder_hidden_states=prompts.embedding, added_cond_kwargs=added).sample
    assert torch.equal(model(noise(), timestep, prompts), direct)


@pytest.mark.parametrize(("kind", "skip"), [("text_to_image", 1), ("text_to_image", 2), ("xl", 1)])
def test_prompts_skip_the_last_layers_as_in_diffusers(kind: str, skip: int, request: pytest.FixtureRequest) -> None:
    folder, texts, xl = str(request.getfixturevalue(kind)), ["a cat", "dog"], kind == "xl"
    model, plain = TextToImage(folder, clip_skip=skip), TextToImage(folder)
    alone: Any = (StableDiffusionXLPipeline if xl else StableDiffusionPipeline).from_pretrained(folder)
    short = copy.deepcopy(alone.text_encoder)
    prompts, negative = model.encode_prompts(texts), model.negative_prompts("fox", 2)
    if not xl:
        vars(alone.text_encoder).setdefault("text_model", alone.text_encoder)  # as diffusers 0.42 expects
        inner = getattr(short, "text_model", short)
        inner.encoder.layers = inner.encoder.layers[: 2 - skip]
        ids = alone.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
        torch.testing.assert_close(prompts.embedding, short(ids).last_hidden_state)
    given: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True, "clip_skip": skip}
    encoded = alone.encode_prompt(prompt=texts, device="cpu", negative_prompt=["fox"] * 2, **given)
    assert torch.equal(prompts.embedding, encoded[0])
    assert torch.equal(negative.embedding, encoded[1])
    assert not torch.allclose(prompts.embedding, plain.encode_prompts(texts).embedding)
    assert torch.equal(model.empty_prompts(1).embedding, plain.empty_prompts(1).embedding)
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    expected = alone(texts, latents=noise(), output_type="pt", clip_skip=skip, **options).images
    torch.testing.assert_close(model.generate(prompts, noise(), **options), expected)
    most = 1 if xl else 2
    with pytest.raises(ValueError, match=rf"clip_skip must be in \[1, {most}\], got {most + 1}"):
        TextToImage(folder, clip_skip=most + 1)


def test_a_family_without_clip_alone_skips_no_layers(hunyuan_dit: Path) -> None:
    with pytest.raises(ValueError, match=r"clip_skip is used only with Stable Diffusion and SDXL: leave it at None"):
        HunyuanDiT(str(hunyuan_dit), clip_skip=1)


def test_another_scheduler_of_the_same_levels_samples(xl: Path) -> None:
    model = TextToImage(str(xl), sampler="DPMSolverMultistepScheduler")
    alone: Any = StableDiffusionXLPipeline.from_pretrained(xl)
    alone.scheduler = DPMSolverMultistepScheduler.from_config(alone.scheduler.config)
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}
    expected = alone(["a cat"], latents=noise(1), output_type="pt", **options).images
    torch.testing.assert_close(model.generate(model.encode_prompts(["a cat"]), noise(1), **options), expected)
    with pytest.raises(ValueError, match="sampler must be one of DDIMScheduler, DPMSolverMultistepScheduler"):
        TextToImage(str(xl), sampler="Euler")  # type: ignore[arg-type]


def test_latents_are_those_of_the_autoencoder(text_to_image: Path) -> None:
    model = TextToImage(str(text_to_image))
    image, draw = torch.rand(2, 3, 16, 16), noise()
    posterior = model.pipeline.vae.encode(2 * image - 1).latent_dist
    expected = 0.18215 * (posterior.mean + torch.exp(0.5 * posterior.logvar) * draw)
    torch.testing.assert_close(model.encode(image, draw), expected)
    torch.testing.assert_close(model.encode(image), 0.18215 * posterior.mean)
    decoded = model.pipeline.vae.decode(expected / 0.18215).sample
    torch.testing.assert_close(model.decode(expected), (decoded + 1) / 2)


@pytest.mark.parametrize("kind", ["text_to_image", "xl"])
def test_some_prompts_are_replaced(kind: str, request: pytest.FixtureRequest) -> None:
    model = TextToImage(str(request.getfixturevalue(kind)))
    prompts, empty = model.encode_prompts(["a", "b"]), model.empty_prompts(1)
    replaced = prompts.replace(torch.tensor([True, False]), empty)
    for mixed, given, other in zip(replaced, prompts, empty, strict=True):
        if given is not None:
            assert torch.equal(mixed, torch.stack([other[0], given[1]]))


@pytest.mark.parametrize(("tuning", "dtype"), [("lora", "bfloat16"), ("full", None), ("frozen", None)])
def test_a_state_dict_holds_what_is_trained_and_loads_strictly(text_to_image: Path, tuning: Any, dtype: Any) -> None:
    models = [TextToImage(str(text_to_image), tuning=tuning, weights=Weights(dtype=dtype)) for _ in range(2)]
    trained = {name for name, parameter in models[0].named_parameters() if parameter.requires_grad}
    assert set(models[0].state_dict()) == trained
    assert all(("lora_" in name) == (tuning == "lora") and name.startswith("network.") for name in trained)
    assert all(parameter.dtype == torch.float32 for parameter in models[0].parameters() if parameter.requires_grad)
    torch.nn.Module.requires_grad_(models[1].text_encoders, False)
    with torch.no_grad():
        for parameter in models[0].parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    models[1].load_state_dict(models[0].state_dict())
    prompts = models[0].encode_prompts(["a", "cat"])
    outputs = [model(noise(), torch.tensor(5), prompts) for model in models]
    assert torch.equal(*outputs)
    assert outputs[0].dtype == torch.float32
    holder = torch.nn.ModuleDict({"inside": models[1]})
    holder.load_state_dict(holder.state_dict())
    if trained:
        with pytest.raises(RuntimeError, match="Missing key"):
            holder.load_state_dict({})


def test_it_computes_in_float64_where_it_is_asked_to(text_to_image: Path) -> None:
    model = TextToImage(str(text_to_image), tuning="lora").double()
    image = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    prompts = model.encode_prompts(["a", "b"])
    assert model(model.encode(image), torch.tensor([1, 2]), prompts).dtype == torch.float64
    assert model.generate(prompts, noise().double(), num_inference_steps=1).dtype == torch.float64


def test_what_does_not_fit_is_refused(unconditional: Path, tmp_path: Path) -> None:
    sample = str(save_text_to_image(tmp_path / "sample", prediction_type="sample"))
    for folder, message in (
        (sample, "prediction_type of DDIMScheduler must be one of epsilon, v_prediction, got 'sample'"),
        (str(unconditional), "lacks vae, text_encoder, tokenizer; its model_index.json has: scheduler, unet"),
        (
            str(save_inpainting(tmp_path / "inpainting")),
            "the unet of .* takes 9 channels, but its autoencoder's latents have 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            TextToImage(folder)
