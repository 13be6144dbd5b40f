"""Speed and memory of data, training and start-up, each compared with plain code."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.classification.image_sets import ImagesInMemory
from datamodules.distributed import collectives
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.networks.cifar_resnet import CIFARResNet
from tests.benchmarks.elr_steps import as_in_training, epochs_of, spine
from tests.benchmarks.pairs import paired_ratio
from tests.command import ROOT, environment

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class PerItem(Dataset):
    """The usual pipeline: one PIL image at a time through torchvision's transforms, like the ELR authors' loader."""

    def __init__(self, images: ImagesInMemory) -> None:
        self.image = images.image.permute(0, 2, 3, 1).contiguous().numpy()
        self.label = images.label.numpy()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int, int]:
        return self.transform(Image.fromarray(self.image[item])), int(self.label[item]), item


def test_batches_against_the_per_item_pipeline(report: Report) -> None:
    data = spine(12_800)
    data.setup("fit")
    per_item = DataLoader(PerItem(data.train_set.source), batch_size=128, shuffle=True)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    as_in_training(data)

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
    """Both Lightning (with guards and data pipeline) and the plain loop take the same ELR steps on ResNet-20."""
    ours, theirs = epochs_of(lambda: CIFARResNet(20), steps=40)
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
    """The ratio is the memory of one of 8 processes over that of the array in the published code.

    The dataset has 1.3 million samples of 1,000 classes.
    """
    samples, classes = 1_300_000, 1_000
    monkeypatch.setattr(collectives, "rank", lambda: 3)
    monkeypatch.setattr(collectives, "world_size", lambda: 8)
    memory = PerSample(classes).allocate(samples, "cpu", dtype)
    ratio = memory._rows.nbytes / (samples * classes * np.dtype(np.float32).itemsize)
    name = f"ELR targets per process, ImageNet on 8 processes, {dtype}, over the whole array (5.2 GB)"
    report(name, ratio, f"{target}")
    assert ratio == pytest.approx(target, rel=1e-4)
