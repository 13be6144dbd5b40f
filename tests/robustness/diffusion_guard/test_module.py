from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.randomness.generators import generator_of
from experiments.calls.build import build
from experiments.calls.parse import parse
from lightning_modules.robustness.diffusion_guard.evaluation import EDITING, MEASURING, PROTECTING
from tests.robustness.diffusion_guard.linear_inpainter import SIZE, LinearInpainter, guarding, images


@pytest.mark.parametrize("objective", ["noise_norm", "encoder", "edit", "denoising_error", "mist", "random"])
@pytest.mark.parametrize("augmentation", ["contour", "single", "global"])
def test_the_budget_is_kept_and_what_is_never_kept_does_not_move(objective: Any, augmentation: Any) -> None:
    image, regions, index = images()
    ascent: dict[str, Any] = {"step_size": 0.01, "iterations": 6, "augmentation": augmentation}
    options = ascent if objective != "random" else {}
    guard = guarding(LinearInpainter(), objective=objective, epsilon=0.03, **options)
    guarded = guard.protect(image, regions, index)
    assert (guarded - image).abs().max() <= 0.03 + 1e-12
    assert (guarded - image).abs().amax(dim=(1, 2, 3)).min() > 0
    assert guarded.min() >= 0
    assert guarded.max() <= 1
    if augmentation == "single" or objective == "random":
        outside = ~regions.any(dim=1, keepdim=True)
        assert torch.equal(guarded[outside], image[outside])
    assert all(parameter.grad is None for parameter in guard.parameters())


