"""FLUX.1 and Chroma match plain diffusers, and are trained with the inputs that their pipelines pass."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.flux import Chroma, Flux, places
from lightning_modules.diffusion.finetuning.objectives import FlowMatching, FlowObjective
from tests.backbones.diffusion.family_checks import (
    CAPTIONS,
    assert_a_step_equals,
    assert_cached_equals_computed,
    assert_half_precision_is_inside,
    exported,
    train_on_one_image,
)
from tests.diffusion.finetuning.models import captioned, trainer, tuning
from tests.tiny_pipelines import save_flux

GIVEN: dict[str, Any] = {"height": 16, "width": 16, "output_type": "pt"}
STEPS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def packed(latent: Tensor) -> Tensor:
    """Pack 2 x 2 patches in row-major order; within a packed patch, the four pixels of a channel are adjacent."""
    return torch.nn.functional.unfold(latent, 2, stride=2).transpose(1, 2)


def drawn_by_chroma(alone: Any) -> Tensor:
    return alone(CAPTIONS[:2], latents=packed(noise()), **GIVEN, **STEPS).images


@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_it_generates_what_diffusers_alone_generates(guidance_embeds: bool, tmp_path: Path) -> None:
    folder = save_flux(tmp_path, guidance_embeds=guidance_embeds)
    model = Flux(str(folder))
    alone: Any = FluxPipeline.from_pretrained(folder)
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}
    given = {"latents": packed(noise()), "height": 16, "width": 16, "output_type": "pt"}
    expected = alone(["a cat", "dog"], **given, **options).images
    prompts = model.encode_prompts(["a cat", "dog"])
    torch.testing.assert_close(model.generate(prompts, noise(), **options), expected)
    assert (model.image_size, model.size_multiple, model.prediction) == (256, 4, "flow")
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_is_eulers(flux: Path) -> None:
    model = Flux(str(flux), training_guidance=2.0)
    prompts = model.encode_prompts(["a cat", "dog"])
    given = {**model.for_pipeline(prompts, prompts), "guidance_scale": 2.0, "output_type": "latent"}
    pipeline: Any = model.pipeline
    found = pipeline(**given, latents=packed(noise()), height=16, width=16, num_inference_steps=1).images
    with torch.no_grad():
        velocity = model(noise(), torch.tensor(1000.0), prompts)
    torch.testing.assert_close(found, packed(noise() - velocity))


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(flux: Path) -> None:
    network = Flux(str(flux), tuning="full", training_guidance=1.5)
    module = tuning(network, flow=FlowMatching())
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    captions = ["a cat", "dog", "bird"]
    batch: Any = {"image": image, "caption": captions, "index": torch.arange(3), "global_batch_size": 3}
    torch.manual_seed(5)
    loss = module.training_step(batch, 0)["loss"]
    loss.backward()

    alone: Any = FluxPipeline.from_pretrained(flux)
    alone.transformer.train()
    torch.manual_seed(5)
    draw, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
    shift = math.exp(calculate_shift(16))  # for 16 positions
    t = shift * u / (1 + (shift - 1) * u)
    with torch.no_grad():
        posterior = alone.vae.encode(2 * image - 1).latent_dist
        clean = (posterior.mean + posterior.std * draw - 0.1159) * 0.3611
        embedding, pooled, text_ids = alone.encode_prompt(captions, None)
    _, image_ids = alone.prepare_latents(3, 4, 16, 16, torch.float32, torch.device("cpu"), None, packed(clean))
    level = t.view(-1, 1, 1, 1)
    velocity = alone.transformer(
        hidden_states=packed((1 - level) * clean + level * e), timestep=t, guidance=torch.full([3], 1.5),
        pooled_projections=pooled, encoder_hidden_states=embedding, txt_ids=text_ids, img_ids=image_ids,
        joint_attention_kwargs={}, return_dict=False,
    )[0]  # fmt: skip
    expected = (velocity - packed(e - clean)).square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    theirs = dict(alone.transformer.named_parameters())
    for name, parameter in network.network.named_parameters():
        wanted = theirs[name].grad
        torch.testing.assert_close(
            parameter.grad, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()), msg=lambda text, n=name: n + text
        )


def test_the_configuration_says_which_layers_the_script_of_diffusers_adapts(flux: Path) -> None:
    """The header's option adds the feed-forward layers of image and text to the default."""
    header = " ".join(line[2:] for line in Path("configs/finetuning/flux_lora.yaml").read_text().splitlines())
    [targets] = re.findall(r"--model\.network\.adapters\.targets '(.*?)'", header)
    default, script = (
        {name.split(".lora_")[0] for name in Flux(str(flux), tuning="lora", adapters=adapters).state_dict()}
        for adapters in (Adapters(), Adapters(targets=yaml.safe_load(targets)))
    )
    assert default < script
    layers = {re.sub(r".*_blocks\.\d+\.", "", name) for name in script - default}
    assert layers == {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}


