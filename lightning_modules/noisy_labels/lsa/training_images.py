"""Flags, weights and guesses of all training images.

A sweep over the training set computes the flags and weights. Each rank has a copy of all flags (one boolean per image)
and weights (one number per image). The guesses (one number per image and class) are sharded over ranks (`PerSample`),
and so are the results of a sweep. In a sweep, no image is counted twice, and only rank 0 gathers the complete table.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.batches import UNVERIFIED
from datamodules.distributed.collectives import broadcast_buffers
from lightning_modules.backbones.layer_features import named_layer, pool_features, tap_layers
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import TrainingImageSource, TrainingSamples, require_data
from lightning_modules.noisy_labels.lsa.detection import FlaggedImages, flag_metrics
from lightning_modules.noisy_labels.lsa.objective import cross_entropy_per_sample
from lightning_modules.training.evaluation_mode import in_evaluation_mode


class Targets(NamedTuple):
    """Training targets of a batch, and their weights."""

    target: Tensor
    """Targets t, `[b, C]`."""
    weight: Tensor
    """Weights u, `[b]`."""
    is_noisy: Tensor
    """Whether the target is a guess, `[b]`."""


class TrainingImages:
    """Flags, weights and guesses of all training images. Before any method except `restore`, call `allocate`.

    Args:
        num_classes: number C of classes.
        num_networks: number of networks. Each network has a separate table of guesses.
    """

    is_noisy: Tensor
    weight: Tensor

    def __init__(self, num_classes: int, num_networks: int) -> None:
        self.num_classes = num_classes
        self.guesses = [PerSample(num_classes) for _ in range(num_networks)]
        self._saved: dict[str, Any] | None = None

    def allocate(self, num_samples: int, device: torch.device | str, dtype: torch.dtype) -> None:
        """Allocate the state, and initialise it or restore it from a checkpoint.

        To restore the state, call `restore` before this method.

        Args:
            num_samples: number N of training images.
            device: device of the state.
            dtype: dtype of the guesses and weights; lower precisions are promoted to float32.

        Raises:
            ValueError: if the checkpoint is from a training set of a different size.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        self.is_noisy = torch.zeros(num_samples, dtype=torch.bool, device=device)
        self.weight = torch.ones(num_samples, dtype=dtype, device=device)
        for guess in self.guesses:
            guess.allocate(num_samples, device, dtype)
        if self._saved is not None:
            self.is_noisy.copy_(self._saved["is_noisy"])
            self.weight.copy_(self._saved["weight"])
            self._saved = None

    def keep_guess(self, network: int, batch: Any, guess: Tensor) -> None:
        """Store the guesses `[b, C]` of one network for a batch."""
        self.guesses[network].update(batch["index"], guess, lambda old, new: new, batch.get("global_batch_size"))

    def targets(self, batch: Any, guess: Tensor | None) -> Targets:
        """Return the targets of a batch.

        The target of a noisy image is its guess, with the weight w. The target of any other image is its label in the
        dataset.

        Args:
            batch: b images with labels.
            guess: guesses g, `[b, C]`; None uses the labels in the dataset for all images.
        """
        index = batch["index"]
        given = F.one_hot(batch["label"], self.num_classes).to(self.weight.dtype)
        if guess is None:
            return Targets(given, torch.ones_like(self.weight[index]), torch.zeros_like(self.is_noisy[index]))
        noisy = self.is_noisy[index]
        return Targets(torch.where(noisy[:, None], guess, given), self.weight[index], noisy)

    def replace_from_rank_zero(
        self, trainer: Trainer, found: FlaggedImages | None, wrong: NDArray[np.bool_] | None
    ) -> dict[str, float]:
        """Replace the flags and weights on all ranks with those computed on rank 0.

        Args:
            trainer: trainer whose strategy broadcasts the flags and weights.
            found: flags and weights on rank 0; None on other ranks.
            wrong: whether each label in the dataset is wrong, `[N]`; None if unknown.

        Returns:
            Metrics of the detection (see `flag_metrics`), on all ranks.
        """
        sent = None
        if found is not None:
            metrics = flag_metrics(found, wrong)
            sent = torch.from_numpy(found.is_noisy), torch.from_numpy(found.weight), metrics
        is_noisy, weight, metrics = trainer.strategy.broadcast(sent)  # type: ignore[misc]
        self.is_noisy.copy_(is_noisy)
        self.weight.copy_(weight)
        return metrics

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the state to a checkpoint. The guesses are gathered in the CPU memory of rank 0.

        Every rank must call this method.
        """
        if self.guesses[0].num_samples:
            checkpoint["images"] = {
                "is_noisy": self.is_noisy.cpu(),
                "weight": self.weight.cpu(),
                "guesses": [guess.gather(copy=False) for guess in self.guesses],
            }

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Read the state that `save` added to a checkpoint.

        The next call of `allocate` copies it into the allocated tensors.
        """
        self._saved = checkpoint.get("images")
        if self._saved is not None:
            for guess, saved in zip(self.guesses, self._saved["guesses"], strict=True):
                guess.restore(saved)


