"""Measure the memory that autograd saves for the backward pass of a training step."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

MEBIBYTE = 2**20


class SavedBytes(saved_tensors_hooks):
    """Context manager that counts the bytes of the tensors that autograd saves for the backward pass.

    A storage that several tensors share is counted once.

    Args:
        network: network whose parameters and buffers are not counted, because they stay in memory even without
            autograd.
    """

    def __init__(self, network: nn.Module) -> None:
        own = (*network.parameters(), *network.buffers())
        self.held = {tensor.untyped_storage().data_ptr() for tensor in own}
        self.storages: dict[int, int] = {}
        super().__init__(self._note, lambda tensor: tensor)

    def __enter__(self) -> "SavedBytes":  # type: ignore[override]
        super().__enter__()
        return self

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.held:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Number of bytes saved so far. Tensors that have since been freed are included."""
        return sum(self.storages.values())


def state_bytes(module: nn.Module, optimizers: Iterable[Optimizer]) -> int:
    """Count the bytes of all weights, of the gradients of all trainable weights, and of the optimizers' states."""
    weights = [*module.parameters(), *(weight for weight in module.parameters() if weight.requires_grad)]
    states = [value for each in optimizers for state in each.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in (*weights, *states) if isinstance(tensor, Tensor))


class ActivationMemory(Callback):
    """Log `train/saved_mebibytes`, the memory that autograd saves for the backward pass in each epoch's first step.

    `train/state_mebibytes` is the memory of weights, gradients and optimizer state after the epoch. On a GPU, the peak
    of allocated memory is also logged, as `train/peak_gibibytes`; it includes weights, gradients, optimizer state and
    temporary tensors. Logged values are maxima over all ranks. In a test, the last value of `train/saved_mebibytes` is
    logged as `test/saved_mebibytes`.
    """

    def __init__(self) -> None:
        self.counted: SavedBytes | None = None
        self.found: tuple[int, float] = (-1, 0.0)
        """Epoch of the last measurement, and the measured value in mebibytes."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.found[0] != trainer.current_epoch:
            self.counted = SavedBytes(pl_module)
            self.counted.__enter__()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.counted is not None:
            self.counted.__exit__()
            self.found = trainer.current_epoch, self.counted.total / MEBIBYTE
            self.counted = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.counted is not None:
            self.counted.__exit__()
            self.counted = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "train/saved_mebibytes", self.found[1])
        self._log(pl_module, "train/state_mebibytes", state_bytes(pl_module, trainer.optimizers) / MEBIBYTE)
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device) / MEBIBYTE / 1024
            self._log(pl_module, "train/peak_gibibytes", peak)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.found[0] >= 0:
            self._log(pl_module, "test/saved_mebibytes", self.found[1])

    @staticmethod
    def _log(module: LightningModule, name: str, value: float) -> None:
        module.log(name, value, on_step=False, on_epoch=True, reduce_fx="max", sync_dist=True, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]
