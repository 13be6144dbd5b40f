"""What is held of each training image, and the sweep over the training set that judges them all.

Verdicts and weights, one bit and one number for each image, are the same on all processes. Guesses, as many numbers as
there are classes, are shared out (`PerSample`), and so is what a sweep collects: no image counts twice, and nothing but
the first process holds a whole table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_modules.noisy_labels.layer_outputs import layer_outputs, named_layer, pooled
from lightning_modules.noisy_labels.lsa.detection import Detection
from lightning_modules.noisy_labels.lsa.objective import soft_cross_entropy
from lightning_modules.per_sample import PerSample


class TrainingImages:
    """The state of all training images.

    Args:
        num_samples: N.
        num_classes: C.
        num_networks: networks, each of which has its own guesses.
        device: where the state lives.
        dtype: of guesses and weights.
    """

    def __init__(
        self, num_samples: int, num_classes: int, num_networks: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.is_noisy = torch.zeros(num_samples, dtype=torch.bool, device=device)
        self.weight = torch.ones(num_samples, dtype=dtype, device=device)
        self.guesses = [PerSample(num_samples, num_classes, device, dtype) for _ in range(num_networks)]

    def keep_guess(self, network: int, batch: Any, guess: Tensor) -> None:
        """Replaces a network's guesses for a batch by `[b, C]`."""
        self.guesses[network].update(batch["index"], guess, lambda old, new: new, batch.get("global_size"))

    def take(self, trainer: Trainer, found: Detection | None) -> None:
        """Gives all processes the first one's verdicts and weights."""
        sent = None if found is None else (torch.from_numpy(found.is_noisy), torch.from_numpy(found.weight))
        is_noisy, weight = trainer.strategy.broadcast(sent)  # type: ignore[misc]
        self.is_noisy.copy_(is_noisy)
        self.weight.copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """Everything, on the CPU of the first process. Every process calls it."""
        return {
            "is_noisy": self.is_noisy.cpu(),
            "weight": self.weight.cpu(),
            "guesses": [guess.gathered() for guess in self.guesses],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave.

        Raises:
            ValueError: if the training set has another size.
        """
        for guess, saved in zip(self.guesses, state["guesses"], strict=True):
            guess.load(saved)
        self.is_noisy.copy_(state["is_noisy"])
        self.weight.copy_(state["weight"])


class Sweep(NamedTuple):
    """What one network says of all training images, in their order."""

    loss: NDArray
    """`[N]`: cross-entropy of the given labels."""
    pseudo_loss: NDArray
    """`[N]`: cross-entropy of the guesses."""
    feature: NDArray
    """`[N, D]`: rows of unit length."""
    wrong: NDArray[np.bool_] | None
    """`[N]`: whether the given label is not the true one; None where that is not known."""


def keep_old(old: Tensor, new: Tensor) -> Tensor:
    """The rule of a `PerSample` that is only read."""
    return old


@torch.no_grad()
def sweep(
    trainer: Trainer, network: nn.Module, classify: Callable[[Tensor], Tensor], feature_layer: str, guess: PerSample
) -> Sweep | None:
    """Judges all training images, un-augmented, by a network in evaluation mode.

    Args:
        trainer: whose DataModule has `training_images_dataloader`.
        network: is put into evaluation mode, and back.
        classify: maps a batch's images to logits `[b, C]` through that network.
        feature_layer: name of the layer of the network whose output is collected.
        guess: of each image; an image that has none yet is guessed to be what its label says.

    Returns:
        The whole table on process 0, None elsewhere.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    layer = named_layer(network, feature_layer)
    table: PerSample | None = None
    training = [module for module in network.modules() if module.training]
    network.eval()
    for cpu_batch in data.training_images_dataloader():
        batch: Any = trainer.strategy.batch_to_device(cpu_batch)
        label, size = batch["label"], batch.get("global_size")
        with trainer.precision_plugin.forward_context(), layer_outputs(layer) as outputs:
            logits = classify(batch["image"])
        one_hot = F.one_hot(label, logits.shape[1]).to(torch.promote_types(logits.dtype, torch.float32))
        known = guess.update(batch["index"], one_hot, keep_old, size)
        known = torch.where(known.sum(dim=1, keepdim=True) > 0, known, one_hot)
        wrong = label != batch["clean_label"] if "clean_label" in batch else torch.full_like(label, -1)
        judged = [soft_cross_entropy(logits, one_hot), soft_cross_entropy(logits, known), wrong]
        row = torch.cat([*(each[:, None].to(one_hot.dtype) for each in judged), pooled(outputs[-1])], dim=1)
        if table is None:
            table = PerSample(data.num_train_samples, row.shape[1], row.device, row.dtype)
        table.update(batch["index"], row, lambda old, new: new, size)
    for module in training:
        module.training = True
    assert table is not None
    everything = table.gathered().numpy()
    if len(everything) == 0:
        return None
    loss, pseudo_loss, wrong_label, feature = np.split(everything, [1, 2, 3], axis=1)
    truth = None if (wrong_label < 0).any() else wrong_label[:, 0] > 0
    return Sweep(loss[:, 0], pseudo_loss[:, 0], feature, truth)
