"""Cost of certification: time relative to the bare network, and network evaluations relative to the published loop."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from experiments.load_run import load_run
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.robustness.certificates.adaptive_sampling import Curve, InputSpecific
from lightning_modules.robustness.certificates.modes import Certificate, FixedSampling, Mode
from lightning_modules.robustness.certificates.votes import GaussianSmoothing, VoteCounter
from lightning_modules.training.tested_images import LabelledImage
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
SIGMA = 0.25
GRID = np.array([0.0, 0.25, 0.5, 0.75])
ROBUST = Path("runs/consistency/cifar10_resnet20")
"""Folder of the runs of configs/consistency/cifar10_resnet20.yaml; the latest of these runs is certified."""


def published_certify(
    network: Callable[[Tensor], Tensor], image: Tensor, n0: int, n: int, batch_size: int
) -> tuple[int, float]:
    """Run CERTIFY like the published pseudocode: one image at a time, with a copy of counts to the host per batch."""

    def sample(num: int) -> np.ndarray:
        counts = np.zeros(10, dtype=int)
        while num > 0:
            size = min(batch_size, num)
            batch = image.repeat(size, 1, 1, 1)
            prediction = network(batch + SIGMA * torch.randn_like(batch)).argmax(1)
            counts += np.bincount(prediction.numpy(), minlength=10)
            num -= size
        return counts

    top = int(sample(n0).argmax())
    hits = int(sample(n)[top])
    p = beta.ppf(0.001, hits, n - hits + 1) if hits else 0.0
    return (top, float(SIGMA * norm.ppf(p))) if p >= 0.5 else (-1, 0.0)


def certify(
    network: Callable[[Tensor], Tensor], mode: Mode, batch_size: int, images: list[LabelledImage]
) -> dict[int, Certificate]:
    counter = VoteCounter(GaussianSmoothing(network), mode, SIGMA, batch_size, 0, torch.device("cpu"))
    return {done.index: done.certificate for done in counter.certify(iter(images))}


def certified_accuracy(claims: list[tuple[int, float]], images: list[LabelledImage]) -> np.ndarray:
    """Compute the certified accuracy at the radii of the grid from predictions and radii."""
    pairs = zip(claims, images, strict=True)
    reach = np.array([claimed if prediction == image.label else -1 for (prediction, claimed), image in pairs])
    return (reach[:, None] >= GRID).mean(axis=0)


@pytest.mark.parametrize("batch_size", [100, 400])
@torch.inference_mode()
def test_draws_per_second_are_the_bare_networks_images_per_second(batch_size: int, report: Report) -> None:
    network = CIFARResNet(20).eval()
    images = [LabelledImage(i, torch.rand(3, 32, 32), 0) for i in range(2)]
    batch = torch.rand(batch_size, 3, 32, 32)

    def bare() -> None:
        for _ in range(1200 // batch_size):
            network(batch)

    def ours() -> None:
        certify(network, FixedSampling(n0=100, n=500), batch_size, images)

    def published() -> None:
        for image in images:
            published_certify(network, image.image, 100, 500, batch_size)

    speed = 1 / paired_ratio(ours, bare, rounds=9)
    report(f"certification, draws/s over forward images/s, ResNet-20, batch {batch_size}", speed, ">= 0.95")
    loop = 1 / paired_ratio(published, bare, rounds=5)
    report(f"  the published loop, for comparison, batch {batch_size}", loop, "")
    assert speed >= 0.95


@pytest.mark.parametrize("name", ["ResNet-20", "a linear network"])
@torch.inference_mode()
def test_certification_beside_the_published_loop(name: str, report: Report) -> None:
    network = CIFARResNet(20).eval() if name == "ResNet-20" else nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    images = [LabelledImage(i, torch.rand(3, 32, 32), 0) for i in range(4 if name == "ResNet-20" else 30)]

    def published() -> None:
        for image in images:
            published_certify(network, image.image, 100, 300, 400)

    mode = FixedSampling(n0=100, n=300)
    ratio = paired_ratio(lambda: certify(network, mode, 400, images), published, 7, time.process_time)
    report(f"CPU time of certification, n0 = 100, n = 300, batches of 400, {name}, over that loop", ratio, "<= 1.05")
    assert ratio <= 1.05


def planes(count: int = 100) -> tuple[Callable[[Tensor], Tensor], list[LabelledImage], np.ndarray]:
    """Build a classifier with known probabilities: class 0 is on one side of a plane.

    A tenth of the labels are wrong. For a quarter of the images, the radii are too large to be certified with the given
    number of samples. The radii of the other images are uniform on [0, 1].
    """
    random = np.random.default_rng(0)
    radius = np.where(random.random(count) < 0.25, 1.5, random.uniform(0, 1, count))
    label = random.random(count) < 0.1
    images = [LabelledImage(i, torch.full((1, 1, 4), float(radius[i]) / 2), int(label[i])) for i in range(count)]

    def network(noisy: Tensor) -> Tensor:
        height = noisy.flatten(1).sum(1) / 2  # distance along a unit normal; for a clean image it is the radius
        return torch.stack([height, -height], dim=1)

    return network, images, radius


@torch.inference_mode()
def test_curve_needs_a_fraction_of_the_published_evaluations(report: Report) -> None:
    """Both procedures use the same alpha and the same grid of radii; the published one uses n = 100,000."""
    network, images, radius = planes()
    exact = certified_accuracy([(0, r) for r in radius], images)
    claims = [published_certify(network, image.image, 100, 100_000, 10_000) for image in images]
    published = certified_accuracy(claims, images)
    for mode in (Curve(), InputSpecific(max_loss=0.05)):
        found = certify(network, mode, 10_000, images)
        draws = np.array([found[image.index].draws for image in images])
        right = np.array([found[image.index].selected == image.label for image in images])
        curve = certified_accuracy(
            [(found[image.index].prediction, found[image.index].radius) for image in images], images
        )
        target = ">= 5" if mode.name == "curve" else ""
        report(f"published evaluations over those of {mode.name}, all images", 100_100 / draws.mean(), "")
        report(f"published evaluations over those of {mode.name}, right images", 100_100 / draws[right].mean(), target)
        report(f"  largest gap of {mode.name} to the published curve", float(abs(curve - published).max()), "<= 0.03")
        assert (curve <= exact).all()
        assert abs(curve - published).max() <= 0.03 + 1e-9  # a difference of three images
        if mode.name == "curve":
            assert 100_100 / draws[right].mean() >= 5


def robust_classifier() -> tuple[Callable[[Tensor], Tensor], list[LabelledImage]]:
    """Return the ResNet-20 that was fine-tuned with noise, and every 200th test image of CIFAR-10."""
    checkpoints = sorted(ROBUST.glob("*/checkpoints/last.ckpt"))
    if not checkpoints:
        pytest.skip(
            "needs a robust classifier; make it with: python train.py fit --config "
            "configs/consistency/cifar10_resnet20.yaml --model.network.path WEIGHTS --data.data_dir DATA"
        )
    module: Any
    module, data = load_run(checkpoints[-1].parents[1])
    test: Any = data.images.test()  # type: ignore[attr-defined]
    chosen = range(0, len(test.label), 200)
    images = [LabelledImage(i, test.image[i].float() / 255, int(test.label[i])) for i in chosen]

    def network(noisy: Tensor) -> Tensor:
        return module(noisy.contiguous(memory_format=torch.channels_last))

    return network, images


@torch.inference_mode()
def test_curve_of_a_robust_cifar_classifier_needs_a_fraction_of_the_published_evaluations(report: Report) -> None:
    """On real images, the published loop takes minutes per image, so it runs on only a tenth of the images."""
    network, images = robust_classifier()
    found = certify(network, Curve(), 500, images)
    draws = np.array([found[image.index].draws for image in images])
    right = np.array([found[image.index].selected == image.label for image in images])
    curve = [(found[image.index].prediction, found[image.index].radius) for image in images]
    name = f"ResNet-20, {len(images)} CIFAR-10 images"
    report(f"published evaluations over those of curve, {name}", 100_100 / draws.mean(), "")
    report(f"  its {right.sum()} right images", 100_100 / draws[right].mean(), ">= 5")
    report("  certified accuracy at radius 0.25", float(certified_accuracy(curve, images)[1]), ">= 0.4")
    few = images[::10]
    published = [published_certify(network, image.image, 100, 100_000, 500) for image in few]
    gap = np.abs(certified_accuracy(curve[::10], few) - certified_accuracy(published, few)).max()
    report(f"  largest gap to the published curve, {len(few)} of them", float(gap), "<= 0.2")
    assert 100_100 / draws[right].mean() >= 5
    assert certified_accuracy(curve, images)[1] >= 0.4
    assert gap <= 0.2  # a difference of one image
