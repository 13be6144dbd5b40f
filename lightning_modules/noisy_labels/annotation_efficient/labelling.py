"""Labelling at the start of a round: predict pseudo labels, estimate their quality, and select the best labels.

The labels are written to `pseudo_labels/round_<n>/<image>.png` in the run directory, as images with the values 0 and
255. A table that lists the quality of each label, and whether the label was kept, is written to
`pseudo_labels/round_<n>.csv`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor

from datamodules.distributed.collectives import all_reduce_sum, broadcast_buffers
from datamodules.files.whole_files import write_csv
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.label_quality import best_part, label_quality
from lightning_modules.noisy_labels.annotation_efficient.measures import dice
from lightning_modules.training.evaluation_mode import in_evaluation_mode


class LabelFiles:
    """Writer of a round's pseudo labels, and of a table of their quality.

    Every rank writes the labels of its shard. Rank 0 writes the table after all ranks have finished, so that the table
    exists only if the labels are complete. A run without a run directory (`fast_dev_run`, or no logger) writes nothing.

    Args:
        trainer: trainer of the current run.
        number: index of the round.
        names: file names of the N training images, without suffix; None uses the indices of the images instead.
    """

    def __init__(self, trainer: Trainer, number: int, names: Sequence[str] | None) -> None:
        self.trainer = trainer
        self.names = names
        directory = trainer.log_dir if trainer.loggers else None  # log_dir broadcasts: all ranks must read it
        self.folder = None if directory is None else Path(directory, "pseudo_labels", f"round_{number}")

    def write(self, index: Tensor, label: Tensor) -> None:
        """Write the binary labels, `[b, H, W]`, of the training images with the indices `index`, `[b]`."""
        if self.folder is None:
            return
        for sample, mask in zip(index.tolist(), (255 * label).byte().cpu().numpy(), strict=True):
            path = self.folder / f"{self._name(sample)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)  # a name may include a folder
            Image.fromarray(mask).save(path)

    def finish(self, quality: Tensor, kept: Tensor) -> None:
        """Wait until all ranks have written their labels, then write the table of `quality` and `kept`, both `[N]`."""
        if self.folder is None:
            return
        self.trainer.strategy.barrier("pseudo labels are written")
        if self.trainer.is_global_zero:
            names = [self._name(sample) for sample in range(len(quality))]
            table = pd.DataFrame(
                {"index": range(len(names)), "name": names, "quality": quality.cpu(), "kept": kept.cpu()}
            )
            write_csv(self.folder.with_suffix(".csv"), table)

    def _name(self, sample: int) -> str:
        return f"{sample:06d}" if self.names is None else self.names[sample]


def label_anew(
    module: LightningModule,
    data: Any,
    number: int,
    new_label: Callable[[dict[str, Tensor]], Tensor],
    vae: ShapeVAE | None,
    keep_fraction: float,
) -> tuple[Tensor, dict[str, float]]:
    """Relabel all training images, which are sharded over ranks, and select the best labels.

    Args:
        module: module with a running trainer. While the labels are predicted, the module is in evaluation mode.
        data: DataModule that is a `LabelStore` and a `TrainingImageSource`.
        number: index of the round, counted from 0.
        new_label: function that maps a batch to binary labels `[B, H, W]`, int64.
        vae: trained VAE of masks, for the label quality.
        keep_fraction: fraction of the labels to keep. If there is no VAE, all labels are kept in round 0.

    Returns:
        Mask of the kept samples, `[N]`, bool; and a dict of means to log: `label_quality` and, if the ground truth is
        known, `label_dice` over all training images and `kept_label_dice` over the kept samples.
    """
    trainer, size = module.trainer, data.num_train_samples
    writer = LabelFiles(trainer, number, getattr(data, "training_names", None))
    quality, true_dice = (torch.zeros(size, dtype=torch.float64, device=module.device) for _ in range(2))
    truth_is_known = False
    broadcast_buffers(module)
    with in_evaluation_mode(trainer, module):
        for on_host in data.training_images_dataloader():
            batch = trainer.strategy.batch_to_device(on_host)
            label, index = new_label(batch), batch["index"]
            quality[index] = label_quality(label, batch["label"] if number else None, vae).double()
            if truth_is_known := "clean_label" in batch:
                true_dice[index] = dice(label, batch["clean_label"] == 1).double()
            data.correct_labels(index, label)
            writer.write(index, label)
    quality, true_dice = all_reduce_sum(quality), all_reduce_sum(true_dice)
    kept = best_part(quality, 1.0 if number == 0 and vae is None else keep_fraction)
    writer.finish(quality, kept)
    about = {"label_quality": float(quality.mean())}
    if truth_is_known:
        about |= {"label_dice": float(true_dice.mean()), "kept_label_dice": float(true_dice[kept].mean())}
    return kept, about
