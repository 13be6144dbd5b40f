from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.randomness.generators import generator_of
from lightning_modules.robustness.diffusion_guard.attack import Defence
from lightning_modules.robustness.diffusion_guard.editing import psnr_where
from lightning_modules.robustness.diffusion_guard.evaluation import EDITING
from lightning_modules.robustness.diffusion_guard.purification import Purification
from tests.robustness.diffusion_guard.linear_inpainter import SIZE, LinearInpainter, guarding, images
from tests.robustness.diffusion_guard.test_module import a_batch


class Flip(Purification):
    """Mirrors the image and its mask, and halves the brightness of the image."""

    def __call__(self, image: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return image.flip(3) / 2, keep.flip(3)


class NoisyEditor(LinearInpainter):
    """Paints values that depend on the whole image and on the noise that the editor receives."""

    def edit(self, image: Tensor, keep: Tensor, prompts: Any, noise: Tensor) -> Tensor:
        painted = (image.flatten(1) @ self.matrix.T).view_as(image).sigmoid() * noise.sigmoid()
        return image * keep + (1 - keep) * painted


@pytest.fixture(autouse=True)
def without_ssim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.robustness.diffusion_guard.editing.edit_ssim", lambda *_: torch.zeros(2))


def test_the_second_editor_and_purified_images_have_metrics_of_their_own() -> None:
    """Compare with both edits computed by hand, for a seen and an unseen mask."""
    image, regions, index = images(2)
    options: dict[str, Any] = {"objective": "random", "epsilon": 0.2}
    editor = NoisyEditor()
    guard = guarding(LinearInpainter(), editor=editor, purification={"flip": Flip()}, **options)
    batch = a_batch()
    other = torch.zeros_like(batch["editor_keeps"])
    other[:, :, 2:7, :4] = True
    batch["editor_keeps"] = torch.cat([batch["editor_keeps"], other], dim=1)
    guard.test_step(batch, 0)
    guarded = guard.protect(image, regions, index)
    noise = torch.stack([torch.randn(1, SIZE, SIZE, generator=generator_of(0, int(i), EDITING)) for i in index])
    for place, unseen in enumerate(("", "_unseen")):
        keep = batch["editor_keeps"][:, place : place + 1].double()
        flipped = keep.flip(3)
        by_hand = {
            "": [guard.inpainter.edit(each, keep, [], noise) for each in (guarded, image)],
            "_flip": [guard.inpainter.edit(each.flip(3) / 2, flipped, [], noise) for each in (guarded, image)],
            "_transfer": [editor.edit(each, keep, [], noise.double()) for each in (guarded, image)],
        }
        for way, edits in by_hand.items():
            where = 1 - (flipped if way == "_flip" else keep)
            found = float(guard.metrics.mean(f"edit_psnr_repainted{way}{unseen}").compute())
            assert found == pytest.approx(float(psnr_where(*edits, where).mean()), rel=1e-5), way + unseen


def test_the_options_change_nothing_of_the_attacked_model() -> None:
    plain = guarding(LinearInpainter(), iterations=2)
    both = guarding(LinearInpainter(), iterations=2, editor=NoisyEditor(), purification={"flip": Flip()})
    for guard in (plain, both):
        guard.test_step(a_batch(), 0)
    for name in plain.metrics:
        if plain.metrics.mean(name).update_called:
            assert torch.equal(plain.metrics.mean(name).compute(), both.metrics.mean(name).compute())


def test_fit_trains_both_models_unless_the_second_is_frozen() -> None:
    """Each model's gradient is that of its own error; the second model does not change the first one's gradient."""
    first, second = LinearInpainter(), NoisyEditor()
    guard, batch = guarding(first, editor=second).double(), a_batch()
    guard.log = lambda *arguments, **given: None  # type: ignore[method-assign, assignment]
    alone = guarding(LinearInpainter()).double()
    alone.log = guard.log  # type: ignore[method-assign]
    torch.manual_seed(0)
    guard.training_step(batch, 0)["loss"].backward()
    torch.manual_seed(0)
    alone.training_step(batch, 0)["loss"].backward()
    assert torch.equal(first.matrix.grad, alone.inpainter.matrix.grad)  # type: ignore[arg-type, union-attr]
    assert second.matrix.grad is not None
    assert not torch.equal(second.matrix.grad, first.matrix.grad)  # type: ignore[arg-type]
    (optimizer,), _ = guard.configure_optimizers()
    assert len(optimizer.param_groups[0]["params"]) == 2
    second.requires_grad_(False)
    assert guard.trained == [first]


def test_another_defence_has_the_metrics_of_a_run_with_its_settings() -> None:
    common: dict[str, Any] = {"iterations": 3, "epsilon": 0.1, "step_size": 0.05, "editor": NoisyEditor()}
    settings: dict[str, dict[str, Any]] = {
        "photoguard": {"objective": "encoder", "augmentation": "global"},
        "late": {"timestep": 5},
    }
    defences = {name: Defence(**each) for name, each in settings.items()}
    together = guarding(LinearInpainter(), defences=defences, **common)
    together.test_step(a_batch(), 0)
    for name, each in {"": {}, **settings}.items():
        alone = guarding(LinearInpainter(), **each, **common)
        alone.test_step(a_batch(), 0)
        suffix = name and f"_{name}"
        for metric in ("edit_psnr", "edit_psnr_repainted", "noise_norm"):
            for way in ("",) if metric == "noise_norm" else ("", "_transfer"):
                found = together.metrics.mean(f"{metric}{suffix}{way}").compute()
                assert torch.equal(found, alone.metrics.mean(f"{metric}{way}").compute()), name
    norms = [float(together.metrics.mean(f"noise_norm{name}").compute()) for name in ("", "_photoguard")]
    assert norms[0] > norms[1]
