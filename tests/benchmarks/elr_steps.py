"""An epoch of ELR on CIFAR-sized images: through Lightning with guards and DataModule, and with a plain loop."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn

from callbacks.guards.finite_loss import FiniteLoss
from callbacks.guards.seeding import SeedEveryBatch
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import Symmetric
from lightning_modules.noisy_labels.elr import ELR
from tests.trainers import running

SETTINGS = {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3}


class RandomImages(ImageSet):
    """Random images of CIFAR's size; their number is the number that an epoch of the benchmark needs."""

    num_classes = 10
    image_shape = (3, 32, 32)

    def __init__(self, size: int) -> None:
        self.size = size

    def training(self) -> ImagesInMemory:
        random = torch.Generator().manual_seed(0)
        image = torch.randint(256, (self.size, 3, 32, 32), dtype=torch.uint8, generator=random)
        return ImagesInMemory(image, torch.randint(10, (self.size,), generator=random))

    test = training


def spine(size: int, batch_size: int = 128) -> LabelledImages:
    augmentation = Augmentation(crop_padding=4, flip=True)
    return LabelledImages(RandomImages(size), batch_size, Symmetric(0.4), augmentation=augmentation)


class Idle(LightningModule):
    """A module without a training step, used only to receive batches."""

    def training_step(self, batch: dict, batch_idx: int) -> None: ...


def as_in_training(data: LightningDataModule, accelerator: str = "cpu", device: str = "cpu") -> None:
    """Give a DataModule a trainer that is training, so that its loader and its hooks can be timed alone."""
    data.trainer = trainer = running(accelerator=accelerator, devices=1, logger=False, barebones=True)
    trainer.strategy._lightning_module = Idle().to(device)
    trainer.training = True


def epochs_of(
    network: Callable[[], nn.Module], steps: int, accelerator: str = "cpu"
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return two functions that train an epoch of `steps` batches of 128: through Lightning, and in a plain loop."""
    device = "cpu" if accelerator == "cpu" else "cuda"
    data = spine(steps * 128)
    data.setup("fit")
    images = data.train_set.source.image.float().div_(255).to(device)
    labels = data.train_set.label.clone().to(device)

    def ours() -> None:
        module = ELR(network(), 10, optimizer=lambda p: torch.optim.SGD(p, **SETTINGS))
        more: dict[str, Any] = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
        trainer = Trainer(
            max_epochs=1,
            accelerator=accelerator,
            devices=1,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[SeedEveryBatch(), FiniteLoss()],
            **more,
        )
        trainer.fit(module, data)

    def theirs() -> None:
        own = network().to(device)
        optimizer = torch.optim.SGD(own.parameters(), **SETTINGS)
        target = torch.zeros(len(images), 10, device=device)
        order = torch.randperm(len(images), device=device)
        for step in range(steps):
            index = order[step * 128 : (step + 1) * 128]
            logits = own(images[index])
            p = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
            target[index] = 0.7 * target[index] + 0.3 * (p / p.sum(dim=1, keepdim=True)).detach()
            loss = nn.functional.cross_entropy(logits, labels[index])
            loss = loss + 3.0 * (1 - (target[index] * p).sum(dim=1)).log().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return ours, theirs
