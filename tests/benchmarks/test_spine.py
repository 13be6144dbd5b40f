"""Speed and memory of data, training and start-up, each against the plain way of doing it."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from callbacks.guards.finite_loss import FiniteLoss
from callbacks.guards.seeding import SeedEveryBatch
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import Symmetric
from datamodules.loading import world
from datamodules.loading.augmentation import Augmentation
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.noisy_labels.elr import ELR
from tests.benchmarks.pairs import paired_ratio
from tests.command import ROOT, environment

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class RandomImages(ImageSet):
    """As many images as an epoch of the benchmark needs, of CIFAR's shape."""

    num_classes = 10
    image_shape = (3, 32, 32)

    def __init__(self, size: int) -> None:
        self.size = size

    def training(self) -> ImagesInMemory:
        random = torch.Generator().manual_seed(0)
        image = torch.randint(256, (self.size, 3, 32, 32), dtype=torch.uint8, generator=random)
        return ImagesInMemory(image, torch.randint(10, (self.size,), generator=random))

    test = training


def spine(size: int) -> LabelledImages:
    return LabelledImages(RandomImages(size), 128, Symmetric(0.4), augmentation=Augmentation(crop_padding=4, flip=True))


class PerItem(Dataset):
    """The usual pipeline: a PIL image at a time through torchvision's transforms, as the ELR authors' loader does."""

    def __init__(self, images: ImagesInMemory) -> None:
        self.image = images.image.permute(0, 2, 3, 1).contiguous().numpy()
        self.label = images.label.numpy()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int, int]:
        return self.transform(Image.fromarray(self.image[item])), int(self.label[item]), item


class Idle(LightningModule):
    """A module that a batch can be handed to."""

    def training_step(self, batch: dict, batch_idx: int) -> None: ...


def test_batches_against_the_per_item_pipeline(report: Report) -> None:
    data = spine(12_800)
    data.setup("fit")
    per_item = DataLoader(PerItem(data.train_set.source), batch_size=128, shuffle=True)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    data.trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    data.trainer.strategy._lightning_module = Idle()
    data.trainer.training = True

    def ours() -> None:
        for batch in data.train_dataloader():
            (data.on_after_batch_transfer(batch, 0)["image"] - mean).div_(std)

    def theirs() -> None:
        for _image, _label, _index in per_item:
            pass

    ratio = 1 / paired_ratio(ours, theirs, rounds=3)
    report("images/s of the DataModule over the per-item torchvision pipeline, one core", ratio, ">= 10")
    assert ratio >= 10


def test_fit_against_a_plain_loop(report: Report) -> None:
    """The same ELR step on ResNet-20: Lightning, the guards and the data pipeline against a bare loop."""
    steps = 40
    data = spine(steps * 128)
    data.setup("fit")
    images, labels = data.train_set.source.image.float().div_(255), data.train_set.label.clone()
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3}

    def ours() -> None:
        module = ELR(CIFARResNet(20), 10, optimizer=lambda p: torch.optim.SGD(p, **settings))
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[SeedEveryBatch(), FiniteLoss()],
        )
        trainer.fit(module, data)

    def theirs() -> None:
        network = CIFARResNet(20)
        optimizer = torch.optim.SGD(network.parameters(), **settings)
        target = torch.zeros(len(images), 10)
        order = torch.randperm(len(images))
        for step in range(steps):
            index = order[step * 128 : (step + 1) * 128]
            logits = network(images[index])
            p = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
            target[index] = 0.7 * target[index] + 0.3 * (p / p.sum(dim=1, keepdim=True)).detach()
            loss = nn.functional.cross_entropy(logits, labels[index])
            loss = loss + 3.0 * (1 - (target[index] * p).sum(dim=1)).log().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    ratio = paired_ratio(ours, theirs, rounds=7)
    report("time of fit over a plain loop, ELR on ResNet-20, batches of 128", ratio, "<= 1.05")
    assert ratio <= 1.05


def test_help_against_importing_lightning(report: Report) -> None:
    def process(*arguments: str) -> Callable[[], object]:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment())

    ratio = paired_ratio(process("train.py", "--help"), process("-c", "import lightning.pytorch.cli"), rounds=3)
    report("time of train.py --help over importing lightning.pytorch.cli", ratio, "<= 1.15")
    assert ratio <= 1.15
    ratio = paired_ratio(process("train.py", "fit", "--help"), process("-c", "import lightning.pytorch.cli"), rounds=3)
    report("time of train.py fit --help over importing lightning.pytorch.cli", ratio, "<= 1.15")
    assert ratio <= 1.15


@pytest.mark.parametrize(("dtype", "target"), [(torch.float32, 0.125), (torch.float16, 0.0625)])
def test_memory_of_targets_at_the_size_of_imagenet(
    report: Report, dtype: torch.dtype, target: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.3 million samples of 1,000 classes: what one of 8 processes holds, over the published code's whole array."""
    samples, classes = 1_300_000, 1_000
    monkeypatch.setattr(world, "rank", lambda: 3)
    monkeypatch.setattr(world, "world_size", lambda: 8)
    memory = PerSample(classes).allocate(samples, "cpu", dtype)
    ratio = memory._rows.nbytes / (samples * classes * np.dtype(np.float32).itemsize)
    name = f"ELR targets per process, ImageNet on 8 processes, {dtype}, over the whole array (5.2 GB)"
    report(name, ratio, f"{target}")
    assert ratio == pytest.approx(target, rel=1e-4)
