"""Speed of `fit`, DataModules, certification and FID, relative to plain loops and to the networks alone."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from callbacks.generation.extraction import Extractor, Shares, features_of
from callbacks.generation.image_lists import ArrayImages
from callbacks.generation.measurement import described
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
from tests.benchmarks.elr_steps import Idle, epochs_of, spine
from tests.benchmarks.pairs import paired_ratio
from tests.gpu.place import Place, Row
from tests.trainers import running


def steps(at: Place) -> None:
    """Compare the time of `fit` with that of a plain loop, as tests/benchmarks/test_spine.py does on the CPU."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "ResNet-20": lambda: CIFARResNet(20),
        "ResNet-34 of 32 x 32 pixels": lambda: CIFARStemResNet(at.of(34, 18), 10),
    }
    for name, network in list(kinds.items())[: at.of(2, 1)]:
        label = f"time of fit over a plain loop, ELR on {name}, batches of 128"
        if not at.has(label):
            ours, theirs = epochs_of(network, at.of(200, 2), at.accelerator)
            ratio = paired_ratio(ours, theirs, rounds=at.of(5, 1))
            at.keep(Row(label, f"{ratio:.3f}", "<= 1.05", ratio <= 1.05))


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
    trainer = running(accelerator=at.accelerator, devices=1, logger=False, barebones=True)
    data.setup("fit")
    data.trainer = trainer
    trainer.strategy._lightning_module = Idle().to(at.device)
    trainer.training = True
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


def images(at: Place) -> None:
    """Measure the images per second that DataModules supply and that networks consume in training, and compare them."""
    held, batch = at.of(51_200, 256), at.of(128, 64)
    files = photographs(at)
    stores: dict[str, tuple[Any, int]] = {
        "CIFAR's size, in memory": (spine(held, batch), held // batch),
        "JPEG files of 500 x 375 cut to 224 x 224": (
            LabelledImages(
                ImageFolder(str(files)), at.of(256, 8), loading=Loading(num_workers=at.of(max(1, cores() - 1), 0))
            ),
            at.of(24, 2),
        ),
    }
    takers: dict[str, tuple[list[tuple[str, Callable[[], nn.Module]]], int, int]] = {
        "CIFAR's size, in memory": ([("ResNet-18", lambda: CIFARStemResNet(18, 10))], 32, at.of(512, 8)),
        "JPEG files of 500 x 375 cut to 224 x 224": (
            [
                (name, lambda kind=kind: timm.create_model(kind, num_classes=10))
                for name, kind in (("ResNet-18", "resnet18"), ("ResNet-50", "resnet50"))[: at.of(2, 1)]
            ],
            at.of(224, 64),
            at.of(256, 4),
        ),
    }
    for kind, (data, batches) in stores.items():
        labels = [f"images/s of LabelledImages, {kind}, over what {name} trains on" for name, _ in takers[kind][0]]
        if all(map(at.has, labels)):
            continue
        rate = given(data, batches, at)
        networks, size, own = takers[kind]
        for label, (_, make) in zip(labels, networks, strict=True):
            taken = appetite(make(), size, own, at)
            at.keep(Row(label, f"{rate:,.0f} / {taken:,.0f} = {rate / taken:.2f}", ">= 1", rate >= taken))


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


@torch.inference_mode()
def certification(at: Place) -> None:
    """Compare the speed of certification draws with that of the network alone."""
    listed = [LabelledImage(i, torch.rand(3, 32, 32), 0) for i in range(2)]
    depth = at.of(110, 20)
    for batch_size in at.of((400, 1000), (100,)):
        label = f"certification, draws/s over forward images/s, ResNet-{depth}, batch {batch_size}"
        if at.has(label):
            continue
        network = CIFARResNet(depth).eval().to(at.device)
        batch = torch.rand(batch_size, 3, 32, 32, device=at.device)
        draws = at.of(40_000, 200)

        def bare(network: nn.Module = network, batch: torch.Tensor = batch, draws: int = draws) -> None:
            for _ in range(2 * draws // len(batch)):
                network(batch)
            at.wait()

        def ours(network: nn.Module = network, batch_size: int = batch_size, draws: int = draws) -> None:
            mode = FixedSampling(n0=draws // 10, n=draws - draws // 10)
            counter = VoteCounter(GaussianSmoothing(network), mode, 0.25, batch_size, 0, at.device)
            assert len(list(counter.certify(iter(listed)))) == 2
            at.wait()

        speed = 1 / paired_ratio(ours, bare, rounds=at.of(5, 1))
        at.keep(Row(label, f"{speed:.3f}", ">= 0.95", speed >= 0.95))


def fid(at: Place) -> None:
    """Compare the speed of FID with that of its network alone."""
    count, size = at.of(10_000, 32), at.of(500, 16)
    label = f"FID, images/s over those of its network, 32 x 32 pixels, {count} images"
    if at.has(label):
        return
    network = FIDInception()
    network.network.to_empty(device="cpu")
    for value in network.network.state_dict().values():
        nn.init.constant_(value, 0.01)
    extractor = Extractor(network, None)
    network.to(at.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    random = np.random.default_rng(0)
    listed = [random.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(count)]
    prepared = network.resized(torch.from_numpy(np.stack(listed[:size])).to(at.device) / 255)
    prepared = prepared.contiguous(memory_format=torch.channels_last)
    folders = iter(range(100))
    alone = Shares(device=at.device)

    def ours() -> None:
        folder = at.scratch / f"features_{os.getpid()}_{next(folders)}"
        feature = features_of(ArrayImages(listed, 255, "images"), extractor, folder, size, alone)
        described("images", feature, extractor.identity, alone, None)

    def theirs() -> None:
        with torch.no_grad():
            for _ in range(count // size):
                network.network(prepared)
        at.wait()

    ratio = 1 / paired_ratio(ours, theirs, rounds=at.of(3, 1))
    at.keep(Row(label, f"{ratio:.3f}", ">= 0.9", ratio >= 0.9))


def measuring(at: Place) -> None:
    certification(at)
    fid(at)
