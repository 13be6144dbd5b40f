"""Speed of `fit`, DataModules, certification and FID, relative to plain loops and to the networks alone."""

import os
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from callbacks.generation.extraction import Extractor, Shares, features_of
from callbacks.generation.image_lists import ArrayImages
from callbacks.generation.measurement import compute_moments
from datamodules.classification.folder_sets import ImageFolder
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from experiments.run_request import cores
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.fid_inception import FIDInception
from lightning_modules.networks.resnet_cifar_stem import CIFARStemResNet
from lightning_modules.robustness.certificates.modes import FixedSampling
from lightning_modules.robustness.certificates.votes import GaussianSmoothing, VoteCounter
from lightning_modules.training.tested_images import LabelledImage
from tests.benchmarks.elr_steps import as_in_training, epochs_of, spine
from tests.benchmarks.pairs import paired_ratio
from tests.gpu.place import Place


@pytest.mark.gpu(minutes=2)
@pytest.mark.parametrize("depth", [20, 34])
def test_steps(depth: int, at: Place) -> None:
    """Time of a step of fit, relative to a plain loop, as tests/benchmarks/test_spine.py measures it on the CPU."""
    ours, theirs = epochs_of(
        lambda: CIFARResNet(20) if depth == 20 else CIFARStemResNet(at.of(34, 18), 10), at.of(200, 2), at.accelerator
    )
    ratio = paired_ratio(ours, theirs, rounds=at.of(5, 1))
    at.keep(
        f"ELR on ResNet-{depth}, batches of 128 of 32 x 32 pixels",
        f"{ratio:.3f}",
        "<= 1.05",
        at.of(ratio <= 1.05, None),
    )


