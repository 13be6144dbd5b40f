"""Wan matches plain diffusers: clips of the pipeline, a training step, adapters, caches and checks of clips."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from callbacks.generation.prompt_grid import PromptGrid
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion import Wan
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.text_to_image import Weights
from lightning_modules.backbones.weight_copies import offloaded_names
from lightning_modules.diffusion.finetuning import ControlNet, TextualInversion
from lightning_modules.diffusion.finetuning.objectives import LossOptions
from tests.backbones.diffusion.family_checks import CAPTIONS, exported
from tests.backbones.diffusion.test_export import moved
from tests.diffusion.finetuning.models import assert_gradients_equal, loss_of_a_step, tuning

MEAN, DEVIATION = (torch.tensor(v).view(1, 4, 1, 1, 1) for v in ([-0.7, 0.1, 0.9, 0.0], [2.8, 1.4, 0.7, 1.0]))
SIZE = (5, 16, 32)
"""Frames, height and width of the clips of these tests."""
SIZES: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 32, "num_inference_steps": 2, "output_type": "pt"}


def noise(n: int, seed: int = 0) -> Tensor:
    """Sample noise of two latent frames of 4 x 8 pixels with 4 channels."""
    return torch.randn(n, 4, 2, 4, 8, generator=torch.Generator().manual_seed(seed))


def clip(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, SIZE[0], 3, *SIZE[1:], generator=torch.Generator().manual_seed(seed))


def loaded(folder: Path) -> Any:
    """Load the pipeline with diffusers alone, and freeze all parts except the transformer."""
    alone = WanPipeline.from_pretrained(folder)
    for name, part in alone.components.items():
        if isinstance(part, nn.Module) and name != "transformer":
            part.requires_grad_(False)
    return alone


def test_it_generates_what_diffusers_alone_generates(wan: Path) -> None:
    model, alone = Wan(str(wan)), loaded(wan)
    prompts = model.encode_prompts(CAPTIONS[:2])
    found = model.generate(prompts, noise(2), 2, 2.0)
    expected = alone(prompt=CAPTIONS[:2], latents=noise(2), guidance_scale=2.0, **SIZES).frames
    assert expected.shape == (2, 5, 3, 16, 32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(*prompts.embedding)
    assert model.state_dict() == {}
    assert (model.image_size, model.size_multiple, model.frame_multiple) == (480, 16, 4)
    assert model.latent_shape(1) == (1, 4, 21, 120, 208)
    assert model.latent_shape(2, *SIZE) == (2, 4, 2, 4, 8)
    assert Wan.size_multiple_before_loading(str(wan)) == 8


def test_a_step_of_the_sampler_leads_to_the_predicted_clip(wan: Path) -> None:
    """With one step, the sampler returns z - t v, where t is the largest time, 0.999 before the shift 3."""
    model = Wan(str(wan))
    prompts, latent = model.encode_prompts(CAPTIONS[:2]), noise(2)
    given: dict[str, Any] = {**SIZES, "num_inference_steps": 1, "output_type": "latent", "guidance_scale": 1.0}
    found = model.pipeline(**model.for_pipeline(prompts, prompts), latents=latent, **given).frames
    t = model.scheduler.sigmas[0]
    assert float(t) == pytest.approx(3 * 0.999 / (1 + 2 * 0.999), abs=1e-3)
    assert model.time_shift(16) == 3
    with torch.no_grad():
        velocity = model(latent, model.scheduler.timesteps[0], prompts)
    torch.testing.assert_close(found, latent - t * velocity, rtol=1e-4, atol=1e-4)


def encoded(alone: Any, image: Tensor, draw: Tensor) -> Tensor:
    posterior = alone.vae.encode((2 * image - 1).transpose(1, 2)).latent_dist
    return (posterior.mean + posterior.std * draw - MEAN) / DEVIATION


def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(wan: Path) -> None:
    network, alone = Wan(str(wan), tuning="full"), loaded(wan)
    loss = loss_of_a_step(tuning(network), {"image": clip(3), "caption": CAPTIONS})
    alone.transformer.train()
    torch.manual_seed(5)
    draw, e = torch.randn(3, 4, 2, 4, 8), torch.randn(3, 4, 2, 4, 8)
    u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
    t = 3 * u / (1 + 2 * u)
    clean, level = encoded(alone, clip(3), draw), t.view(-1, 1, 1, 1, 1)
    embedding, _ = alone.encode_prompt(CAPTIONS, do_classifier_free_guidance=False, max_sequence_length=512)
    velocity = alone.transformer(
        hidden_states=(1 - level) * clean + level * e, timestep=1000 * t, encoder_hidden_states=embedding,
        return_dict=False,
    )[0]  # fmt: skip
    expected = (velocity - (e - clean)).square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_gradients_equal(network.network, alone.transformer)


def test_adapters_lower_the_loss_of_a_clip_and_diffusers_alone_loads_them(wan: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Wan(str(wan), tuning="lora", adapters=Adapters(rank=2))
    prompts = model.encode_prompts(CAPTIONS[:2])
    before = model.generate(prompts, noise(2), 2, 2.0)
    module, t = tuning(model), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        latent = model.encode(clip(1)).expand(2, -1, -1, -1, -1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = module.objective.errors(model, latent, prompts, noise(2, 2), t).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0], losses
    model.eval()
    alone = loaded(wan)
    alone.load_lora_weights(exported(model, tmp_path))
    found = model.generate(prompts, noise(2), 2, 2.0)
    expected = alone(prompt=CAPTIONS[:2], latents=noise(2), guidance_scale=2.0, **SIZES).frames
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-3


def test_half_precision_is_inside_and_float64_where_it_is_asked_for(wan: Path) -> None:
    """Outputs are float32 with half-precision weights, which leave the embedding of times in float32."""
    half: dict[str, Any] = {"weights": Weights(dtype="bfloat16"), "tuning": "lora", "gradient_checkpointing": True}
    for options, wanted in ((half, torch.float32), ({}, torch.float64)):
        model = Wan(str(wan), **options) if options else Wan(str(wan)).double()
        prompts, given = model.encode_prompts(["a"]), noise(1).to(wanted)
        output = model(given, torch.tensor([5.0]), prompts)
        assert output.dtype == wanted
        assert output.requires_grad == bool(options)
        if options:
            output.sum().backward()
            assert prompts.embedding.dtype == torch.bfloat16
            assert model.network.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
            assert model.generate(prompts, given, 1, 2.0).dtype == torch.float32
        assert model.decode(given).dtype == wanted


@pytest.mark.parametrize("quantization", [None, "int8", "float8"])
def test_options_that_save_memory_keep_the_gradients_of_the_plain_run(quantization: Any, wan: Path) -> None:
    """Adapters get the gradients of a copy whose frozen weights have been rounded; recomputing changes nothing."""
    if quantization == "int8":
        pytest.importorskip("torchao")
    found, offloaded = [], quantization != "int8"
    for saves in (False, True):
        torch.manual_seed(0)
        weights = Weights(quantization=quantization, offload_blocks=saves and offloaded)
        model = Wan(str(wan), weights, "lora", Adapters(2), gradient_checkpointing=saves).train()
        if saves and quantization is None:
            assert len(offloaded_names(model.network)) > 20
        moved(model)
        value = model(noise(1), torch.tensor([0.3]), model.encode_prompts(["a cat"])).square().sum()
        value.backward()
        found.append([value, *(each.grad for each in model.parameters() if each.requires_grad)])
    assert len(found[0]) > 10
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in found[0][1:])


def test_methods_for_images_are_rejected(wan: Path) -> None:
    with pytest.raises(ValueError, match=r"generates clips, and not images: use lightning_modules.*wan\.Wan"):
        text_to_image_pipeline(str(wan))
    model = Wan(str(wan), tuning="lora")
    module: Any = tuning(model)
    with pytest.raises(ValueError, match=r"loss.dpo_beta must be null for Wan: it needs pairs of images"):
        tuning(model, loss=LossOptions(dpo_beta=5000.0))
    with pytest.raises(ValueError, match=r"a model of clips cannot be exported; `push RUN --merged"):
        module.export_function()
    with pytest.raises(TypeError, match=r"PromptGrid cannot show clips: leave it out; ImageGrid shows frames"):
        PromptGrid().setup(module, module, "fit")
    with pytest.raises(ValueError, match=r"to train a ControlNet, got Wan"):
        ControlNet(Wan(str(wan)))
    with pytest.raises(ValueError, match=r"textual inversion|TextualInversion"):
        TextualInversion(Wan(str(wan)), "<new>", "a")


@pytest.mark.parametrize(
    "change", [{"expand_timesteps": True}, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}]
)
def test_wan_2_2_is_rejected(change: dict[str, Any], wan: Path, tmp_path: Path) -> None:
    """Its pipelines have another transformer for low noise, or a time for each token."""
    folder = Path(shutil.copytree(wan, tmp_path / "other"))
    shutil.copytree(wan / "transformer", folder / "transformer_2")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=r"Wan 2.2 is not supported; use a pipeline of Wan 2.1"):
        Wan(str(folder))


def test_offset_noise_has_one_value_for_each_channel_of_a_clip() -> None:
    torch.manual_seed(1)
    plain = LossOptions().noise(noise(2))
    torch.manual_seed(1)
    offset = LossOptions(noise_offset=0.5).noise(noise(2)) - plain
    assert offset.std(dim=(2, 3, 4)).max() < 1e-6
    assert offset.mean(dim=(2, 3, 4)).std() > 0.1
