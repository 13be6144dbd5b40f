"""The loss, its minimiser, sampling with the step, and a pipeline that stays unchanged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from datamodules.distributed.collectives import run_seed
from datamodules.files.module_hash import hash_of_module
from datamodules.randomness.generators import generator_of, sample_like
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.diffusion.hash_embedding import HashedWords
from lightning_modules.diffusion.one_more_step import OneMoreStep, TimeFreeUNet
from lightning_modules.diffusion.one_more_step.initial_latents import first_level, initial_latents
from lightning_modules.interfaces import PromptedGenerator
from tests.tiny_pipelines import conditional_unet

SCHEDULER = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """A v prediction that is linear in noise and text."""

    def __init__(self, values: int = 16, features: int = 16) -> None:
        super().__init__()
        self.noise = nn.Linear(values, values)
        self.text = nn.Linear(features, values, bias=False)

    def forward(self, noise: Tensor, prompts: Prompts) -> Tensor:
        text = self.text(prompts.embedding.mean(dim=1))
        return (self.noise(noise.flatten(1)) + text).view_as(noise)


class NoNoise(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def built(network: nn.Module | None = None, **more: Any) -> OneMoreStep:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "text_encoder": HashedWords(length=1),
        "model": PixelModel(NoNoise(), SCHEDULER),
        **more,
    }
    module = OneMoreStep(network or Linear(), **arguments)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    return module


def batch(n: int = 4, size: int = 4, channels: int = 1) -> Any:
    image = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    captions = [("dark", "light")[k % 2] for k in range(n)]
    return {"image": image, "caption": captions, "index": torch.arange(n), "global_batch_size": n}


def test_value_and_gradient_of_a_step_are_the_equation() -> None:
    module, data = built(caption_dropout=0.5), batch(8)
    torch.manual_seed(1)
    loss = module.training_step(data, 0)["loss"]
    torch.manual_seed(1)
    noise, left_out = torch.randn(8, 1, 4, 4), torch.rand(8) < 0.5
    assert 0 < left_out.sum() < 8
    texts = ["" if out else text for out, text in zip(left_out, data["caption"], strict=True)]
    v = module.network(noise, module.text_encoder.encode_prompts(texts))
    expected = (v + (2 * data["image"] - 1)).square().mean()
    torch.testing.assert_close(loss, expected)
    parameters = list(module.network.parameters())
    for one, other in zip(*(torch.autograd.grad(x, parameters) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_the_minimiser_is_the_mean_of_each_caption_whatever_the_noise() -> None:
    module = built(caption_dropout=0.0)
    means = {"dark": -0.5, "light": 0.7}
    texts = [("dark", "light")[k % 2] for k in range(512)]
    level = torch.tensor([means[text] for text in texts]).view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for step in range(400):
        clean = level + 0.2 * randn(512, 1, 4, 4, seed=step)
        data: Any = {"image": (clean + 1) / 2, "caption": texts, "index": torch.arange(512), "global_batch_size": 512}
        optimizer.zero_grad()
        module.training_step(data, 0)["loss"].backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 400)
    for text, mean in means.items():
        found = module.estimate(randn(500, 1, 4, 4, seed=9999), [text] * 500)
        assert found.mean().item() == pytest.approx(mean, rel=0.05)
        assert found.std(dim=0).max() < 0.05


def test_guidance_of_the_step_goes_from_the_empty_text_to_the_caption_and_beyond() -> None:
    module, z = built(), randn(2, 1, 4, 4)
    texts = ["dark", "light"]

    def at(w: float, given: list[str]) -> Tensor:
        module.step_guidance_scale = w
        return module.estimate(z, given)

    given, without = at(1.0, texts), at(1.0, ["", ""])
    torch.testing.assert_close(at(0.0, texts), without)
    torch.testing.assert_close(at(2.0, texts), without + 2 * (given - without))


def test_the_first_noise_counts_through_the_network_alone() -> None:
    module, fresh = built(), randn(2, 1, 4, 4)
    nn.init.zeros_(module.network.noise.weight)  # type: ignore[union-attr, arg-type]
    states = [module.latents_for(SCHEDULER, ["dark", "light"], 20, fresh, randn(2, 1, 4, 4, seed=k)) for k in (1, 2)]
    assert torch.equal(*states)
    abar = first_level(SCHEDULER, 20)
    expected = initial_latents(module.estimate(fresh, ["dark", "light"]), fresh, abar)
    torch.testing.assert_close(states[0], expected)


def test_a_deviation_below_the_greatest_keeps_a_part_of_the_first_noise() -> None:
    fresh, z, texts = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), ["dark", "light"]
    module, abar = built(deviation=0.6), first_level(SCHEDULER, 20)
    expected = abar**0.5 * module.estimate(z, texts) + (1 - abar - 0.36) ** 0.5 * z + 0.6 * fresh
    torch.testing.assert_close(module.latents_for(SCHEDULER, texts, 20, fresh, z), expected)


def test_plain_samples_are_the_models_own_and_all_starts_share_their_noise() -> None:
    """The model predicts zero noise, so sampling only scales the initial state."""
    data = batch()
    starts = {start: built(start=start).began(data, start)[0] for start in ("plain", "offset_noise", "oracle")}  # type: ignore[arg-type]
    offset = starts["offset_noise"] - starts["plain"]
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset))
    assert 0.01 < offset.std() < 0.3
    abar = first_level(SCHEDULER, 20)
    torch.testing.assert_close(starts["oracle"], initial_latents(2 * data["image"] - 1, starts["plain"], abar))
    module = built(start="plain")
    assert torch.equal(module.sample_from(data), module.model.generate(starts["plain"], 20))
    halves = [
        module.began({**data, "index": data["index"][k:], "image": data["image"][k:]}, "plain")[0] for k in (0, 2)
    ]
    assert torch.equal(halves[0][2:], halves[1])


class NoSignal(nn.Module):
    """Returns the v of pure-noise states if all images have the constant value .3, and records the requested times."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append(int(t[0]))
        return torch.full_like(x, -0.3)


