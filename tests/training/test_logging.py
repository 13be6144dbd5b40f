"""Epoch means over training steps: exact, with a single Lightning call per epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules import batches
from lightning_modules.training import logging
from lightning_modules.training.logging import log_same, log_training
from tests.trainers import quiet
from tests.two_processes import in_two_processes

X = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Logged(nn.Module):
    """Stands in for a LightningModule without a trainer, and records the logged values."""

    trainer = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -1.2], dtype=torch.float64))
        self.values: dict[str, Tensor] = {}
        self.options: dict[str, Any] = {}

    def log(self, name: str, value: Tensor, **options: Any) -> None:
        self.values[name], self.options = value, options


class Means(LightningModule):
    """Logs the mean of the numbers in each batch, and counts how often `log` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.calls = 0

    def log(self, *args: Any, **options: Any) -> None:
        self.calls += 1
        super().log(*args, **options)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        mean = batch["image"].mean() + 100 * self.current_epoch
        return {"loss": log_training(self, batch, mean + 0 * self.weight, double=2 * mean)}

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Rows(Callback):
    """Records the means of each epoch, and fails or stops after some batches of the first epoch."""

    def __init__(self, fail_after: int = 0, stop_after: int = 0) -> None:
        self.rows: list[dict[str, float]] = []
        self.fail_after, self.stop_after = fail_after, stop_after

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.fail_after:
            raise ArithmeticError
        trainer.should_stop = trainer.should_stop or batch_idx + 1 == self.stop_after

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def loader(rank: int = 0, processes: int = 1) -> Any:
    """Return this process's part of batches of three, three and two rows; one row is in two batches."""
    parts = [{"image": part[rank::processes], "global_batch_size": len(part)} for part in (X[:3], X[3:6], X[5:])]
    return DataLoader(parts, batch_size=None)  # type: ignore[arg-type]


def trained(module: Means, rows: Rows, **options: Any) -> list[dict[str, float]]:
    quiet(**{"max_epochs": 2, "callbacks": [rows], **options}).fit(module, loader())
    return rows.rows


def mean_of(values: Tensor) -> float:
    return values.mean(dim=1).mean().item()


ALL = torch.cat([X, X[5:6]])
"""The numbers that an epoch visits, in batches of three, three and two."""


def expected(values: Tensor, epoch: int) -> Any:
    mean = mean_of(values) + 100 * epoch
    return pytest.approx({"train/loss": mean, "train/double": 2 * mean}, rel=1e-12)


def test_uneven_shares_give_gradient_and_logged_values_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """DDP and the logger average over the two processes, which have five and two samples here."""
    monkeypatch.setattr(batches, "world_size", lambda: 2)
    gradients, losses, terms = [], [], []
    for part in (X[:5], X[5:]):
        module = Logged()
        square, sine = ((part @ module.weight) ** 2).mean(), (part @ module.weight).sin().mean()
        log_training(module, {"image": part, "global_batch_size": 7}, square + sine, sine=sine).backward()  # type: ignore[arg-type]
        gradients.append(module.weight.grad)
        losses.append(module.values["train/loss"])
        terms.append(module.values["train/sine"])
        assert not any(value.requires_grad for value in module.values.values())
        assert module.options == {"on_step": False, "on_epoch": True, "batch_size": 7, "sync_dist": True}
    w = Logged().weight.detach()
    z = X @ w
    gradient = ((2 * z + z.cos())[:, None] * X).mean(dim=0)
    torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradient, rtol=1e-12, atol=0)
    torch.testing.assert_close((losses[0] + losses[1]) / 2, (z**2 + z.sin()).mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close((terms[0] + terms[1]) / 2, z.sin().mean(), rtol=1e-12, atol=0)


def test_means_are_those_of_all_samples_and_lightning_is_called_once_an_epoch() -> None:
    module = Means()
    assert trained(module, Rows()) == [expected(ALL, 0), expected(ALL, 1)]
    assert module.calls == 2 * 2  # two names in two epochs, with three batches each
    assert set(module.state_dict()) == {"weight"}


@pytest.mark.parametrize("how", [{"max_steps": 2}, {"limit_train_batches": 2}, {"callbacks": "stop"}])
def test_an_epoch_that_ends_early_has_the_mean_of_its_batches(how: dict[str, Any]) -> None:
    rows = Rows(stop_after=2 if "callbacks" in how else 0)
    found = trained(Means(), rows, **({"min_epochs": 0} if "callbacks" in how else how))
    assert found[0] == expected(X[:6], 0)


def test_nothing_is_left_of_a_fit_that_failed_within_an_epoch() -> None:
    module, rows = Means(), Rows(fail_after=2)
    trainer = quiet(max_epochs=1, callbacks=[rows])
    with pytest.raises(ArithmeticError):
        trainer.fit(module, loader())
    rows.fail_after = 0
    assert trained(module, Rows(), max_epochs=1) == [expected(ALL, 0)]


def test_validation_within_an_epoch_leaves_its_mean_alone() -> None:
    rows = Rows()
    trainer = quiet(max_epochs=1, callbacks=[rows], val_check_interval=1)
    trainer.fit(Means(), loader(), loader())
    assert rows.rows == [expected(ALL, 0)]


def test_the_best_epoch_is_chosen_by_the_mean(tmp_path: Path) -> None:
    """Losses rise by 100 per epoch, so the first epoch is the best."""
    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="train/loss", save_on_train_epoch_end=True)
    quiet(max_epochs=3, callbacks=[best], enable_checkpointing=True).fit(Means(), loader())
    assert Path(best.best_model_path).stem == "epoch=0"
    assert best.best_model_score is not None
    assert best.best_model_score.item() == pytest.approx(mean_of(ALL), rel=1e-12)


def in_one_of_two() -> list[dict[str, float]]:
    """Train in one of two processes; of three samples, one process has two, and the second process has one."""
    rows, module = Rows(), Means()
    trainer = quiet(max_epochs=2, callbacks=[rows], devices=2, strategy="ddp")
    module.train_dataloader = lambda: loader(trainer.global_rank, 2)  # type: ignore[method-assign]
    trainer.fit(module)
    return rows.rows


def test_two_processes_with_uneven_parts_log_what_one_does() -> None:
    one, other = in_two_processes(in_one_of_two)
    assert one == other == [expected(ALL, 0), expected(ALL, 1)]


def test_a_value_that_is_the_same_on_all_is_no_mean_over_processes() -> None:
    module = Logged()
    value = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    log_same(module, "test/rate", value)  # type: ignore[arg-type]
    torch.testing.assert_close(module.values["test/rate"], value.detach(), rtol=0, atol=0)
    assert (module.options["reduce_fx"], module.options["sync_dist"]) == ("max", True)


def test_a_value_on_the_host_is_brought_to_the_device_that_processes_reduce_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are averaged on their own device, but NCCL has no collectives for host tensors."""
    monkeypatch.setattr(logging, "is_distributed", lambda: True)
    module: Any = Logged()
    module.device = torch.device("meta")  # represents a GPU
    for value in (torch.tensor(0.1, dtype=torch.float64), 0.1):
        log_same(module, "test/rate", value)
        logged = module.values["test/rate"]
        assert not isinstance(logged, Tensor) or (logged.device.type, logged.dtype) == ("meta", torch.float64)
