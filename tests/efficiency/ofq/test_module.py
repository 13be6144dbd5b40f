"""The module: loss and teacher, calibration, annealing within a trainer, logged values, and rejections."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.efficiency.ofq import OFQ
from lightning_modules.efficiency.ofq.module import distillation
from lightning_modules.efficiency.ofq.quantizers import near_threshold, positions, scaled_parts
from tests.efficiency.ofq.test_conversion import distilled
from tests.efficiency.wta_crs.networks import vit
from tests.grouped import grouped
from tests.trainers import quiet


def digits(**arguments: Any) -> LabelledImages:
    return LabelledImages(
        Digits(train_size=310, num_classes=3), **grouped(LabelledImages, {"batch_size": 30, **arguments})
    )


def small(network: nn.Module | None = None, **arguments: Any) -> OFQ:
    torch.manual_seed(0)
    options = {"optimizer": lambda p: torch.optim.AdamW(p, lr=1e-3), **arguments}
    return OFQ(Normalized(network or vit(), [0.3], [0.4]), 3, **options)


def fitted(module: OFQ, epochs: int = 2, **options: Any) -> Any:
    trainer = quiet(max_epochs=epochs, limit_train_batches=3, **options)
    trainer.fit(module, datamodule=digits())
    return trainer


def test_labels_teach_the_first_head_and_the_teacher_the_second() -> None:
    first, second, taught = (torch.randn(5, 3, dtype=torch.float64) for _ in range(3))
    label = torch.tensor([0, 1, 2, 1, 0])
    probabilities = taught.softmax(1)
    hard, soft = distillation((first, second), label, taught)
    torch.testing.assert_close(hard + soft, F.cross_entropy(first, label) + F.cross_entropy(second, probabilities))
    torch.testing.assert_close(soft, -(probabilities * second.log_softmax(1)).sum(1).mean())
    hard, soft = distillation(first, label, taught)
    torch.testing.assert_close(soft, F.cross_entropy(first, probabilities))


def test_the_teacher_has_full_precision_and_stays_and_the_network_begins_as_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = small(distilled())
    with torch.no_grad():  # imitates weights loaded after the module was built
        for parameter in module.teacher.parameters():
            parameter.normal_(std=0.2)
    begun = {name: value.clone() for name, value in module.teacher.network.state_dict().items()}
    starts: dict[str, Tensor] = {}
    begin = module._begin
    monkeypatch.setattr(module, "_begin", lambda: (begin(), starts.update(_copied(module.network))))
    assert fitted(module, 1).callback_metrics["train/distillation"] > 0
    assert all(starts[name].equal(value) for name, value in begun.items())
    assert all(value.equal(begun[name]) for name, value in module.teacher.network.state_dict().items())
    assert not module.train().teacher.network.training
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    image = torch.rand(2, 1, 8, 8)
    pair: Any = module.network(image)
    assert module(image).equal(sum(pair) / 2)
    torch.testing.assert_close(module.eval()(image), sum(pair) / 2)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_scales_are_measured_once_and_are_trained(tmp_path: Path) -> None:
    module = small()
    assert not module.calibrated
    first = fitted(module, 1, max_steps=1)
    scales = torch.cat([part.scale.detach() for part in scaled_parts(module.network)])
    assert module.calibrated
    assert (scales != 1).all()
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    again = small()
    again._begin = None  # type: ignore[assignment, method-assign]  # must not be called
    quiet(max_epochs=2, limit_train_batches=3).fit(again, datamodule=digits(), ckpt_path=tmp_path / "stopped.ckpt")
    moved = torch.cat([part.scale.detach() for part in scaled_parts(again.network)])
    assert (moved != scales).float().mean() > 0.6  # in the last block, only one token is used


@pytest.mark.parametrize("accumulated", [1, 3])
def test_annealing_masks_before_clipping_and_restores_after_the_step(
    accumulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = small(annealed_epochs=1, boundary=0.2)
    steps: list[float] = []
    step = torch.optim.AdamW.step

    def watched(optimizer: Any, closure: Any) -> Any:
        before = {}

        def and_watch() -> Any:
            loss = closure()
            before.update({rows.name: rows.weight.clone() for rows in module.rows})
            gradients = [parameter.grad for parameter in module.network.parameters() if parameter.grad is not None]
            steps.append(float(torch.linalg.vector_norm(torch.cat([each.flatten() for each in gradients]))))
            if module.trainer.current_epoch:
                for rows in module.rows:
                    assert not rows.gradient[~near_threshold(rows.positions, 2, 0.2)].any()  # type: ignore[index]
            return loss

        return step(optimizer, and_watch), kept.append(before)

    kept: list[dict[str, Tensor]] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    stepped = module.optimizer_step

    def and_compare(*args: Any, **kwargs: Any) -> None:
        stepped(*args, **kwargs)
        for rows in module.rows if module.trainer.current_epoch else []:
            before = kept[-1][rows.name]
            trained = near_threshold(positions(before, 2), 2, 0.2)
            assert rows.weight[~trained].equal(before[~trained])
            assert (rows.weight != before)[trained].float().mean() > 0.5

    monkeypatch.setattr(module, "optimizer_step", and_compare)
    trainer = fitted(module, 2, gradient_clip_val=1e-3, accumulate_grad_batches=accumulated)
    assert steps == pytest.approx([1e-3] * (6 // accumulated), rel=1e-3)  # norm of the masked gradient
    assert 0.1 < trainer.callback_metrics["train/annealed"] < 0.5
    query, key, _ = module.network.get_submodule("network.blocks.0.attn.qkv").weight.chunk(3)
    assert (query.grad is None) == (key.grad is None)


def test_oscillations_are_logged_drawn_and_kept_for_resuming() -> None:
    module = small(optimizer=lambda p: torch.optim.SGD(p, lr=1.0), reparametrised=False)
    trainer = fitted(module, 3)
    share = float(trainer.callback_metrics["train/oscillating"])
    assert 0 < share < 0.5
    counted = sum(int((tracker.frequency > 0.005).sum()) for tracker in module.trackers)  # type: ignore[operator, union-attr, arg-type]
    assert share == pytest.approx(counted / sum(rows.weight.numel() for rows in module.rows))
    assert set(module.tables["latent_weights"].columns["weights"]) == {"all weights", "oscillating weights"}
    qkv = sum(rows.weight.numel() for rows in module.rows if rows.name.endswith("qkv"))
    pairs, others = (float(trainer.callback_metrics[f"train/oscillating_{part}"]) for part in ("query_key", "others"))
    every = sum(rows.weight.numel() for rows in module.rows)
    assert share * every == pytest.approx(pairs * qkv * 2 / 3 + others * (every - qkv * 2 / 3), rel=1e-5)
    names = [name for name in module.state_dict() if name.startswith("trackers.0.")]
    assert names == ["trackers.0.last", "trackers.0.direction", "trackers.0.frequency"]
    untracked = small(track=False)
    assert "train/oscillating" not in fitted(untracked, 1).callback_metrics
    assert set(untracked.tables["latent_weights"].columns["weights"]) == {"all weights"}


def test_weights_decay_and_biases_scales_and_shifts_do_not() -> None:
    module = small(optimizer=lambda groups: torch.optim.AdamW(groups, weight_decay=0.5))
    [optimizer], _ = module.configure_optimizers()
    decays = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(module.network.named_parameters())
    assert len(decays) == len(named)
    assert {name for name, parameter in named.items() if decays[parameter]} == {
        name for name in named if named[name].ndim > 1
    }
    assert not any(decays[named[name]] for name in named if name.endswith(("bias", "scale", "before", "after")))


def test_more_annealed_epochs_than_the_run_has_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"annealed_epochs must be at most trainer\.max_epochs 2, got 3"):
        fitted(small(annealed_epochs=3))


def test_images_to_calibrate_with_are_asked_for() -> None:
    images = [{"image": torch.rand(1, 8, 8), "label": 0}] * 4
    with pytest.raises(TypeError, match="OFQ needs a TrainingImageSource, and a run without a DataModule lacks"):
        quiet(max_epochs=1).fit(small(), torch.utils.data.DataLoader(images, batch_size=2))  # type: ignore[arg-type]
