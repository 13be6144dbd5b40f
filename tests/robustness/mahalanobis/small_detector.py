"""Features of three classes, and a detector for a small network trained on the digits 0 to 7."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits, UniformNoise
from datamodules.classification.out_of_distribution import OutOfDistribution
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.robustness.attacks import PGD
from lightning_modules.robustness.mahalanobis.gaussians import ClassGaussians, Whitened
from lightning_modules.robustness.mahalanobis.layers import layer_features
from lightning_modules.robustness.mahalanobis.module import Mahalanobis
from tests.grouped import grouped
from tests.trainers import quiet

K, D, N = 3, 5, 60
LAYERS = ["relu1", "relu2"]
in_double = functools.partial(quiet, precision="64-true")
FGSM = PGD("linf", 0.3, steps=1, step_size=0.3, random_start=False, name="fgsm")


def samples(seed: int = 0, rank: int = D) -> tuple[Tensor, Tensor]:
    """Draw features far from zero; their covariance has the given rank, and classes differ in mean and size."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(K, (N,), generator=random).clamp(max=K - 1)
    label[:K] = torch.arange(K)
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=random, dtype=torch.float64))
    mix = (q * torch.linspace(0.5, 2, D, dtype=torch.float64))[:, :rank] @ q[:rank]
    centre = 100 + 3 * torch.randn(K, D, generator=random, dtype=torch.float64)
    return centre[label] + torch.randn(N, D, generator=random, dtype=torch.float64) @ mix, label


def fitted(features: Tensor, label: Tensor) -> Whitened:
    gaussians = ClassGaussians(K, [features.shape[1]])
    gaussians.update([features], label)
    return gaussians.whitening(0)


@functools.cache
def trained() -> ConvNet:
    """Return a network that is trained well enough on the digits 0 to 7 to be fooled."""
    torch.manual_seed(0)
    network, source = ConvNet(1, [6, 8], 8), Digits(num_classes=8).training()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for step in range(60):
        rows = slice(step % 3, None, 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(source.image[rows] / 16), source.label[rows]).backward()
        optimizer.step()
    return network


def detector(**options: Any) -> Mahalanobis:
    network = copy.deepcopy(trained())
    network.zero_grad()
    return Mahalanobis(
        network, 8, LAYERS, (1, 8, 8), **{"epsilons": [0.0, 0.01], "num_validation": 40, "score": "mean", **options}
    )


def data(**options: Any) -> OutOfDistribution:
    ood = {"other": OtherDigits([8, 9]), "noise": UniformNoise(num_images=60)}
    return OutOfDistribution(
        ood, images=Digits(num_classes=8), **grouped(LabelledImages, {"batch_size": 300, **options})
    )


def ready(**options: Any) -> Mahalanobis:
    """Return a detector whose statistics have been collected."""
    module = detector(**options)
    module.double()
    source = Digits(num_classes=8).training()
    with torch.no_grad():
        _, features = layer_features(module.network, module.layers, source.image.double() / 16)
    module.gaussians.update(features, source.label)
    return module


def results_of(module: Mahalanobis, directory: Path, **options: Any) -> dict[str, float]:
    images = LabelledImages(Digits(num_classes=8), **grouped(LabelledImages, {"batch_size": 300, **options}))
    results = in_double(default_root_dir=directory).test(module, datamodule=images, verbose=False)
    return {name: value for part in results for name, value in part.items()}
