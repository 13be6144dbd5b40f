"""Measure the top-1 accuracy of a classifier on restored images."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from datamodules.file_pairs import stem_of
from datamodules.files.text_files import read_text
from lightning_modules.backbones.resized import upsample_bicubic
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import ImageMeasurer, require
from lightning_modules.training.logging import log_same

SEEN = ("", "noisy_", "clean_")
"""Prefixes of the metric names for restored, degraded and clean images."""


class TopOneAccuracy(Callback):
    """Classify the restored test images with a pretrained classifier, and log these metrics:

    * `test/accuracy`: fraction of restored images that are classified correctly;
    * `test/noisy_accuracy`: the same for degraded images;
    * `test/clean_accuracy`: the same for clean images, which in practice is an upper bound of the other two.

    Images are clipped to [0, 1] before they are classified. They are sharded over ranks.

    Args:
        network: classifier that maps images `[B, C, H, W]` in [0, 1] to logits `[B, K]`.
        labels: text file with one line for each test image: the image's name, followed by its class number. An example
            is a list of ImageNet images with lines such as `n01440764/ILSVRC2012_val_00000293.JPEG 0`.
    """

    def __init__(self, network: nn.Module, labels: str) -> None:
        if not (path := Path(labels).expanduser()).is_file():
            raise FileNotFoundError(
                f"labels {path} does not exist; expected a text file with a name and a class per line"
            )
        self.network = network.requires_grad_(False).eval()
        self.label = {}
        for words in (line.split() for line in read_text(path).splitlines() if line.strip()):
            if len(words) < 2 or not words[-1].isdecimal():
                raise ValueError(f"labels {path}: each line must be an image name and a class number, got {words[0]!r}")
            self.label[stem_of(words[0])] = int(words[-1])
        self.counts = torch.zeros(len(SEEN) + 1, dtype=torch.int64)  # correct predictions, and the number of images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require(pl_module, ImageMeasurer, "TopOneAccuracy")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.network.to(pl_module.device)
        self.counts = torch.zeros_like(self.counts, device=pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        estimate = outputs["estimate"]
        if missing := next((name for name in batch["name"] if name not in self.label), None):
            raise ValueError(f"labels has no class for the test image {missing}")
        label = torch.tensor([self.label[name] for name in batch["name"]], device=estimate.device)
        seen = (estimate, upsample_bicubic(batch["noisy"], estimate.shape[2:]), batch["clean"])
        self.counts += torch.stack([*(self._right(images, label) for images in seen), label.new_tensor(len(label))])

    def _right(self, images: Tensor, label: Tensor) -> Tensor:
        with torch.no_grad(), in_full_precision(images.device):
            return (self.network(images.float().clamp(0, 1)).argmax(dim=1) == label).sum()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        *right, total = trainer.strategy.reduce(self.counts, reduce_op="sum")
        for name, count in zip(SEEN, right, strict=True):
            log_same(pl_module, f"test/{name}accuracy", count / total)