def test_images_are_protected_without_a_trainer() -> None:
    """The generator samples what stands for the images' indices, and without regions the whole image is kept."""
    image, _, _ = images()
    guard = guarding(LinearInpainter(), iterations=4, epsilon=0.1, step_size=0.02)
    found, again, other = (guard.protect(image, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    index = torch.randint(2**31, (len(image),), generator=torch.Generator().manual_seed(0))
    whole = torch.ones(len(image), 1, *image.shape[2:], dtype=torch.bool)
    assert torch.equal(found, guard.protect(image, whole, index))


def test_an_image_is_protected_alike_in_whatever_batch() -> None:
    """If other images of the batch have more regions, empty regions are added to the image."""
    image, regions, index = images()
    guard = guarding(LinearInpainter(), iterations=4, epsilon=0.1, step_size=0.02)
    together = guard.protect(image, regions, index)
    order = torch.tensor([2, 0])
    torch.testing.assert_close(guard.protect(image[order], regions[order], index[order]), together[order])
    assert not torch.equal(guard.protect(image[:1], regions[:1], index[1:2]), together[:1])
    for augmentation in ("contour", "single", "global"):
        guard.defence = replace(guard.defence, augmentation=augmentation)  # type: ignore[arg-type]
        one, nothing = regions[:, :1], torch.zeros_like(regions[:, :1])
        expected = guard.protect(image, one, index)
        for filled_up in ([one, nothing, nothing], [nothing, one]):
            assert torch.equal(guard.protect(image, torch.cat(filled_up, dim=1), index), expected)


def test_the_encoder_objective_draws_the_encoding_to_grey() -> None:
    image, regions, index = images()
    guard = guarding(
        LinearInpainter(), objective="encoder", iterations=3, epsilon=0.1, step_size=0.02, augmentation="single"
    )
    keep = regions.any(dim=1, keepdim=True)
    expected = torch.where(keep, image - (image - 0.5).sign() * 0.06, image)
    far = (image - 0.5).abs() > 0.06
    guarded = guard.protect(image, regions, index)
    torch.testing.assert_close(guarded[far & keep], expected[far & keep])


@pytest.mark.parametrize(
    ("objective", "timestep"), [("noise_norm", None), ("noise_norm", 5), ("denoising_error", None)]
)
def test_protection_climbs_the_norm_or_the_error_with_the_numbers_of_the_image(
    objective: Any, timestep: int | None
) -> None:
    """Gradients by hand: of ||z + c A y|| at a given timestep, and of ||z_t + c A y - z||^2 / D at a random one."""
    image, regions, index = images(1)
    options: dict[str, Any] = {"iterations": 3, "epsilon": 0.05, "step_size": 0.02, "augmentation": "single"}
    inpainter = LinearInpainter()
    guard = guarding(inpainter, objective=objective, timestep=timestep, **options)
    found = guard.protect(image, regions, index)
    random = generator_of(0, 10, PROTECTING)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    a, k = inpainter.matrix.detach().numpy(), regions.any(dim=1).double().numpy().ravel()
    x = x0 = image.numpy().ravel()
    for _ in range(3):
        z, _ = (torch.randn(1, SIZE, SIZE, generator=random).double().numpy().ravel() for _ in range(2))
        t = (751 if timestep is None else timestep) if objective == "noise_norm" else None
        t = int(torch.randint(1000, (1,), generator=random)) if t is None else t
        c = 1 + t / 1000
        of_image = c * a @ ((2 * x - 1) * k)
        if objective == "noise_norm":
            gradient = k * (a.T @ (z + of_image))
        else:
            error = np.sqrt(abar[t]) * (2 * x - 1) + np.sqrt(1 - abar[t]) * z + of_image - z
            gradient = np.sqrt(abar[t]) * error + c * k * (a.T @ error)
        x = np.clip(np.clip(x + 0.02 * np.sign(gradient * k), x0 - 0.05, x0 + 0.05), 0, 1)
    np.testing.assert_allclose(found.numpy().ravel(), x, atol=1e-12)


def a_batch(count: int = 2) -> Any:
    image, regions, index = images(count)
    keep = regions.any(dim=1, keepdim=True)
    batch = {"image": image, "regions": regions, "editor_keeps": keep, "index": index, "global_batch_size": count}
    return {**batch, "prompt": [[""]] * count, "name": [""] * count}


def test_protecting_editing_and_measuring_have_random_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarding(LinearInpainter(), iterations=1, augmentation="single", timestep=5, seed=3)
    batch, steps, edited = a_batch(), [], []
    predict, edit = guard.inpainter.predicted_noise, guard.inpainter.edit

    def predicted(noisy: Tensor, repaint: Tensor, blanked: Tensor, timestep: Tensor) -> Tensor:
        steps.append((int(timestep[0]), noisy.detach()))
        return predict(noisy, repaint, blanked, timestep)

    def editing(image: Tensor, keep: Tensor, prompts: Any, noise: Tensor) -> Tensor:
        edited.append(noise)
        return edit(image, keep, prompts, noise)

    monkeypatch.setattr(guard.inpainter, "predicted_noise", predicted)
    monkeypatch.setattr(guard.inpainter, "edit", editing)
    monkeypatch.setattr("lightning_modules.robustness.diffusion_guard.editing.edit_ssim", lambda *_: torch.zeros(2))
    guard.test_step(batch, 0)
    # Protection attacks its own timestep, and both images are measured at the editor's first timestep.
    assert [timestep for timestep, _ in steps] == [5, 751, 751]
    protecting, measuring, again = (noise for _, noise in steps)
    assert torch.equal(measuring, again)
    assert all(torch.equal(each, edited[0]) for each in edited)
    for noise, purpose in ((protecting, PROTECTING), (edited[0], EDITING), (measuring, MEASURING)):
        drawn = [torch.randn(1, SIZE, SIZE, generator=generator_of(3, int(i), purpose)) for i in batch["index"]]
        assert torch.equal(noise, torch.stack(drawn).double())
    different = torch.stack([protecting, edited[0], measuring]).flatten(2)
    assert bool((different.diff(dim=0, append=different[:1]).abs().mean(dim=2) > 0.5).all())


def test_pictures_show_the_change_and_the_difference_of_edits() -> None:
    names = ("protected", "edit", "edit_of_protected")
    batch, outputs = a_batch(), dict(zip(names, torch.rand(3, 2, 1, 4, 4), strict=True))
    batch["image"] = torch.rand(2, 1, 4, 4)
    columns = guarding(LinearInpainter()).image_columns(batch, outputs)
    shown = {"change": ("protected", batch["image"]), "difference of edits": ("edit_of_protected", outputs["edit"])}
    for name, (of, less) in shown.items():
        values, _, _, difference = columns[name]
        assert difference
        assert torch.equal(values, outputs[of] - less)
    assert torch.equal(columns["the region that the editor keeps"], batch["editor_keeps"][:, 0])  # type: ignore[arg-type]


def test_a_training_step_has_the_error_and_its_gradient() -> None:
    """L = mean (z_t + c A y - e)^2, so dL/dA = 2 / (B D) sum_b c_b error_b y_b^T."""
    guard, batch = guarding(LinearInpainter()).double(), a_batch()
    guard.log = lambda *arguments, **given: None  # type: ignore[method-assign, assignment]
    torch.manual_seed(0)
    loss = guard.training_step(batch, 0)["loss"]
    torch.manual_seed(0)
    noise = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64).flatten(1).numpy()
    t = torch.randint(1000, (2,)).numpy()
    x = 2 * batch["image"].flatten(1).numpy() - 1
    y = x * batch["regions"].any(dim=1).flatten(1).numpy()
    abar, c = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t][:, None], 1 + t[:, None] / 1000
    matrix = guard.inpainter.matrix
    error = np.sqrt(abar) * x + np.sqrt(1 - abar) * noise + c * (y @ matrix.detach().numpy().T) - noise  # type: ignore[operator]
    assert loss.item() == pytest.approx(np.square(error).mean(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, matrix)  # type: ignore[arg-type]
    np.testing.assert_allclose(gradient, (c * error).T @ y / SIZE**2, rtol=1e-5, atol=1e-8)


def test_the_demos_models_train_without_weight_decay() -> None:
    """The config's optimizer must not inherit arguments of the module's default optimizer.

    An inherited weight decay once shrank the weights of the demo's network to zero.
    """
    for config in sorted(Path("configs/diffusion_guard").glob("demo*.yaml")):
        line = build(parse(["fit", "--config", str(config)]), runs=False)
        (optimizer,), _ = line.model.configure_optimizers()
        assert optimizer.param_groups[0]["weight_decay"] == 0