def appetite(network: nn.Module, size: int, batch: int, at: Place) -> float:
    """Measure the images per second in training, with bf16-mixed, channels last, and SGD with momentum."""
    network = network.to(at.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    image = torch.rand(batch, 3, size, size, device=at.device).contiguous(memory_format=torch.channels_last)
    label = torch.zeros(batch, dtype=torch.int64, device=at.device)

    def step() -> None:
        with torch.autocast(at.device.type, torch.bfloat16):
            loss = F.cross_entropy(network(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return batch / at.seconds(step, at.of(30, 1), warm=at.of(5, 0))


def given(data: Any, batches: int, at: Place) -> float:
    """Measure how many images per second a DataModule supplies, on the device and after augmentation."""
    data.setup("fit")
    as_in_training(data, at.accelerator, at.device.type)
    counted = 0

    def epoch() -> None:
        nonlocal counted
        counted = 0
        for place, batch in enumerate(data.train_dataloader()):
            moved = data.transfer_batch_to_device(batch, at.device, 0)
            counted += len(data.on_after_batch_transfer(moved, 0)["image"])
            if place + 1 == batches:
                break

    seconds = at.seconds(epoch, 1, warm=1)
    return counted / seconds


@pytest.mark.gpu(minutes=2)
def test_images_in_memory(at: Place) -> None:
    """Images per second of DataModules and of networks in training."""
    held, batch = at.of(51_200, 256), at.of(128, 64)
    rate = given(spine(held, batch), held // batch, at)
    compared("CIFAR's size, in memory", "ResNet-18", rate, appetite(CIFARStemResNet(18, 10), 32, at.of(512, 8), at), at)


@pytest.mark.gpu(minutes=3)
def test_images_from_files(at: Place) -> None:
    """Images per second of DataModules and of networks in training."""
    workers = at.of(max(1, cores() - 1), 0)
    data = LabelledImages(ImageFolder(str(photographs(at))), at.of(256, 8), loading=Loading(num_workers=workers))
    rate = given(data, at.of(24, 2), at)
    for name in ("ResNet-18", "ResNet-50")[: at.of(2, 1)]:
        network = timm.create_model(name.lower().replace("-", ""), num_classes=10)
        taken = appetite(network, at.of(224, 64), at.of(256, 4), at)
        compared("JPEG files of 500 x 375 cut to 224 x 224", name, rate, taken, at)


def compared(kind: str, name: str, rate: float, taken: float, at: Place) -> None:
    """Keep the images per second that a DataModule supplies, over those that a network consumes."""
    label = f"images/s of LabelledImages, {kind}, over what {name} trains on"
    at.keep(label, f"{rate:,.0f} / {taken:,.0f} = {rate / taken:.2f}", ">= 1", at.of(rate >= taken, None))


def photographs(at: Place) -> Any:
    """Once, write JPEG files of noise that is smoothed until it has as much detail as photographs."""
    folder = at.scratch / "photographs"
    for number in range(at.of(2_048, 16)):
        path = folder / "train" / f"class_{number % 2}" / f"{number}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(number % 64).integers(0, 256, (47, 63, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    for name in ("class_0", "class_1"):
        (folder / "test" / name).mkdir(parents=True, exist_ok=True)
        first = next((folder / "train" / name).iterdir())
        if not any((folder / "test" / name).iterdir()):
            os.link(first, folder / "test" / name / first.name)
    return folder


@pytest.mark.gpu(minutes=2)
@pytest.mark.parametrize("batch_size", [400, 1000])
@torch.inference_mode()
def test_certification(batch_size: int, at: Place) -> None:
    """Speed of certification and FID, relative to the network alone."""
    listed = [LabelledImage(i, torch.rand(3, 32, 32), 0) for i in range(2)]
    depth, draws = at.of(110, 20), at.of(40_000, 400)
    network = CIFARResNet(depth).eval().to(at.device)
    batch = torch.rand(batch_size, 3, 32, 32, device=at.device)

    def bare() -> None:
        for _ in range(2 * draws // len(batch)):
            network(batch)
        at.wait()

    def ours() -> None:
        mode = FixedSampling(n0=draws // 10, n=draws - draws // 10)
        counter = VoteCounter(GaussianSmoothing(network), mode, 0.25, batch_size, 0, at.device)
        assert len(list(counter.certify(iter(listed)))) == 2
        at.wait()

    speed = 1 / paired_ratio(ours, bare, rounds=at.of(5, 1))
    label = f"certification, draws/s over forward images/s, ResNet-{depth}, batch {batch_size}"
    at.keep(label, f"{speed:.3f}", ">= 0.95", at.of(speed >= 0.95, None))


@pytest.mark.gpu(minutes=3)
def test_fid(at: Place) -> None:
    """Speed of certification and FID, relative to the network alone."""
    count, size = at.of(10_000, 32), at.of(500, 16)
    label = f"FID, images/s over those of its network, 32 x 32 pixels, {count} images"
    network = FIDInception()
    network.network.to_empty(device="cpu")
    for value in network.network.state_dict().values():
        nn.init.constant_(value, 0.01)
    extractor = Extractor(network, None)
    network.to(at.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    random = np.random.default_rng(0)
    listed = [random.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(count)]
    prepared = network.resize_images(torch.from_numpy(np.stack(listed[:size])).to(at.device) / 255)
    prepared = prepared.contiguous(memory_format=torch.channels_last)
    folders = iter(range(100))
    alone = Shares(device=at.device)

    def ours() -> None:
        folder = at.scratch / f"features_{os.getpid()}_{next(folders)}"
        feature = features_of(ArrayImages(listed, 255, "images"), extractor, folder, size, alone)
        compute_moments("images", feature, extractor.identity, alone, None)

    def theirs() -> None:
        with torch.no_grad():
            for _ in range(count // size):
                network.network(prepared)
        at.wait()

    ratio = 1 / paired_ratio(ours, theirs, rounds=at.of(3, 1))
    at.keep(label, f"{ratio:.3f}", ">= 0.9", at.of(ratio >= 0.9, None))