def test_adapters_trained_on_one_image_lower_its_loss_and_diffusers_alone_loads_them(
    flux: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Flux(str(flux), tuning="lora", adapters=Adapters(rank=2))
    objective = FlowObjective(model.scheduler, FlowMatching())
    prompts = model.encode_prompts(["a cat"]).rows([0] * 4)
    latent = model.encode(torch.rand(1, 3, 16, 16)).expand(4, -1, -1, -1)
    e, t = torch.randn(latent.shape), torch.tensor([0.2, 0.4, 0.6, 0.8])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses: list[float] = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective.errors(model, latent, prompts, e, t).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    save_model(model, tmp_path / "tuned", writes=True)
    alone: Any = FluxPipeline.from_pretrained(flux)
    alone.load_lora_weights(tmp_path / "tuned")
    given = {"prompt_embeds": prompts.embedding[:2], "pooled_prompt_embeds": prompts.pooled[:2]}  # type: ignore[index]
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    sizes: dict[str, Any] = {"height": 16, "width": 16, "output_type": "pt"}
    expected = alone(**given, **sizes, **options, latents=packed(noise())).images
    found = model.generate(prompts.rows([0, 1]), noise(), **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_whole_tuned_pipeline_is_loaded_by_diffusers_alone(flux: Path, tmp_path: Path) -> None:
    model = Flux(str(flux), tuning="full")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(model.eval(), tmp_path / "tuned", writes=True)
    alone: Any = FluxPipeline.from_pretrained(tmp_path / "tuned")
    for name, value in alone.transformer.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[name]), name
        assert not torch.equal(value, before[name]), name
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    sizes: dict[str, Any] = {"height": 16, "width": 16, "output_type": "pt"}
    expected = alone(["a cat", "dog"], latents=packed(noise()), **sizes, **options).images
    found = model.generate(model.encode_prompts(["a cat", "dog"]), noise(), **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_positions_are_the_pipelines(flux: Path) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    expected = FluxPipeline._prepare_latent_image_ids(2, 3, 5, like.device, like.dtype)
    assert torch.equal(places(3, 5, like), expected)


def test_training_on_cached_latents_equals_training_on_images(flux: Path, tmp_path: Path) -> None:
    found: list[list[float]] = []
    for cache in (None, str(tmp_path / "cache")):
        torch.manual_seed(0)
        network = Flux(str(flux), tuning="lora", adapters=Adapters(rank=2))
        network.pipeline.default_sample_size = 8
        module, losses = tuning(network, cache_dir=cache), []
        module.on_train_batch_start = lambda batch, place: torch.manual_seed(place) and None  # type: ignore[method-assign]
        module.on_train_batch_end = lambda outputs, *_, into=losses: into.append(float(outputs["loss"]))  # type: ignore[method-assign, misc]
        data, own = captioned(tmp_path / "images"), trainer(tmp_path / str(cache is None))
        own.fit(module, data)
        losses.append(own.validate(module, data, verbose=False)[0]["val/loss"])
        assert module.sample(2, torch.Generator().manual_seed(0)).shape == (2, 3, 16, 16)
        found.append(losses)
    assert len(found[0]) == 2
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_pipeline_of_the_other_family_is_refused(flux: Path, stable_diffusion_3: Path) -> None:
    with pytest.raises(ValueError, match="must be of class FluxTransformer2DModel, got SD3Transformer2DModel"):
        Flux(str(stable_diffusion_3))
    with pytest.raises(ValueError, match="must be of class SD3Transformer2DModel, got FluxTransformer2DModel"):
        StableDiffusion3(str(flux))


def test_flux_dev_has_twelve_billion_parameters() -> None:
    with torch.device("meta"):
        network = FluxTransformer2DModel(guidance_embeds=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_901_408_320


def test_chroma_generates_what_diffusers_alone_generates(chroma: Path) -> None:
    model = Chroma(str(chroma))
    expected = drawn_by_chroma(ChromaPipeline.from_pretrained(chroma))
    prompts = model.encode_prompts(CAPTIONS[:2])
    torch.testing.assert_close(model.generate(prompts, noise(), **STEPS), expected)
    assert prompts.mask is not None
    lengths = prompts.mask.sum(dim=1)
    assert (lengths[0] - lengths[1]).item() == 1
    assert (model.image_size, model.size_multiple, model.prediction) == (256, 4, "flow")
    assert model.state_dict() == {}


def test_a_step_of_the_sampler_of_chroma_is_eulers(chroma: Path) -> None:
    model = Chroma(str(chroma))
    prompts = model.encode_prompts(CAPTIONS[:2])
    given = {**model.for_pipeline(prompts, prompts), **GIVEN, "guidance_scale": 1.0, "output_type": "latent"}
    found = model.pipeline(**given, latents=packed(noise()), num_inference_steps=1).images
    with torch.no_grad():
        velocity = model(noise(), torch.tensor(1000.0), prompts)
    torch.testing.assert_close(found, packed(noise() - velocity))


def test_a_step_of_chroma_is_that_of_calls_as_the_pipeline_makes_them(chroma: Path) -> None:
    def expected(alone: Any, image: Tensor, captions: list[str]) -> Tensor:
        draw, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
        u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
        shift = math.exp(calculate_shift(16))
        t = shift * u / (1 + (shift - 1) * u)
        with torch.no_grad():
            posterior = alone.vae.encode(2 * image - 1).latent_dist
            clean = (posterior.mean + posterior.std * draw - 0.1159) * 0.3611
            embedding, text_ids, mask, *_ = alone.encode_prompt(captions, do_classifier_free_guidance=False)
        _, image_ids = alone.prepare_latents(3, 4, 16, 16, torch.float32, torch.device("cpu"), None, packed(clean))
        level = t.view(-1, 1, 1, 1)
        velocity = alone.transformer(
            hidden_states=packed((1 - level) * clean + level * e), timestep=t, encoder_hidden_states=embedding,
            txt_ids=text_ids, img_ids=image_ids, joint_attention_kwargs={}, return_dict=False,
            attention_mask=alone._prepare_attention_mask(3, 16, torch.float32, mask),
        )[0]  # fmt: skip
        return (velocity - packed(e - clean)).square().mean()

    model = Chroma(str(chroma), tuning="full")
    assert_a_step_equals(model, ChromaPipeline.from_pretrained(chroma), 16, expected, flow=FlowMatching())


def test_adapters_of_chroma_lower_the_loss_of_one_image_and_diffusers_alone_loads_them(
    chroma: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Chroma(str(chroma), tuning="lora", adapters=Adapters(rank=2))
    before = model.generate(prompts := model.encode_prompts(CAPTIONS[:2]), noise(), **STEPS)
    train_on_one_image(model, 16)
    alone: Any = ChromaPipeline.from_pretrained(chroma)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(), **STEPS)
    torch.testing.assert_close(found, drawn_by_chroma(alone), atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_chroma_and_float64_where_it_is_asked_for(chroma: Path) -> None:
    assert_half_precision_is_inside(Chroma, chroma, 16)


def test_what_is_cached_of_chroma_equals_what_is_computed(chroma: Path, tmp_path: Path) -> None:
    assert_cached_equals_computed(Chroma(str(chroma), tuning="lora"), tmp_path, 16)


def test_chroma_has_nine_billion_parameters_and_takes_a_step_on_the_meta_device() -> None:
    """The config of Chroma consists of the diffusers defaults."""
    with torch.device("meta"):
        network: Any = ChromaTransformer2DModel()
        embedding, mask = torch.empty(1, 512, 4096), torch.empty(1, 512 + 4096)
        output = network(
            torch.empty(1, 4096, 64), embedding, torch.empty(1), torch.empty(4096, 3), torch.empty(512, 3), mask
        ).sample
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_899_983_424
    output.mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
