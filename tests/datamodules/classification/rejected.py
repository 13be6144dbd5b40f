"""Calls that read incomplete or damaged folders, for the table of rejections."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat
from torch import nn

from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.cifar import CIFAR10
from datamodules.classification.clothing1m import Clothing1M
from datamodules.classification.domain_net import DomainNet
from datamodules.classification.folder_sets import ImageFolder, NewImages
from datamodules.classification.image_sets import ImagesInMemory
from datamodules.classification.imagenet import ImageNet
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.mnist import MedMNIST
from datamodules.classification.ood_images import ImagesInFolder
from datamodules.classification.out_of_distribution import OutOfDistribution
from datamodules.classification.svhn import SVHN
from datamodules.classification.webvision import WebVision
from datamodules.loading import Loading
from tests.datamodules.classification.patterns import Patterns, loaded, ready
from tests.datamodules.classification.shifted import SMALL, Unused, paint
from tests.datamodules.classification.test_cached_features import Encoder
from tests.datamodules.classification.test_cifar import write_parquet_layout, write_torchvision_layout
from tests.datamodules.classification.test_clothing1m import folder_of_clothing
from tests.datamodules.classification.test_domain_net import folder_of_domains
from tests.datamodules.classification.test_folder_sets import folder_of_classes
from tests.datamodules.classification.test_image_folder_shifted import own, shifted_folders
from tests.datamodules.classification.test_imagenet import folder_of_imagenet, folder_of_sets
from tests.datamodules.classification.test_mnist import written
from tests.datamodules.classification.test_out_of_distribution import EIGHT
from tests.datamodules.classification.test_webvision import folder_of_webvision
from tests.datamodules.image_folders import photograph, save
from tests.grouped import grouped
from tests.trainers import quiet

Called = Callable[[Path], object]


class Mislabelled(Patterns):
    num_classes = 3


class Empty(Patterns):
    def training(self) -> ImagesInMemory:
        return self._read(np.arange(0))


def scaled(factor: float) -> Encoder:
    encoder = Encoder()
    encoder.layers[1].weight.data *= factor
    return encoder


def harmed(write: Callable[[Path], Path], harm: Called, read: Called) -> Called:
    """Return a call that writes a folder, damages it, and reads it."""

    def call(root: Path) -> object:
        harm(folder := write(root))
        return read(folder)

    return call


def nothing(root: Path) -> None:
    """Change nothing in the folder."""


def write(file: str, content: str | bytes) -> Called:
    return lambda root: (root / file).write_bytes(content.encode() if isinstance(content, str) else content)


def rename(one: str, other: str) -> Called:
    return lambda root: (root / one).rename(root / other)


def torn_torchvision_layout(root: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        write_torchvision_layout(CIFAR10, root, patch)
        file = root / CIFAR10.archive / "train_1"
        file.write_bytes(file.read_bytes()[:-100])
        return CIFAR10(str(root)).training()


def parquet(harm: Called) -> Called:
    """Return a call that sets up CIFAR-10 from parquet tables, one of which is damaged."""

    def read(root: Path) -> object:
        write_parquet_layout(CIFAR10, root)
        harm(root / "train-00000-of-00002.parquet")
        return LabelledImages(CIFAR10(str(root))).setup("fit")

    return read


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rename_column(path: Path) -> None:
    pd.read_parquet(path).rename(columns={"img": "image"}).to_parquet(path)


def enlarge_labels(path: Path) -> None:
    table = pd.read_parquet(path)
    table["label"] = np.full(len(table), 2**63, dtype=np.uint64)
    table.to_parquet(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_labels(root: Path) -> None:
    labels = root / "annotations" / "noisy_label_kv.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[:50]))


def shifted(data: Called, stage: str = "fit") -> Called:
    """Train or test with the callback that reports shifted sets; errors are raised before the first step."""

    def run(root: Path) -> object:
        images: Any = data(root)
        trainer = quiet(callbacks=[ShiftedAccuracy()])
        return getattr(trainer, stage)(Unused(), datamodule=LabelledImages(images, 2, loading=Loading(num_workers=0)))

    return run


def through_a_cache(data: Called) -> Called:
    return lambda root: CachedFeatures(data(root), nn.Flatten(), 768, cache_dir=str(root / "cache"))


def domains(*arguments: Any, harm: Called = nothing, **more: Any) -> Called:
    return harmed(folder_of_domains, harm, lambda root: DomainNet(str(root), *arguments, **more, **SMALL))


def listed(line: str) -> Called:
    """Return a call that tests on a domain whose list changes after the classes have been read."""

    def read(root: Path) -> object:
        data = DomainNet(str(folder_of_domains(root)), "real", ["clipart"], **SMALL)
        data.test()
        (root / "domain_net" / "clipart_test.txt").write_text(line + "\n")
        return data.ood_test_sets()

    return read


def without_image(number: int) -> Called:
    return lambda root: (root / f"domain_net/clipart/aircraft_carrier/clipart_{number}.png").unlink()


def sketches(folder: str = "../sketches", empty: str = "", more: tuple[str, ...] = ()) -> Called:
    """Build a shifted set of the user's images from several folders, one of which may be empty."""

    def harm(root: Path) -> None:
        (root / "sketches" / empty).mkdir(exist_ok=True)
        for name in more:
            paint(root / "sketches" / name / "a.png", 0)

    return shifted(harmed(shifted_folders, harm, lambda root: own(root, x=folder)))


