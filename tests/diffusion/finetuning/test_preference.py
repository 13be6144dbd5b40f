"""Diffusion-DPO: the loss in closed form, and steps as a loop of plain diffusers calls takes them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.optim import SGD

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.diffusion.finetuning import DiffusionFineTuning
from lightning_modules.diffusion.finetuning.objectives import LossOptions
from lightning_modules.diffusion.finetuning.preference import dpo_loss, without_adapters
from tests.backbones.diffusion.family_checks import FAMILIES, noise, side_of
from tests.backbones.diffusion.test_export import moved
from tests.diffusion.finetuning.models import assert_gradients_equal, loss_of_a_step, trainer
from tests.diffusion.finetuning.test_controlnet import conditioned

CAPTIONS = ["a cat", "dog", "bird"]


def preferring(folder: Path, beta: float = 2500.0, **options: Any) -> DiffusionFineTuning:
    options = {"tuning": "lora", "adapters": Adapters(2)} | options
    cache = {"cache_dir": options.pop("cache_dir", None)}
    network: Any = text_to_image_pipeline(str(folder), **options)
    loss, optimizer = LossOptions(dpo_beta=beta), lambda p: SGD(p, lr=0.1)
    return DiffusionFineTuning(
        network, sampling=Sampling(2), average_decay=0.0, optimizer=optimizer, loss=loss, **cache
    )


def test_the_loss_is_log_2_without_a_margin_and_its_slope_is_minus_half_of_beta() -> None:
    margin = torch.tensor([0.0, 0.01, -0.02], dtype=torch.float64, requires_grad=True)
    loss = dpo_loss(margin, 300.0)
    assert loss.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-3)), math.log1p(math.exp(6))])
    loss.sum().backward()
    expected = [-150.0, -300 / (1 + math.exp(3)), -300 / (1 + math.exp(-6))]
    assert margin.grad is not None
    assert margin.grad.tolist() == pytest.approx(expected)


def test_a_steps_loss_and_gradient_are_those_of_plain_calls_with_a_second_network(
    text_to_image: Path, tmp_path: Path
) -> None:
    module = preferring(text_to_image, beta=30.0)
    moved(module.network)
    image, rejected = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loss = loss_of_a_step(module, {"image": image, "condition": rejected, "caption": CAPTIONS})
    alone: Any = StableDiffusionPipeline.from_pretrained(text_to_image)
    reference: Any = StableDiffusionPipeline.from_pretrained(text_to_image).unet
    module.save_pipeline(tmp_path)
    alone.load_lora_weights(tmp_path, adapter_name="default")
    unet = alone.unet.train()
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in name)
    torch.manual_seed(5)
    draws, config = torch.randn(3, 4, 8, 8), alone.vae.config
    other, e, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.randint(1000, (3,))
    abar = alone.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    text = alone.encode_prompt(CAPTIONS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0]

    def errors(network: Any, pixels: Tensor, draw: Tensor) -> Tensor:
        with torch.no_grad():
            posterior = alone.vae.encode(2 * pixels - 1).latent_dist
        z = (posterior.mean + posterior.std * draw) * config.scaling_factor
        output = network(abar.sqrt() * z + (1 - abar).sqrt() * e, t, encoder_hidden_states=text).sample
        return (output - e).square().mean((1, 2, 3))

    model = errors(unet, image, draws) - errors(unet, rejected, other)
    with torch.no_grad():
        fixed = errors(reference, image, draws) - errors(reference, rejected, other)
    expected = -F.logsigmoid(30.0 * (fixed - model)).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert abs(float(loss) - math.log(2)) > 1e-3
    assert_gradients_equal(module.network.network, unet)


@pytest.mark.parametrize("fixture", ["xl", *FAMILIES])
def test_the_reference_of_each_family_is_the_network_before_training(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder, side = request.getfixturevalue(fixture), side_of(fixture)
    model: Any = text_to_image_pipeline(str(folder), tuning="lora", adapters=Adapters(2)).eval()
    prompts, z, t = model.encode_prompts(["a cat"]), noise(model, 1, side), torch.tensor([300.0])
    before = model(z, t, prompts)
    moved(model)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    with without_adapters(model.network):
        reference = model(z, t, prompts)
    assert not reference.requires_grad
    torch.testing.assert_close(reference, before, rtol=0, atol=0)
    assert (model(z, t, prompts) - before).abs().max() > 1e-5
    assert {name for name, each in model.named_parameters() if each.requires_grad} == trained


def test_steps_on_a_pair_increase_its_margin(text_to_image: Path) -> None:
    module = preferring(text_to_image, beta=200.0)
    optimizer = torch.optim.Adam([each for each in module.parameters() if each.requires_grad], lr=0.02)
    image, rejected = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):  # the random numbers of all steps are equal
        optimizer.zero_grad()
        losses.append(float(loss_of_a_step(module, {"image": image, "condition": rejected, "caption": CAPTIONS})))
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(2))
    assert losses[-1] < 0.3


def test_a_run_on_two_folders_saves_its_adapters(text_to_image: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    run.fit(preferring(text_to_image), datamodule=conditioned(tmp_path / "images"))
    assert 0 <= float(run.callback_metrics["train/preference_accuracy"]) <= 1
    assert (tmp_path / "run" / "run" / "pipeline" / "pytorch_lora_weights.safetensors").is_file()


def test_data_without_pairs_and_networks_without_adapters_are_rejected(text_to_image: Path) -> None:
    with pytest.raises(ValueError, match=r"loss\.dpo_beta needs a text-to-image model with tuning: lora"):
        preferring(text_to_image, tuning="full", adapters=Adapters())
    with pytest.raises(ValueError, match=r"cache_dir must be null with loss\.dpo_beta, got cache"):
        preferring(text_to_image, cache_dir="cache")
    with pytest.raises(ValueError, match=r"loss\.dpo_beta needs rejected images: set data\.images\.condition_dir"):
        loss_of_a_step(preferring(text_to_image), {"image": torch.rand(3, 3, 16, 16), "caption": CAPTIONS})
    with pytest.raises(ValueError, match="dpo_beta must be positive, got 0"):
        LossOptions(dpo_beta=0)