def test_a_schedule_without_signal_at_its_end_is_used_by_samples_alone() -> None:
    """Without signal, v = -x_0, so a single step from any noise gives x_0; with the usual schedule, it does not."""
    trained = DDIMScheduler(beta_start=0.00085, beta_end=0.007, prediction_type="v_prediction")
    network = NoSignal()
    module = built(model=PixelModel(network, trained), start="zero_terminal_snr", sampling=Sampling(1))
    torch.testing.assert_close(module.sample_from(batch()), torch.full((4, 1, 4, 4), 0.65))
    assert network.asked == [999]
    assert module.model.scheduler is trained
    assert (module.sample_from(batch(), "plain") - 0.65).abs().max() > 0.01
    first_steps = built(model=PixelModel(NoSignal(), trained), start="zero_terminal_snr", sampling=Sampling(4))
    first_steps.sample_from(batch())
    assert first_steps.model.network.asked == [999, 749, 499, 249]


def test_samples_for_fid_are_of_held_out_captions_and_follow_from_the_generator() -> None:
    module = built()
    nn.init.zeros_(module.network.noise.weight)  # type: ignore[union-attr, arg-type]
    rows = SimpleNamespace(captions=["dark", "light"])
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(test_set=rows, image_shape=(1, 4, 4)))  # type: ignore[assignment]
    images = [module.sample(40, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert images[0].shape == (40, 1, 4, 4)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    module.prompts = ["dark"]
    assert isinstance(module, PromptedGenerator)
    dark = module.sample(40, torch.Generator().manual_seed(0))
    rows.captions = []  # the prompts replace the captions
    assert torch.equal(module.sample(40, torch.Generator().manual_seed(0)), dark)
    module.prompts = ["light", "dark"]
    mixed = module.sample(40, torch.Generator().manual_seed(0))
    assert torch.equal(mixed[1::2], dark[1::2])
    assert not torch.equal(mixed[::2], dark[::2])
    module.start = "oracle"
    with pytest.raises(ValueError, match="start: oracle needs real images"):
        module.sample(2)


def test_texts_are_sampled_without_a_trainer() -> None:
    module = built()
    found, again, other = (
        module.generate(["dark", "light"], (1, 4, 4), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    given = {"image": torch.zeros(2, 1, 4, 4), "caption": ["dark", "light"], "global_batch_size": 2}
    index = torch.randint(2**31, (2,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, module.sample_from({**given, "index": index}))  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match=r"without a Trainer, call generate\(texts, image_shape\)"):
        module.sample(2)


def test_a_second_prompt_is_read_by_the_step_alone(text_to_image: Path) -> None:
    model = TextToImage(str(text_to_image))
    module = built(TimeFreeUNet(conditional_unet()), model=model, text_encoder=None, step_prompt="dark")
    module.num_inference_steps = 2
    data, read = batch(2, 16, 3), []
    own = model.encode_prompts
    model.encode_prompts = lambda texts: read.append([*texts]) or own(texts)  # type: ignore[method-assign, func-returns-value]
    found = module.sample_from(data)
    assert read == [["dark", "dark"], data["caption"]]
    fresh, texts, _ = module.began(data, "plain")
    generators = [generator_of(run_seed(), index) for index in range(2)]
    z = [sample_like(fresh, torch.randn, generators) for _ in range(2)][1]
    latents = module.latents_for(model.scheduler, ["dark", "dark"], 2, fresh, z)
    torch.testing.assert_close(found, model.generate(own(texts), latents, 2, 7.5))
    module.step_prompt = None
    assert not torch.allclose(module.sample_from(data), found)


@pytest.mark.parametrize("kind", ["text_to_image", "xl"])
def test_a_saved_pipeline_is_trained_for_and_left_alone(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    model = TextToImage(str(folder))
    width = 32 if kind == "xl" else 16
    module = built(TimeFreeUNet(conditional_unet(width=width)), model=model, text_encoder=None, sampling=Sampling(2))
    before, data = hash_of_module(model), batch(2, 16, 3)
    [optimizer], _ = module.configure_optimizers()
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.network.parameters() if p.requires_grad}
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(module.training_step(data, 0)["loss"])
        losses[-1].backward()
        optimizer.step()
    assert hash_of_module(model) == before
    assert not any(p.requires_grad for p in model.parameters())
    samples = {start: module.sample_from(data, start) for start in ("one_more_step", "plain")}  # type: ignore[arg-type]
    assert samples["plain"].shape == (2, 3, 16, 16)
    assert not torch.equal(samples["plain"], samples["one_more_step"])
    prompts, noise = model.encode_prompts(data["caption"]), module.began(data, "plain")[0]
    assert torch.equal(samples["plain"], model.generate(prompts, noise, 2, 7.5))


def test_an_unmodified_pipeline_takes_the_state(text_to_image: Path, tmp_path: Path) -> None:
    """This is tested for two samplers; plain diffusers reloads the network."""
    model = TextToImage(str(text_to_image))
    unet: UNet2DConditionModel = conditional_unet()
    module = built(TimeFreeUNet(unet), model=model, text_encoder=None)
    pipeline = StableDiffusionPipeline.from_pretrained(str(text_to_image))
    pipeline.set_progress_bar_config(disable=True)
    fresh, start = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    seen: list[Tensor] = []
    pipeline.unet.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][:1]))
    scaled = []
    for scheduler in (pipeline.scheduler, EulerDiscreteScheduler.from_config(pipeline.scheduler.config)):
        pipeline.scheduler = scheduler
        latents = module.latents_for(scheduler, ["a cat"], 4, fresh, start)
        pipeline("a dog", latents=latents, num_inference_steps=4, height=16, width=16, output_type="np")
        scaled.append(seen[0])
        seen.clear()
    torch.testing.assert_close(scaled[0], scaled[1], rtol=1e-3, atol=1e-3)  # Euler's scales it to unit variance
    unet.save_pretrained(tmp_path / "step")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "step")
    prompts = model.encode_prompts(["a cat"])
    torch.testing.assert_close(TimeFreeUNet(loaded)(start, prompts), module.network(start, prompts))
