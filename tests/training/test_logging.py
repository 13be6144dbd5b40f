from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules import batches
from lightning_modules.training import logging
from lightning_modules.training.logging import log_same, log_training


class Logged(nn.Module):
    """Keeps what a module logs, as a LightningModule would be told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -1.2], dtype=torch.float64))
        self.values: dict[str, Tensor] = {}
        self.options: dict[str, Any] = {}

    def log(self, name: str, value: Tensor, **options: Any) -> None:
        self.values[name], self.options = value, options


def test_uneven_shares_give_gradient_and_logged_values_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """DDP and the logger take the mean over processes; here one has five samples and the other two."""
    monkeypatch.setattr(batches, "world_size", lambda: 2)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients, losses, terms = [], [], []
    for part in (x[:5], x[5:]):
        module = Logged()
        square, sine = ((part @ module.weight) ** 2).mean(), (part @ module.weight).sin().mean()
        log_training(module, {"image": part, "global_size": 7}, square + sine, sine=sine).backward()  # type: ignore[arg-type]
        gradients.append(module.weight.grad)
        losses.append(module.values["train/loss"])
        terms.append(module.values["train/sine"])
        assert not any(value.requires_grad for value in module.values.values())
        assert module.options == {"on_step": False, "on_epoch": True, "batch_size": 7, "sync_dist": True}
    w = Logged().weight.detach()
    z = x @ w
    gradient = ((2 * z + z.cos())[:, None] * x).mean(dim=0)
    torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradient, rtol=1e-12, atol=0)
    torch.testing.assert_close((losses[0] + losses[1]) / 2, (z**2 + z.sin()).mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close((terms[0] + terms[1]) / 2, z.sin().mean(), rtol=1e-12, atol=0)


def test_a_value_that_is_the_same_on_all_is_no_mean_over_processes() -> None:
    module = Logged()
    value = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    log_same(module, "test/rate", value)  # type: ignore[arg-type]
    torch.testing.assert_close(module.values["test/rate"], value.detach(), rtol=0, atol=0)
    assert (module.options["reduce_fx"], module.options["sync_dist"]) == ("max", True)


def test_a_value_on_the_host_is_brought_to_the_device_that_processes_reduce_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL has no collective of tensors on the host, and a mean over processes is taken where the value is."""
    monkeypatch.setattr(logging, "is_distributed", lambda: True)
    module: Any = Logged()
    module.device = torch.device("meta")  # stands for a GPU
    for value in (torch.tensor(0.1, dtype=torch.float64), 0.1):
        log_same(module, "test/rate", value)
        logged = module.values["test/rate"]
        assert not isinstance(logged, Tensor) or (logged.device.type, logged.dtype) == ("meta", torch.float64)
