"""Encoding, decoding, and the path from a pair to its images agree with closed forms and with pipelines."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from datamodules.classification.mnist import MNIST
from lightning_modules.backbones import frozen, with_weights
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.noise_diffusion import NoiseDiffusion
from lightning_modules.diffusion.noise_diffusion.measures import latent_statistics
from lightning_modules.diffusion.noise_diffusion.mixing import MixingSettings, corrected_mixture
from lightning_modules.networks.mnist_unet import MNISTUNet

STABLE_DIFFUSION: dict[str, Any] = {
    **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    **{"steps_offset": 1, "set_alpha_to_one": False},
}


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Gaussian(nn.Module):
    """The best model for N(0, s^2) images: E[e | x_t] in closed form; with s = 0, it predicts zero noise."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.abar = DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod.double()
        self.s = s
        self.told: list[int] = []

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        self.told.append(int(t[0]))
        abar = self.abar[t].view(-1, 1, 1, 1)
        return (1 - abar).sqrt() / (self.s**2 * abar + 1 - abar) * noisy


class NoNoise(Gaussian):
    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return 0 * super().forward(noisy, t)


def built(network: nn.Module, scheduler: Any = None, **more: Any) -> NoiseDiffusion:
    return NoiseDiffusion(PixelModel(network, scheduler or DDIMScheduler(**STABLE_DIFFUSION)), **more)


def batch(pairs: int = 2, size: int = 8, channels: int = 1) -> Any:
    first, second = rand(pairs, channels, size, size), rand(pairs, channels, size, size, seed=1)
    names = [f"pair{k}" for k in range(pairs)]
    index = torch.arange(pairs)
    return {
        "first": first,
        "second": second,
        "prompt": names,
        "name": names,
        "index": index,
        "global_batch_size": pairs,
    }


def test_levels_and_times_are_those_of_the_authors_code() -> None:
    model = NoNoise(0.3)
    module = built(model)
    module.interpolate_pairs(batch(1))
    abar = model.abar
    encoding, decoding = model.told[:140], model.told[140:]
    assert encoding == list(range(1, 697, 5))
    assert decoding == encoding[::-1]
    assert module.injected_abar == pytest.approx(float(abar[701]))
    assert math.sqrt(module.injected_abar) == pytest.approx(0.28621, abs=1e-5)
    assert math.sqrt(1 - module.injected_abar) == pytest.approx(0.95817, abs=1e-5)
    assert built(model, mixing=MixingSettings(injection="encoded")).injected_abar == pytest.approx(float(abar[696]))


