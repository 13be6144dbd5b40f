"""Checks for every family of latent text-to-image models; the expected values come from plain diffusers calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.cached_latents import cache_latents
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from tests.diffusion.finetuning.models import captioned, tuning

CAPTIONS = ["a cat", "dog", "bird of prey"]
"""Captions of different lengths, so that the shorter ones are padded."""


def noise(model: TextToImage, n: int = 2, side: int | None = None, seed: int = 0) -> Tensor:
    """Sample noise in the shape of the latents of images with `side` rows and columns (default: the model's size)."""
    return torch.randn(model.latent_shape(n, side, side), generator=torch.Generator().manual_seed(seed))


def assert_a_step_equals(
    network: TextToImage,
    alone: Any,
    side: int,
    expected: Callable[[Any, Tensor, list[str]], Tensor],
    rtol: float = 1e-5,
    **options: Any,
) -> None:
    """Compare the loss and gradient of a training step.

    Args:
        network: model whose parameters are all trainable.
        alone: the same pipeline, loaded by plain diffusers.
        side: height and width of the images.
        expected: function that computes the loss from images in [0, 1] and captions by calls of `alone`. It must draw
            the same random numbers as the training step, in the same order: for the autoencoder, the noise and the
            times.
        rtol: relative accuracy of the loss.
        options: arguments of the training module.
    """
    module = tuning(network, **options)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    image = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    batch: Any = {"image": image, "caption": CAPTIONS, "index": torch.arange(3), "global_batch_size": 3}
    torch.manual_seed(5)
    loss = module.training_step(batch, 0)["loss"]
    loss.backward()
    alone.transformer.train()
    torch.manual_seed(5)
    wanted = expected(alone, image, CAPTIONS)
    wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=rtol, atol=0)
    theirs = dict(alone.transformer.named_parameters())
    assert theirs
    largest = max(float(each.grad.abs().max()) for each in theirs.values() if each.grad is not None)
    assert largest > 0
    for name, parameter in network.network.named_parameters():
        found, gradient = parameter.grad, theirs[name].grad
        assert (found is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


def train_on_one_image(model: TextToImage, side: int, steps: int = 25, rate: float = 0.02) -> None:
    """Train adapters on one image with fixed times and noise, and check that the loss falls."""
    module, many = tuning(model), 4
    prompts = model.encode_prompts(["a cat"]).rows([0] * many)
    shade = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latent = model.encode(shade).expand(many, -1, -1, -1)
    e = noise(model, many, side, seed=2)
    t = module.objective.held_out_times(torch.arange(many))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module.objective.errors(model, latent, prompts, e, t).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0], losses
    model.eval()


def assert_half_precision_is_inside(kind: type[TextToImage], folder: Path, side: int) -> None:
    """Check that outputs are float32 with half-precision weights or adapters, and float64 for a float64 model."""
    half: dict[str, Any] = {"weights": Weights(dtype="bfloat16")}
    for tuned, options in ((False, half), (True, {**half, "tuning": "lora"}), (False, {})):
        model = kind(str(folder), **options)  # type: ignore[arg-type]
        wanted = torch.float32 if options else torch.float64
        model = model if options else model.double()
        prompts, given = model.encode_prompts(["a"]), noise(model, 1, side).to(wanted)
        output = model(given, torch.tensor([5.0] if model.prediction == "flow" else [5]), prompts)
        assert output.dtype == wanted
        assert output.requires_grad == tuned
        if options:
            assert prompts.embedding.dtype == torch.bfloat16
            assert model.generate(prompts, given, num_inference_steps=1, guidance_scale=2.0).dtype == torch.float32


def exported(model: TextToImage, folder: Path) -> Path:
    """Save a model as at the end of training."""
    save_model(model, folder / "tuned", writes=True)
    return folder / "tuned"


def assert_cached_equals_computed(network: TextToImage, folder: Path, side: int) -> None:
    """Compare cached moments and embeddings, and their training loss, with values computed from the images directly."""
    plain, data = (captioned(folder / "images", side) for _ in range(2))
    for one in (plain, data):
        one.setup("fit")
    cache_latents(network, data, str(folder / "cache"), torch.device("cpu"))
    assert plain.train_set is not None
    assert data.train_set is not None
    request = next(iter(plain.evaluation_loader(plain.train_set).sampler))
    whole, cached = plain.train_set[request], data.train_set[request]
    image = whole["image"].float() / 255
    torch.testing.assert_close(cached["moments"], network.moments(image), atol=1e-5, rtol=1e-4)
    prompts = network.encode_prompts(whole["caption"])
    for field in network.prompt_fields:
        expected = getattr(prompts, field)
        torch.testing.assert_close(cached[field], expected, atol=1e-5, rtol=1e-4, msg=field)
    module = tuning(network)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    losses = []
    for batch in ({**whole, "image": image}, cached):
        torch.manual_seed(0)
        losses.append(module.training_step({**batch, "global_batch_size": len(image)}, 0)["loss"].detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
