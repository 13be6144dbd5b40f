"""A new word is learned as plain diffusers calls would learn it, and plain diffusers loads the saved files."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor
from torch.optim import SGD

import train
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.files.pixels import read_pixels
from datamodules.loading import Loading
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.folder_sets import CaptionedFolder
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.diffusion.finetuning import TextualInversion
from tests.datamodules.image_folders import photograph, save
from tests.diffusion.finetuning.models import captioned, loss_of_a_step, trainer

WORD, START, COUNT = "<x>", "b", 2
TEMPLATES = ["a {}", "the {}", "{} 1"]
FAMILIES = ["text_to_image", "xl", "flux"]


def inversion(network: TextToImage, **options: Any) -> TextualInversion:
    settings = {"num_vectors": COUNT, "templates": TEMPLATES, "sampling": Sampling(2), **options}
    return TextualInversion(network, WORD, START, optimizer=lambda p: SGD(p, lr=0.5), **settings)


def plain(folder: Path) -> CaptionedImages:
    for number in range(4):
        save(folder / f"{number}.png", photograph(20, 20, number))
    images = CaptionedFolder(str(folder), image_size=16)
    return CaptionedImages(
        images, 2, validation_fraction=0.25, loading=Loading(num_workers=0), augmentation=Augmentation(flip=True)
    )


def parts(pipeline: Any) -> list[tuple[Any, Any]]:
    """List the tokenizers and CLIP text encoders of a pipeline."""
    named = [(pipeline.tokenizer, pipeline.text_encoder)]
    if "XL" in type(pipeline).__name__:
        named.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    return named


def extended(folder: Path) -> Any:
    """Load a pipeline with diffusers, and add the new word to it with functions of transformers."""
    alone: Any = DiffusionPipeline.from_pretrained(folder)
    for tokenizer, encoder in parts(alone):
        start = tokenizer.convert_tokens_to_ids(f"{START}</w>")
        tokenizer.add_tokens([WORD, f"{WORD}_1"])
        encoder.resize_token_embeddings(len(tokenizer))
        with torch.no_grad():
            rows = encoder.get_input_embeddings().weight
            rows[-COUNT:] = rows[start]
    return alone


def loss_alone(alone: Any, family: str, image: Tensor, captions: list[str]) -> Tensor:
    """Compute the loss with the pipeline's networks; draw the random numbers of latents, then noise, then times."""
    draw, e = torch.randn(len(image), 4, 8, 8), torch.randn(len(image), 4, 8, 8)
    with torch.no_grad():
        posterior = alone.vae.encode(2 * image - 1).latent_dist
    config = alone.vae.config
    z = (posterior.mean + posterior.std * draw - (config.shift_factor or 0.0)) * config.scaling_factor
    if family == "flux":
        u = torch.sigmoid(torch.normal(0.0, 1.0, (len(image),)))
        shift = math.exp(calculate_shift(16))
        t = shift * u / (1 + (shift - 1) * u)
        embedding, pooled, text_ids = alone.encode_prompt(captions, captions)
        level = t.view(-1, 1, 1, 1)
        noisy = alone._pack_latents((1 - level) * z + level * e, *z.shape)
        _, image_ids = alone.prepare_latents(3, 4, 16, 16, z.dtype, z.device, None, noisy)
        output = alone.transformer(
            noisy, timestep=t, guidance=torch.full([3], 3.5), pooled_projections=pooled,
            encoder_hidden_states=embedding, txt_ids=text_ids, img_ids=image_ids,
        ).sample  # fmt: skip
        return (output - alone._pack_latents(e - z, *z.shape)).square().mean()
    t = torch.randint(1000, (len(image),))
    abar = alone.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    found = alone.encode_prompt(captions, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    added = None
    if family == "xl":
        sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 3)
        added = {"text_embeds": found[2], "time_ids": sizes}
    noisy = abar.sqrt() * z + (1 - abar).sqrt() * e
    output = alone.unet(noisy, t, encoder_hidden_states=found[0], added_cond_kwargs=added).sample
    return (output - e).square().mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(
    family: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(family)
    module = inversion(text_to_image_pipeline(str(folder)))
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    captions = ["a <x>", "<x> dog", "on <x>"]
    loss = loss_of_a_step(module, {"image": image, "caption": captions})
    alone = extended(folder)
    torch.manual_seed(5)
    expected = loss_alone(alone, family, image, captions)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert len(trained) == len(parts(alone))
    for vectors, (_, encoder) in zip(trained, parts(alone), strict=True):
        wanted = encoder.get_input_embeddings().weight.grad[-COUNT:]
        assert float(wanted.abs().max()) > 0
        torch.testing.assert_close(vectors.grad, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learned_is_loaded_by_diffusers_alone_which_draws_the_same_image(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(family)
    network = text_to_image_pipeline(str(folder))
    if family == "flux":
        network.pipeline.default_sample_size = 8
    before = {name: value.clone() for name, value in network.text_encoders.named_parameters()}
    module, own, data = inversion(network), trainer(tmp_path), plain(tmp_path / "images")
    own.fit(module, data)
    assert own.validate(module, data, verbose=False)[0]["val/loss"] > 0
    for name, value in network.text_encoders.named_parameters():
        assert name.endswith("vectors") or torch.equal(value, before[name]), name
    assert {name.rpartition(".")[2] for name in module.state_dict() if not name.startswith("average")} == {"vectors"}
    alone: Any = DiffusionPipeline.from_pretrained(folder)
    for number, (tokenizer, encoder) in enumerate(parts(alone), 1):
        name = "learned_embeds.safetensors" if number == 1 else f"learned_embeds_{number}.safetensors"
        more = {"tokenizer": tokenizer, "text_encoder": encoder}
        alone.load_textual_inversion(tmp_path / "run" / "pipeline", weight_name=name, **more)
        start = before[next(key for key in before if key.startswith(f"{number - 1}.") and "token_emb" in key)]
        loaded = encoder.get_input_embeddings().weight
        assert torch.equal(loaded[: len(start)], start)
        assert (loaded[-COUNT:] - start[tokenizer.convert_tokens_to_ids(f"{START}</w>")]).abs().amin(dim=1).max() > 0
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    given = {"latents": network.pack(noise), "height": 16, "width": 16, "output_type": "pt"}
    expected = alone("a <x> dog", **given, **options).images
    found = network.generate(network.encode_prompts(["a <x> dog"]), noise, **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, network.generate(network.encode_prompts(["a b dog"]), noise, **options), atol=1e-4)


def test_images_without_captions_get_a_random_template_each_step(text_to_image: Path) -> None:
    module, seen = inversion(text_to_image_pipeline(str(text_to_image))), []
    embedded = module.network.embed
    module.network.embed = lambda texts, device: seen.extend(texts) or embedded(texts, device)  # type: ignore[method-assign, func-returns-value]
    batch: Any = {"image": torch.rand(64, 3, 16, 16)}
    torch.manual_seed(0)
    module.prompts_of(batch)
    assert {seen.count(text) > 10 for text in ("a <x>", "the <x>", "<x> 1")} == {True}
    first, seen[:] = [*seen], []
    module.prompts_of(batch)
    assert seen != first
    seen.clear()
    module.eval().prompts_of(batch)
    assert set(seen) == {"a <x>"}


def test_half_precision_trains_vectors_in_float32(xl: Path) -> None:
    module = inversion(TextToImage(str(xl), weights=Weights(dtype="bfloat16")))
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    batch: Any = {"image": torch.rand(2, 3, 16, 16), "index": torch.arange(2), "global_batch_size": 2}
    module.training_step(batch, 0)["loss"].backward()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert [(each.dtype, each.grad is not None) for each in trained] == [(torch.float32, True)] * 2


def test_what_does_not_fit_is_rejected(text_to_image: Path, stable_diffusion_3: Path, tmp_path: Path) -> None:
    folder = str(text_to_image)
    for options, message in (
        ({"placeholder_token": "b"}, "placeholder_token must be new, but the tokenizer of the pipeline has 'b'"),
        ({"placeholder_token": "my cat"}, "placeholder_token must be one word without spaces"),
        ({"initializer_token": "cat"}, "initializer_token must be one token of the pipeline, but 'cat' is 3 tokens"),
        ({"num_vectors": 10**9}, r"num_vectors must be in \[1, 1000\], got 1000000000"),
        ({"templates": ["a cat"]}, r"templates must contain \{\} for the new word, got 'a cat'"),
        ({"templates": "person"}, "templates must be one of object, style, got 'person'"),
        ({"templates": []}, r"templates must contain \{\}"),
        ({"network": TextToImage(folder, tuning="lora")}, "network must have tuning: frozen"),
        ({"network": TextToImage(folder, offload_text_encoders=True)}, "network must have tuning: frozen and offload"),
        ({"network": text_to_image_pipeline(str(stable_diffusion_3))}, "a textual inversion into StableDiffusion3Pip"),
    ):
        settings: Any = {"placeholder_token": WORD, "initializer_token": START, **options}
        with pytest.raises(ValueError, match=message):
            TextualInversion(settings.pop("network", None) or TextToImage(folder), **settings)
    with pytest.raises(ValueError, match="captions must contain placeholder_token <x>, but one is 'a cat'"):
        trainer(tmp_path).fit(inversion(TextToImage(folder)), captioned(tmp_path / "images"))


def test_bad_input_is_reported_before_the_pipeline_is_loaded(
    text_to_image: Path, stable_diffusion_3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "mine" / "0.png", photograph(20, 20, 0))
    for source, target in ((text_to_image, "sd"), (stable_diffusion_3, "sd3")):
        ignored = shutil.ignore_patterns("*.safetensors")  # without weights, loading fails
        shutil.copytree(source, tmp_path / target, ignore=ignored)
    command = ["fit", "--config", "configs/finetuning/textual_inversion.yaml", "--run_directory", str(tmp_path / "run")]
    command += ["--data.images.data_dir", str(tmp_path / "mine"), "--data.images.image_size", "16"]
    word = ["--model.placeholder_token", WORD, "--model.initializer_token", START]
    family = "lightning_modules.backbones.diffusion.StableDiffusion3"
    for pipeline, more, message in (
        ("sd", ["--model.placeholder_token", "7", *word[2:]], "placeholder_token must be new"),
        ("sd", [*word[:2], "--model.initializer_token", "cat"], "'cat' is 3 tokens"),
        ("sd", [*word, "--data.images.prompt", "a cat"], "captions must contain placeholder_token <x>"),
        ("sd3", [*word, "--model.network", family], "into StableDiffusion3Pipeline"),
        ("sd", word, "no weights of CLIPTextModel"),
    ):
        assert train.main([*command, *more, "--model.network.pipeline", str(tmp_path / pipeline)]) == 1
        assert message in capsys.readouterr().err


def test_generate_uses_the_word_of_a_run(text_to_image: Path, tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "mine" / f"{number}.png", photograph(20, 20, number))
    command = ["fit", "--config", "configs/finetuning/textual_inversion.yaml", "--run_directory", str(tmp_path / "run")]
    command += ["--data.images.data_dir", str(tmp_path / "mine"), "--data.images.image_size", "16"]
    command += ["--model.placeholder_token", WORD, "--model.initializer_token", START, "--trainer.max_steps", "2"]
    command += [
        "--model.network.pipeline",
        str(text_to_image),
        "--model.templates",
        '["a {}"]',
        "--data.loading.num_workers",
        "0",
    ]
    assert train.main([*command, "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]) == 0
    line = ["generate", "--resume", str(tmp_path / "run"), "--prompts", "on <x>", "--steps", "2", "--guidance", "2"]
    assert train.main([*line, "--seed", "7", "--output", str(tmp_path / "new"), "--accelerator", "cpu"]) == 0
    [found] = (tmp_path / "new" / "images").glob("*.png")
    alone: Any = DiffusionPipeline.from_pretrained(text_to_image)
    alone.load_textual_inversion(tmp_path / "run" / "pipeline")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    given = {"latents": noise, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
    expected = 255 * alone("on <x>", height=16, width=16, **given).images[0]
    np.testing.assert_allclose(read_pixels(found, channels=3).transpose(1, 2, 0), expected, atol=1)