def test_without_noise_the_way_there_and_back_scales_by_the_levels() -> None:
    model = NoNoise(0.3)
    module = built(model)
    clean = 2 * rand(2, 1, 8, 8) - 1
    latent = module.encode(clean, None)
    torch.testing.assert_close(latent, clean * (model.abar[696] / model.abar[0]).sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(module.decode(latent, None), (clean + 1) / 2, rtol=0, atol=1e-5)


def test_gaussian_images_are_encoded_to_the_deviation_of_their_level() -> None:
    model, s = Gaussian(0.4), 0.4
    clean = s * torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = built(model, num_steps=500, encoded_steps=350).encode(clean, None).std() / clean.std()
    abar, least = model.abar[699], model.abar[0]
    expected = ((s**2 * abar + 1 - abar) / (s**2 * least + 1 - least)).sqrt()
    assert found.item() == pytest.approx(expected.item(), rel=0.01)


def test_the_error_of_the_way_there_and_back_falls_with_the_steps() -> None:
    model = Gaussian(0.4)
    clean = 2 * rand(1, 1, 8, 8) - 1
    errors = []
    for steps in (50, 100, 200):
        module = built(model, num_steps=steps, encoded_steps=7 * steps // 10)
        back = 2 * module.decode(module.encode(clean, None), None) - 1
        errors.append((back - clean).abs().max().item())
    assert errors[0] < 0.15
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("interpolation", ["noise_diffusion", "slerp", "lerp", "same_noise"])
def test_pairs_do_not_depend_on_their_batch_and_swap_symmetrically(interpolation: Any) -> None:
    module = built(
        Gaussian(0.4), num_steps=20, encoded_steps=14, interpolation=interpolation, mixing=MixingSettings(gamma=0.2)
    )
    whole = batch(3)
    frames = module.interpolate_pairs(whole).frames
    assert frames.shape == (3, 5, 1, 8, 8)
    last = {key: value[2:] if key != "global_batch_size" else 1 for key, value in whole.items()}
    torch.testing.assert_close(module.interpolate_pairs(last).frames, frames[2:])  # type: ignore[arg-type]
    swapped = module.interpolate_pairs({**whole, "first": whole["second"], "second": whole["first"]})
    torch.testing.assert_close(swapped.frames.flip(1), frames)


def test_the_whole_way_is_its_three_steps() -> None:
    module = built(Gaussian(0.4), num_steps=20, encoded_steps=14, mixing=MixingSettings(1.0))
    pair = batch(1)
    found = module.interpolate_pairs(pair)
    clean = [2 * pair[key] - 1 for key in ("first", "second")]
    latents = [module.encode(image, None) for image in clean]
    noise = torch.zeros_like(clean[0])  # gamma is 0
    position = torch.tensor(module.positions, dtype=torch.float64)
    mixture = corrected_mixture(*latents, *clean, noise, position, module.injected_abar, 1.0, 0.0, 1.2)
    torch.testing.assert_close(found.mixture, mixture)
    expected = torch.stack([module.decode(mixture[:, k], None) for k in range(5)], dim=1)
    torch.testing.assert_close(found.frames, expected)


@pytest.mark.parametrize("kind", ["text_to_image", "xl"])
def test_a_saved_pipeline_interpolates_with_texts(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    model = TextToImage(str(folder))
    options: dict[str, Any] = {"num_steps": 10, "encoded_steps": 7, "positions": [0.5]}
    pairs: Any = {key: value.float() if key in ("first", "second") else value for key, value in batch(2, 16, 3).items()}
    found = NoiseDiffusion(model, guidance_scale=3.0, negative_prompt="ugly", **options).interpolate_pairs(pairs)
    assert found.frames.shape == (2, 1, 3, 16, 16)
    assert found.mixture.shape == (2, 1, 4, 8, 8)
    plain = NoiseDiffusion(model, **options).interpolate_pairs(pairs)
    torch.testing.assert_close(plain.latents, found.latents, rtol=0, atol=1e-5)  # encoding uses no guidance
    assert not torch.allclose(plain.frames, found.frames, atol=1e-3)
    given, without = (model.encode_prompts(texts) for texts in (pairs["prompt"], ["ugly"] * 2))

    def guided(x: Tensor, t: Tensor) -> Tensor:
        e_u = model(x, t, without)
        return e_u + 3 * (model(x, t, given) - e_u)

    x = found.mixture[:, 0]
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False)
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for t in scheduler.timesteps[3:]:
            x = scheduler.step(guided(x, t.expand(2)), int(t), x).prev_sample
        torch.testing.assert_close(found.frames[:, 0], model.decode(x), rtol=0, atol=1e-4)


def test_a_step_trains_by_the_denoising_error() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 1).double()

    class Timeless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = network

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.layer(x)

    module = built(Timeless())
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    image, abar = rand(4, 1, 3, 3), module.model.alphas_cumprod.double()
    torch.manual_seed(1)
    loss = module.training_step({"image": image, "index": torch.arange(4), "global_batch_size": 4}, 0)["loss"]  # type: ignore[typeddict-item]
    torch.manual_seed(1)
    t = torch.randint(1000, (4,))
    noise = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    level = abar[t].view(-1, 1, 1, 1)
    error = network(level.sqrt() * (2 * image - 1) + (1 - level).sqrt() * noise) - noise
    expected = error.square().mean()
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, list(network.parameters()))
    for one, other in zip(found, torch.autograd.grad(expected, list(network.parameters())), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoded_steps": 200}, r"encoded_steps must be in \[1, 199\], got 200"),
        ({"positions": [0.5, 1.2]}, r"positions\[1\] must be in \[0, 1\], got 1.2"),
        ({"guidance_scale": 10.0}, "guidance_scale must be 1 for an unconditional model, got 10.0"),
        (
            {"scheduler": DDPMScheduler(prediction_type="sample")},
            "prediction_type must be one of epsilon, v_prediction",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(NoNoise(0.3), **options)


@pytest.mark.data
def test_the_published_network_of_mnist_encodes_digits_and_decodes_them_again() -> None:
    root = os.environ.get("NOISEWORKS_DATA")
    weights = Path(root or "", "weights", "ddpm_mnist.safetensors")
    if not root or not weights.exists():
        pytest.skip(f"NOISEWORKS_DATA={root}: expected weights/ddpm_mnist.safetensors and MNIST/raw there")
    network = frozen(with_weights(MNISTUNet(), str(weights)))
    scheduler = DDIMScheduler(beta_schedule="linear", steps_offset=1, set_alpha_to_one=False)
    module = built(network, scheduler, num_steps=50, encoded_steps=35, mixing=MixingSettings(injection="encoded"))
    image = MNIST(root).test().image[:8].float() / 255
    with torch.no_grad():
        latent = module.encode(2 * image - 1, None)
        back = module.decode(latent, None)
    found = latent_statistics(latent)
    assert found["deviation"].mean().item() == pytest.approx(1, abs=0.15)
    assert found["kurtosis"].mean().item() > 5  # the latents of real images are not normal, which motivates the method
    assert (back - image).square().mean().sqrt() < 0.15


def test_a_model_without_trainable_parameters_is_not_fitted() -> None:
    with pytest.raises(ValueError, match="cannot fit: use predict or test"):
        built(NoNoise(0.3)).setup("fit")


def test_images_are_interpolated_without_a_trainer() -> None:
    module, pair = built(Gaussian(0.3), num_steps=6, encoded_steps=4, mixing=MixingSettings(gamma=0.5)), batch()
    found, again, other = (
        module.interpolate(pair["first"], pair["second"], generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    index = torch.randint(2**31, (2,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, module.interpolate_pairs({**pair, "index": index}).frames)
    with pytest.raises(ValueError, match=r"without a Trainer, call interpolate\(first, second\)"):
        module.sample(2)