class Sweep(NamedTuple):
    """Scores that one network gives all training images, in dataset order."""

    loss: NDArray
    """Cross-entropy of each image with its label in the dataset, `[N]`."""
    pseudo_loss: NDArray
    """Cross-entropy with the guesses, `[N]`."""
    feature: NDArray
    """Features, normalised to unit length, `[N, D]`."""
    wrong: NDArray[np.bool_] | None
    """Whether each label in the dataset is wrong, `[N]`; None if the true labels are unknown."""


def keep_old(old: Tensor, new: Tensor) -> Tensor:
    """Return `old`: a `PerSample` that is updated with this function returns its stored rows, and stays unchanged."""
    return old


@torch.no_grad()
def sweep(
    trainer: Trainer, network: nn.Module, evaluation_view: nn.Module, feature_layer: str, guess: PerSample
) -> Sweep | None:
    """Score all training images, without augmentation, with a network in evaluation mode.

    All ranks use the BatchNorm statistics of rank 0.

    Args:
        trainer: trainer of the run. The images come from the `training_images_dataloader` of its DataModule or, if
            there is none, from the user's dataloader.
        network: network that maps views to logits.
        evaluation_view: transform that is applied to the images.
        feature_layer: name of the layer whose outputs are collected.
        guess: guessed labels of all images. For an image without a guess, the label in the dataset is used.

    Returns:
        Scores of all images on rank 0; None on other ranks.
    """
    data = require_data(trainer, TrainingSamples, "LSA")
    images = require_data(trainer, TrainingImageSource, "LSA")
    layer = {feature_layer: named_layer(network, feature_layer)}
    judge = nn.Sequential(evaluation_view, network)
    table: PerSample | None = None
    broadcast_buffers(network)
    for cpu_batch in images.training_images_dataloader():
        batch: Any = trainer.strategy.batch_to_device(cpu_batch)
        label, size = batch["label"], batch.get("global_batch_size")
        with in_evaluation_mode(trainer, judge) as classify, tap_layers(layer) as outputs:
            logits = classify(batch["image"])
        one_hot = F.one_hot(label, logits.shape[1]).to(torch.promote_types(logits.dtype, torch.float32))
        known = guess.update(batch["index"], one_hot, keep_old, size)
        known = torch.where(known.sum(dim=1, keepdim=True) > 0, known, one_hot)
        true = batch.get("clean_label", torch.full_like(label, UNVERIFIED))
        wrong = torch.where(true == UNVERIFIED, -1, (label != true).long())
        judged = [cross_entropy_per_sample(logits, one_hot), cross_entropy_per_sample(logits, known), wrong]
        unit_rows = F.normalize(at_least_float32(pool_features(outputs[feature_layer][-1])), dim=1)
        row = torch.cat([*(each[:, None].to(one_hot.dtype) for each in judged), unit_rows], dim=1)
        if table is None:
            table = PerSample(row.shape[1]).allocate(data.num_train_samples, row.device, row.dtype)
        table.update(batch["index"], row, lambda old, new: new, size)
    assert table is not None
    everything = table.gather().numpy()
    if len(everything) == 0:
        return None
    loss, pseudo_loss, wrong_label, feature = np.split(everything, [1, 2, 3], axis=1)
    truth = None if (wrong_label < 0).any() else wrong_label[:, 0] > 0
    return Sweep(loss[:, 0], pseudo_loss[:, 0], feature, truth)
