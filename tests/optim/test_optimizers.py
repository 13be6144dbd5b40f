from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from came_pytorch import CAME
from lightning import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import (
    adam,
    adamw,
    constant,
    optimizer_config,
    sgd,
    temporarily_frozen,
    trainable_parameters,
    with_schedule,
)
from lightning_modules.optim.schedules import (
    CosineOverSteps,
    PolynomialOverSteps,
    StepOverSteps,
    WarmupConstant,
    WarmupCosine,
)


@pytest.mark.parametrize("optimizer", [sgd, adam, adamw])
def test_the_learning_rate_is_constant_from_the_first_epoch_on(optimizer) -> None:
    optimizer_config = optimizer([nn.Parameter(torch.ones(1))])
    schedule = constant(optimizer_config)
    rates = []
    for _ in range(8):
        rates.append(optimizer_config.param_groups[0]["lr"])
        optimizer_config.step()
        schedule.step()
    assert rates == [0.001] * 8


def test_what_is_held_fixed_is_free_again_after_an_error() -> None:
    layer, frozen = nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"), temporarily_frozen(layer, frozen):
        layer(torch.ones(1)).backward()
    assert layer.weight.requires_grad
    assert not frozen.weight.requires_grad


def test_what_is_frozen_is_not_trained() -> None:
    frozen, head = nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 2)
    head.bias.requires_grad_(False)
    assert [id(each) for each in trainable_parameters(frozen, head)] == [id(head.weight)]
    [optimizer], _ = optimizer_config(sgd, constant, trainable_parameters(frozen, head))
    assert [id(each) for each in optimizer.param_groups[0]["params"]] == [id(head.weight)]


@pytest.mark.parametrize(
    ("schedule", "interval"),
    [
        (constant, "epoch"),
        (lambda optimizer: CosineOverSteps(optimizer, T_max=4), "step"),
        (lambda optimizer: PolynomialOverSteps(optimizer, total_iters=4), "step"),
        (lambda optimizer: StepOverSteps(optimizer, step_size=4), "step"),
        (lambda optimizer: WarmupConstant(optimizer, 4), "step"),
        (lambda optimizer: WarmupCosine(optimizer, 1, 4), "epoch"),
        (lambda optimizer: WarmupCosine(optimizer, 1, 4, interval="step"), "step"),
    ],
)
def test_a_schedule_says_itself_when_it_is_stepped(schedule, interval: str) -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    [same], [found] = with_schedule(optimizer, schedule)
    assert same is optimizer
    assert found["scheduler"].optimizer is optimizer
    assert found["interval"] == interval


def test_a_schedule_that_waits_for_a_plateau_says_of_which_metric() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    _, [found] = with_schedule(optimizer, lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/nll"))
    assert found["monitor"] == "val/nll"


def test_a_warmup_begins_at_zero_and_stays_at_its_end() -> None:
    optimizer = sgd([nn.Parameter(torch.ones(1))])
    schedule, rates = WarmupConstant(optimizer, 4), []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.0, 0.00025, 0.0005, 0.00075, 0.001, 0.001, 0.001])


class Regression(MethodModule):
    """Least squares. Validation records the weights."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer, self.build, self.seen = nn.Linear(6, 5).double(), build, []
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(30).view(5, 6) / 30)
            self.layer.bias.zero_()

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        return (self.layer(batch) - batch[:, :5].sin()).square().mean()

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.seen.append(self.layer.weight.detach().clone())

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.build, constant, self.parameters())


def trained(build: Callable[[Any], Any], folder: Path, epochs: int, checkpoint: Path | None = None) -> Trainer:
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Regression(build), DataLoader(rows, 4), DataLoader(rows[:1], 1), ckpt_path=checkpoint)  # type: ignore[arg-type]
    return trainer


OTHERS: dict[str, Callable[[Any], Any]] = {
    "Prodigy": lambda p: Prodigy(p, d0=0.01),
    "CAME": lambda p: CAME(p, lr=0.01),
    "AdamWScheduleFree": lambda p: AdamWScheduleFree(p, lr=0.05, warmup_steps=3),
    "SGDScheduleFree": lambda p: SGDScheduleFree(p, lr=0.2),
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_optimizers_of_packages_take_the_steps_of_a_plain_loop_and_are_resumed(
    build: Callable[[Any], Any], tmp_path: Path
) -> None:
    plain, rows = Regression(build), torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer = build(plain.parameters())
    free = hasattr(optimizer, "eval")
    for _ in range(4):
        if free:
            optimizer.train()
        for batch in rows.split(4):
            optimizer.zero_grad()
            plain.training_step(batch, 0).backward()
            optimizer.step()
        if free:
            optimizer.eval()
        plain.validation_step(rows, 0)
    run = trained(build, tmp_path, 4)
    found: Any = run.lightning_module
    assert not torch.allclose(plain.seen[0], plain.seen[-1], rtol=1e-3)
    torch.testing.assert_close(torch.stack(found.seen), torch.stack(plain.seen), rtol=1e-9, atol=1e-12)
    half = trained(build, tmp_path, 2)
    half.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    rest: Any = trained(build, tmp_path, 4, tmp_path / "half.ckpt").lightning_module
    assert torch.equal(rest.layer.weight, found.layer.weight)
