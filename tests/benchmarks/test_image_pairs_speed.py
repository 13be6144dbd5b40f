"""Speed of image patches, compared with the usual loader: one PIL image at a time through torchvision's transforms."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.corruptions.image_noise import Gaussian
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.images import Images, PairSet, PatchSampling, Split
from tests.benchmarks.elr_steps import as_in_training
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
RANDOM = np.random.default_rng(0)
GREY = [RANDOM.integers(0, 256, (1, 180, 180), dtype=np.uint8) for _ in range(400)]
PATCH = 40


class GreyImages(PairSet):
    """400 grey images of one size, as in the usual training set for denoising."""

    channels = 1

    def images(self, split: Split) -> Images:
        return Images([str(number) for number in range(400)], GREY)


class PerItem(Dataset):
    """Image files; each image is opened, cropped, flipped, converted and made noisy separately."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / f"{number}.png" for number in range(len(GREY))]
        for file, image in zip(self.files, GREY, strict=True):
            Image.fromarray(image[0]).save(file)
        flips = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
        self.transform = transforms.Compose([transforms.RandomCrop(PATCH), *flips, transforms.ToTensor()])

    def __len__(self) -> int:
        return 10 * len(self.files)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.files[item % len(self.files)]) as image:
            clean = self.transform(image)
        return clean + 25 / 255 * torch.randn_like(clean), clean


@pytest.mark.parametrize("fixed", [True, False])
def test_patches_against_the_per_item_pipeline(fixed: bool, report: Report, tmp_path: Path) -> None:
    data = ImagePairs(
        GreyImages(),
        noise=Gaussian(25),
        batch_size=128,
        patches=PatchSampling(size=PATCH, per_image=10),
        noise_samples="fixed" if fixed else "new",
    )
    data.setup("fit")
    as_in_training(data)
    ours, theirs = data.train_dataloader(), DataLoader(PerItem(tmp_path), batch_size=128, shuffle=True)

    def our_epoch() -> None:
        for batch in ours:
            data.on_after_batch_transfer(batch, 0)

    ratio = 1 / paired_ratio(our_epoch, lambda: [None for _ in theirs])
    kind = "fixed" if fixed else "fresh"
    report(f"patches/s of ImagePairs with {kind} noise over a per-item PIL pipeline, one core", ratio, ">= 5")
    assert ratio >= 5
