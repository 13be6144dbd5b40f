"""What certification costs: time against the bare network, and network evaluations against the published loop."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor

from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.robustness.certification_modes import Certificate, Fixed, Mode
from lightning_modules.robustness.fewer_draws import Curve, InputSpecific
from lightning_modules.robustness.smoothed_votes import GaussianSmoothing, LabelledImage, VoteCounter
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
SIGMA = 0.25
GRID = np.array([0.0, 0.25, 0.5, 0.75])


def published_certify(
    network: Callable[[Tensor], Tensor], image: Tensor, n0: int, n: int, batch_size: int
) -> tuple[int, float]:
    """CERTIFY, one image at a time, counts on the host after each batch, as the published pseudocode says."""

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
        certify(network, Fixed(n0=100, n=500), batch_size, images)

    def published() -> None:
        for image in images:
            published_certify(network, image.image, 100, 500, batch_size)

    speed = 1 / paired_ratio(ours, bare, rounds=9)
    report(f"certification, draws/s over forward images/s, ResNet-20, batch {batch_size}", speed, ">= 0.95")
    loop = 1 / paired_ratio(published, bare, rounds=5)
    report(f"  the published loop, for comparison, batch {batch_size}", loop, "")
    assert speed >= 0.95


def planes(count: int = 100) -> tuple[Callable[[Tensor], Tensor], list[LabelledImage], np.ndarray]:
    """A classifier of known probabilities: class 0 on one side of a plane.

    A tenth of the labels is wrong; a quarter of the images lies beyond every radius that draws can show; radii of the
    others are spread evenly over 0 to 1.
    """
    random = np.random.default_rng(0)
    radius = np.where(random.random(count) < 0.25, 1.5, random.uniform(0, 1, count))
    label = random.random(count) < 0.1
    images = [LabelledImage(i, torch.full((1, 1, 4), float(radius[i]) / 2), int(label[i])) for i in range(count)]

    def network(noisy: Tensor) -> Tensor:
        height = noisy.flatten(1).sum(1) / 2  # along a unit normal; of a clean image it is the radius
        return torch.stack([height, -height], dim=1)

    return network, images, radius


@torch.inference_mode()
def test_curve_needs_a_fraction_of_the_published_evaluations(report: Report) -> None:
    """Same alpha and grid against n = 100,000."""
    network, images, radius = planes()

    def accuracy(claims: list[tuple[int, float]]) -> np.ndarray:
        pairs = zip(claims, images, strict=True)
        reach = np.array([claimed if prediction == image.label else -1 for (prediction, claimed), image in pairs])
        return (reach[:, None] >= GRID).mean(axis=0)

    exact = accuracy([(0, r) for r in radius])
    published = accuracy([published_certify(network, image.image, 100, 100_000, 10_000) for image in images])
    for mode in (Curve(), InputSpecific(max_loss=0.05)):
        found = certify(network, mode, 10_000, images)
        draws = np.array([found[image.index].draws for image in images])
        right = np.array([found[image.index].selected == image.label for image in images])
        curve = accuracy([(found[image.index].prediction, found[image.index].radius) for image in images])
        target = ">= 5" if mode.name == "curve" else ""
        report(f"published evaluations over those of {mode.name}, all images", 100_100 / draws.mean(), "")
        report(f"published evaluations over those of {mode.name}, right images", 100_100 / draws[right].mean(), target)
        report(f"  largest gap of {mode.name} to the published curve", float(abs(curve - published).max()), "<= 0.03")
        assert (curve <= exact).all()
        if mode.name == "curve":
            assert abs(curve - published).max() <= 0.03  # three images
            assert 100_100 / draws[right].mean() >= 5
