"""Losses that count how often their gradient is computed, and a record of the training loss over epochs.

The gradient of the loss with respect to the network's outputs may be expensive, for example if the loss is a simulator.
Optimizers are then compared by the number of these gradients, which a backward hook on the loss counts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.batches import global_batch_size, loss_weight
from datamodules.distributed.collectives import sum_over_processes
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import Table
from lightning_modules.optim.optimizers import trainable_parameters
from lightning_modules.torch_internals import foreach_add_
from lightning_modules.training.logging import log_same

HALF = ("16-mixed", "16-true", "bf16-true")
COURSE = ("training_loss", "gradient_norm", "expensive_gradients")


def inputs_and_target(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the network input and the target of a batch of rows or images."""
    return (batch["features"], batch["target"]) if "features" in batch else (batch["image"], batch["label"])


class CountedLoss(nn.Module):
    """Sum a loss over samples, and count how often its gradient with respect to the outputs is computed.

    Args:
        loss: module that maps outputs and targets to the sum of the losses over samples, such as a loss of torch with
            `reduction="sum"`.

    Raises:
        ValueError: if the `reduction` of the loss is unknown or not `sum`.
    """

    gradients: Tensor

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        if (reduction := getattr(loss, "reduction", None)) != "sum":
            raise ValueError(
                f"loss.reduction must be sum, so that the gradient at each output is the gradient of its sample's "
                f"loss, got {reduction} for {type(loss).__name__}"
            )
        self.loss = loss
        self.register_buffer("gradients", torch.zeros((), dtype=torch.int64))
        self.register_full_backward_hook(count_gradient)

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        return self.evaluation_loss(outputs, target)

    def evaluation_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Compute the loss for evaluation: its gradients are not counted."""
        return self.loss(outputs.view_as(target) if target.is_floating_point() else outputs, target)


def count_gradient(loss: Any, by_inputs: Any, by_outputs: Any) -> None:
    """Count a gradient; this is the backward hook of `CountedLoss`."""
    loss.gradients.add_(1)


class OutputLossSteps:
    """Mixin with the validation and test steps. It records the mean training loss and its gradient norm for each epoch.

    The loss and the gradient norm are computed on the whole training set, before training and at the end of each epoch.
    A module with this mixin must have the attributes `network`, `loss` and `course`.
    """

    network: nn.Module
    loss: CountedLoss
    course: list[dict[str, float]]

    def setup(self: Any, stage: str) -> None:
        if (precision := str(self.trainer.precision)) in HALF:
            raise ValueError(f"trainer.precision {precision} has too few digits: use 32-true, 64-true or bf16-mixed")

    def outputs(self: Any, inputs: Tensor) -> Tensor:
        """Compute the outputs of the network, in float32 or a higher precision."""
        return at_least_float32(self.network(inputs))

    def on_train_start(self: Any) -> None:
        if not self.course:
            self._measure_course()

    def on_train_epoch_end(self: Any) -> None:
        self._measure_course()

    def _measure_course(self: Any) -> None:
        data = self.trainer.datamodule
        in_order: Any = getattr(data, "training_images_dataloader", None)
        batches = in_order() if in_order else data.evaluation_loader(data.train_set)
        loss, norm, samples = self._whole_loss(map(self.trainer.strategy.batch_to_device, batches))
        found = torch.stack([loss.double() / samples, norm.double() / samples, self.loss.gradients.double()])
        self.course.append(dict(zip(COURSE, found.tolist(), strict=True)))
        log_same(self, "train/whole_loss", found[0])

    def _whole_loss(self: Any, batches: Iterable[Any]) -> tuple[Tensor, Tensor, int]:
        """Return the loss summed over samples and ranks, the norm of its gradient, and the number of samples."""
        parameters = trainable_parameters(self.network)
        total, value, samples = [torch.zeros_like(each) for each in parameters], torch.zeros((), device=self.device), 0
        for batch in batches:
            inputs, target = inputs_and_target(batch)
            loss = self.loss.evaluation_loss(self.outputs(inputs), target)
            foreach_add_(total, torch.autograd.grad(loss, parameters, materialize_grads=True))
            value, samples = value + loss.detach(), samples + global_batch_size(batch)
        value, total = sum_over_processes(value, total)
        return value, nn.utils.get_total_norm(total), samples

    def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self: Any, batch: Any, batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self: Any, batch: Any, stage: str) -> None:
        """Log the mean loss and, if targets are classes, the accuracy."""
        inputs, target = inputs_and_target(batch)
        outputs = self.outputs(inputs)
        measures = {"loss": self.loss.evaluation_loss(outputs, target) / len(target)}
        if not target.is_floating_point():
            measures["accuracy"] = (outputs.argmax(dim=1) == target).to(outputs).mean()
        for name, value in measures.items():
            value, size = loss_weight(batch) * value, global_batch_size(batch)
            self.log(f"{stage}/{name}", value, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)

    def on_test_epoch_end(self: Any) -> None:
        """Log the loss and gradient norm on the training set after training, and the gradient norm before training."""
        first = {"initial_gradient_norm": self.course[0]["gradient_norm"]} if self.course else {}
        for name, value in (self.course[-1] | first if self.course else {}).items():
            log_same(self, f"test/{name}", torch.tensor(value, dtype=torch.float64))

    @property
    def tables(self) -> Mapping[str, Table]:
        """Table of the loss and the gradient norm on the training set against the number of computed gradients.

        Only gradients of the loss with respect to the outputs are counted, because they are the expensive ones.
        """
        if not self.course:
            return {}
        columns = {name: [row[name] for row in self.course] for name in reversed(COURSE)}
        return {"course": Table(columns, logarithmic={"gradient_norm"})}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["course"] = self.course

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.course = checkpoint["course"]
