"""Offset noise, masks, size conditions and class images, compared with computations without this project."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionXLPipeline
from scipy.special import pseudo_huber
from torch import Tensor

from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.finetuning.objectives import (
    DiffusionObjective,
    FlowMatching,
    FlowObjective,
    LossOptions,
    mean_square,
)
from tests.diffusion.finetuning.models import loss_of_a_step, pixel_space, tuning

CAPTIONS = ["a cat", "dog", "bird"]
CONDITIONS = torch.tensor([[40.0, 60, 0, 7, 16, 16], [20, 30, 0, 0, 16, 16], [99, 33, 5, 0, 16, 16]])
"""Original height and width, top and left of the crop, and its height and width."""


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_offset_noise_is_constant_over_a_channel_and_has_the_variance_of_the_sum() -> None:
    latent = torch.empty(500, 4, 8, 8)
    torch.manual_seed(1)
    plain = LossOptions().noise(latent)
    torch.manual_seed(1)
    assert torch.equal(plain, torch.randn(500, 4, 8, 8))
    torch.manual_seed(1)
    offset = LossOptions(noise_offset=0.5).noise(latent) - plain
    torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), atol=1e-5, rtol=0)
    assert offset.std().item() == pytest.approx(0.5, abs=0.03)
    assert offset[:, 0, 0, 0].corrcoef().item() == 1
    assert torch.corrcoef(offset[:, :2, 0, 0].T)[0, 1].abs() < 0.15


def test_a_masked_error_is_the_weighted_mean_of_squares() -> None:
    difference, mask = images(0, 3, 2, 4, 4).double(), images(1, 3, 1, 8, 8).round().double()
    mask[2] = 0
    found = mean_square(difference, LossOptions(unmasked_weight=0.25).weight(mask, difference))
    for image in range(3):
        whole, weights = 0.0, 0.0
        for row in range(4):
            for column in range(4):
                area = mask[image, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean().item()
                weight = 0.25 + 0.75 * area
                whole += weight * difference[image, :, row, column].square().sum().item()
                weights += 2 * weight
        assert found[image].item() == pytest.approx(whole / weights)
    assert mean_square(difference, LossOptions().weight(mask, difference))[2] == 0
    torch.testing.assert_close(mean_square(difference, torch.ones(3, 1, 4, 4)), mean_square(difference))


def test_the_huber_loss_is_that_of_scipy_in_training_only() -> None:
    latent, noise, t = images(0, 2, 4, 3, 3).double(), images(1, 2, 4, 3, 3).double(), torch.tensor([3, 700])
    options = LossOptions(huber_c=0.3)
    flow = FlowObjective(FlowMatchEulerDiscreteScheduler(), FlowMatching(), options=options)
    diffusion = DiffusionObjective(DDPMScheduler(), None, options)
    for objective, target, times in ((flow, noise - latent, t / 1000), (diffusion, noise, t)):
        for mode, expected in (
            (True, 2 * torch.as_tensor(pseudo_huber(0.3, target.numpy()))),
            (False, target.square()),
        ):
            errors = objective.train(mode).errors(lambda z, *_: torch.zeros_like(z), latent, None, noise, times)
            torch.testing.assert_close(errors, expected.flatten(1).mean(1))
    assert mean_square(noise, huber_c=1e4).sum().item() == pytest.approx(mean_square(noise).sum().item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"huber_c must be positive, got 0\.0"):
        LossOptions(huber_c=0.0)


def test_the_error_outside_the_mask_changes_no_gradient() -> None:
    objective = DiffusionObjective(DDPMScheduler(), None)
    shift = torch.zeros(1, 1, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    latent = torch.zeros(1, 1, 4, 4)
    batch: Any = {"loss_mask": mask}
    error = objective.batch_errors(
        lambda z, *_: z + shift, batch, latent, None, torch.randn(1, 1, 4, 4), torch.ones(1).long()
    )
    error.sum().backward()
    assert shift.grad is not None
    assert shift.grad[..., :2].all()
    assert not shift.grad[..., 2:].any()


def test_a_step_of_sdxl_is_that_of_its_pipeline_with_the_crops_coordinates(xl: Path) -> None:
    torch.manual_seed(0)
    module = tuning(TextToImage(str(xl), tuning="full"), min_snr_gamma=None, loss=LossOptions(noise_offset=0.1))
    image = images(0, 3, 3, 16, 16)
    loss = loss_of_a_step(module, {"image": image, "caption": CAPTIONS, "size_conditions": CONDITIONS})

    alone: Any = StableDiffusionXLPipeline.from_pretrained(xl)
    torch.manual_seed(5)
    draw, noise, offset = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.randn(3, 4, 1, 1)
    t = torch.randint(1000, (3,))
    with torch.no_grad():
        posterior = alone.vae.encode(2 * image - 1).latent_dist
        clean = (posterior.mean + posterior.std * draw) * alone.vae.config.scaling_factor
        embedding, _, pooled, _ = alone.encode_prompt(CAPTIONS, device="cpu", do_classifier_free_guidance=False)
    noise = noise + 0.1 * offset
    sizes = [
        alone._get_add_time_ids((int(h), int(w)), (int(top), int(left)), (int(tall), int(wide)), torch.float32, 16)
        for h, w, top, left, tall, wide in CONDITIONS.tolist()
    ]
    given = {"text_embeds": pooled, "time_ids": torch.cat(sizes)}
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[t].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    output = alone.unet.train()(noisy, t, encoder_hidden_states=embedding, added_cond_kwargs=given).sample
    expected = (output - noise).square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    wanted = alone.unet.add_embedding.linear_1.weight.grad
    found = module.network.network.add_embedding.linear_1.weight.grad  # type: ignore[union-attr]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_class_images_add_their_own_weighted_loss() -> None:
    module = tuning(pixel_space(), loss=LossOptions(prior_weight=0.3)).double()
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign, assignment]
    own, prior = images(0, 2, 1, 8, 8).double(), images(1, 2, 1, 8, 8).double()
    count: dict[str, Any] = {"index": torch.arange(2), "global_batch_size": 2}
    torch.manual_seed(3)
    loss = module.training_step({"image": own, "prior": {"image": prior, **count}, **count}, 0)["loss"]
    torch.manual_seed(3)
    first = module.training_step({"image": own, **count}, 0)["loss"]
    second = module.training_step({"image": prior, **count}, 0)["loss"]
    torch.testing.assert_close(loss, first + 0.3 * second)
    assert "train/prior" in logged or not logged


def test_a_step_weighs_each_image_by_the_weight_of_its_set(text_to_image: Path) -> None:
    module = tuning(TextToImage(str(text_to_image), tuning="lora"))
    batch = {"image": images(0, 3, 3, 16, 16), "caption": CAPTIONS}
    losses = [loss_of_a_step(module, batch | {"image_weight": weight}).item() for weight in torch.eye(3)]
    weight = torch.tensor([0.5, 2.0, 1.0])
    assert loss_of_a_step(module, batch | {"image_weight": weight}).item() == pytest.approx(
        float(weight @ torch.tensor(losses))
    )
    assert loss_of_a_step(module, batch).item() == pytest.approx(sum(losses), rel=1e-5)