def of_imagenet(shifted: dict[str, str], **options: Any) -> Callable[[Path], Any]:
    def build(root: Path) -> object:
        folder = folder_of_sets(root / "sets", own=["chair"], v2=["0"], other=["n07"], r=["n02"])
        (folder / "two").write_text("n01 chair\nn02 chair\n")
        return ImageNet(data_dir=str(folder), classes=4, shifted=shifted, **options, **SMALL)

    return build


def shifted_imagenet(shifted: dict[str, str], **options: Any) -> Called:
    return lambda root: of_imagenet(shifted, **options)(root).ood_test_sets()


def clothing(harm: Called, stage: str = "fit") -> Called:
    return harmed(folder_of_clothing, harm, lambda root: loaded(Clothing1M, str(root)).setup(stage))


def webvision(harm: Called, stage: str, **options: Any) -> Called:
    return harmed(folder_of_webvision, harm, lambda root: loaded(WebVision, str(root), **options).setup(stage))


def of_imagenet_folders(classes: int | None, stage: str = "fit", harm: Called = nothing, inside: str = "") -> Called:
    return harmed(
        folder_of_imagenet, harm, lambda root: loaded(ImageNet, str(root / inside), classes=classes).setup(stage)
    )


def own_images(harm: Called) -> Called:
    return harmed(
        folder_of_classes, harm, lambda root: ready(ready(loaded(ImageFolder, str(root), batch_size=2)), "test")
    )


def new_images(folder: str, images: Any) -> Called:
    def read(root: Path) -> object:
        (root / "empty").mkdir()
        save(root / "one" / "a.png", Image.new("RGB", (8, 8)))
        return NewImages(str(root / folder), images)

    return read


def images(stage: str = "fit", **options: Any) -> Called:
    return lambda root: LabelledImages(**grouped(LabelledImages, {"images": Patterns(), **options})).setup(stage)


def medmnist(split: str, harm: Called = nothing, channels: int = 1, **arrays: np.ndarray) -> Called:
    def read(root: Path) -> object:
        folder = Path(written(root / "small", **arrays))
        harm(folder / "small")
        return getattr(MedMNIST("small", 2, str(folder), channels=channels), split)()

    return read


def no_images(folder: str) -> Called:
    def read(root: Path) -> object:
        (root / folder).mkdir(exist_ok=True)
        return ImagesInFolder("LSUN_resize", str(root)).of_no_class((3, 32, 32), 0)

    return read


def beside_digits(**ood: Any) -> Called:
    return lambda root: OutOfDistribution(
        {name: each(root) if callable(each) else each for name, each in ood.items()}, images=EIGHT
    ).setup("test")


def svhn(content: dict[str, np.ndarray] | bytes | None = None) -> Called:
    def read(root: Path) -> object:
        if isinstance(content, bytes):
            (root / "test_32x32.mat").write_bytes(content)
        elif content is not None:
            savemat(root / "test_32x32.mat", content)
        return SVHN(str(root)).test()

    return read


def without_tests(root: Path) -> None:
    shutil.rmtree(root / "test")
    shutil.rmtree(root / "val")


def without_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    save(root / "train" / "image.png", photograph(8, 8))
