"""Measure the fraction of generated images that a classifier assigns to the requested class."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.generation.generated_blocks import sampled_bytes
from datamodules.arguments import at_least
from datamodules.classification.image_sets import ImageSet, ImageSource
from datamodules.randomness.generators import seed_of
from lightning_modules.interfaces import ClassGenerator, require
from lightning_modules.training.evaluation_mode import in_evaluation_mode
from lightning_modules.training.logging import log_same


class ClassAccuracy(Callback):
    """After testing, generate images of all classes, classify them and log these metrics:

    * `test/class_accuracy`: fraction of generated images that are classified as the requested class;
    * `test/class_accuracy_by_chance`: expected value of this fraction if predicted classes were independent of the
      requested classes;
    * `test/class_accuracy_of_real_images`: accuracy of the classifier on real test images.

    Each image is assigned the class of the nearest training image, by Euclidean distance between grey values. This
    classifier is therefore independent of the network that guides the sampler, and does not use colours. It is suitable
    for small images such as digits. Every rank generates all images.

    Args:
        images: dataset of real images with labels.
        num_samples: number of generated images.
        batch_size: number of images that are generated as one batch.
    """

    measures_whole_runs_alone = True
    """Tells the short run that checks `checkpoint.monitor` that this callback logs metrics only in complete runs."""

    def __init__(self, images: ImageSet, num_samples: int = 400, batch_size: int = 100) -> None:
        at_least(1, num_samples=num_samples, batch_size=batch_size)
        self.images = images
        self.num_samples = num_samples
        self.batch_size = batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict" and not require(pl_module, ClassGenerator, "ClassAccuracy").generated_classes:
            raise ValueError("ClassAccuracy needs a generator with classes, but the model is unconditional")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module: Any = pl_module
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        asked, generated = [], []
        evaluating = in_evaluation_mode(trainer, pl_module)
        with torch.random.fork_rng(devices), torch.inference_mode(False), evaluating:
            for start in range(0, self.num_samples, self.batch_size):
                label = torch.arange(start, min(start + self.batch_size, self.num_samples)) % module.generated_classes
                seed = seed_of(0, start // self.batch_size)
                asked.append(label)
                generated.append(sampled_bytes(pl_module, len(label), seed, label=label.to(pl_module.device)).cpu())
        training, test = self.images.training(), self.images.test()
        known = grey_values(pixels(training))
        requested = torch.cat(asked)
        predicted, shown = (
            training.label[torch.cdist(grey_values(images), known).argmin(dim=1)]
            for images in (torch.cat(generated) / 255, pixels(test))
        )
        share = [
            torch.bincount(each, minlength=module.generated_classes) / len(each) for each in (requested, predicted)
        ]
        log_same(pl_module, "test/class_accuracy", (requested == predicted).float().mean())
        log_same(pl_module, "test/class_accuracy_by_chance", (share[0] * share[1]).sum())
        log_same(pl_module, "test/class_accuracy_of_real_images", (shown == test.label).float().mean())


def grey_values(image: Tensor) -> Tensor:
    """Return the grey values `[B, H W]` of images `[B, C, H, W]`."""
    return image.mean(dim=1).flatten(1)


def pixels(source: ImageSource) -> Tensor:
    """Read all images of a split, `[N, C, H, W]` in [0, 1]."""
    return source.fetch(torch.arange(len(source.label)), None) / source.data_range
