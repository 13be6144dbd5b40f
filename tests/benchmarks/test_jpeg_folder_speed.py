"""Training batches from a folder of ImageNet-sized JPEG files, compared with torchvision's folder and equal workers."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder as TorchvisionFolder

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.folder_sets import ImageFolder
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.loading import Loading
from tests.benchmarks.elr_steps import as_in_training
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
IMAGES, WORKERS = 192, 2


def write_jpegs(folder: Path, count: int) -> None:
    """Write 500 x 375 crops of two photographs, in ten classes."""
    photographs, random = [Image.fromarray(each) for each in load_sample_images().images], np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % 2]
        left, top = (int(random.integers(0, room + 1)) for room in (photograph.width - 500, photograph.height - 375))
        file = folder / "train" / f"class{number % 10}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph.crop((left, top, left + 500, top + 375)).save(file, quality=90)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its finished child processes."""
    return sum(os.times()[:4])


@pytest.mark.parametrize("clock", [cpu_seconds, time.perf_counter])
def test_an_epoch_beside_torchvision(clock: Callable[[], float], report: Report, tmp_path: Path) -> None:
    write_jpegs(tmp_path, IMAGES)
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = TorchvisionFolder(str(tmp_path / "train"), transforms.Compose(steps))

    def ours() -> None:
        data = LabelledImages(
            ImageFolder(str(tmp_path)),
            32,
            augmentation=Augmentation(flip=True),
            loading=Loading(num_workers=WORKERS),
            split=Split(test_fraction=0.05),
        )
        data.setup("fit")
        as_in_training(data)
        loader = data.train_dataloader()
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
        del loader, batch

    def theirs() -> None:
        for _image, _label in DataLoader(dataset, 32, shuffle=True, num_workers=WORKERS):
            pass

    ratio = paired_ratio(ours, theirs, 3, clock)
    kind = "wall" if clock is time.perf_counter else "CPU"
    name = f"torchvision {torchvision.__version__.split('+')[0]} with as many"
    report(
        f"{kind} time of {IMAGES} JPEG files of 500 x 375, crops of 224, {WORKERS} workers, over {name}", ratio, "<= 1"
    )
    assert ratio <= 1


def test_ten_times_the_files(report: Report, tmp_path: Path) -> None:
    """Measure the work that is done once per folder: listing and labelling its files."""
    for count in (1000, 10_000):
        for number in range(count):
            file = tmp_path / str(count) / "train" / f"class{number % 10}" / f"{number}.jpg"
            if number < 10:
                file.parent.mkdir(parents=True)
            file.touch()

    def listed(count: int) -> None:
        assert len(ImageFolder(str(tmp_path / str(count))).training().label) == count

    ratio = paired_ratio(lambda: listed(10_000), lambda: listed(1000), 5, time.process_time)
    report("growth: CPU time of listing a folder of 10,000 files against 1,000", ratio, "<= 12")
    assert ratio <= 12
