"""The real FID of a few training and test images of CIFAR-10, compared with torchmetrics on the same images."""

import os
from pathlib import Path

import pytest
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from callbacks.generation.extraction import ALONE, Extractor, features_of
from callbacks.generation.image_lists import ArrayImages
from callbacks.generation.measurement import compute_moments, generation_metrics
from datamodules.classification.cifar import CIFAR10
from lightning_modules.networks.fid_inception import FIDInception

FEW = 40


class OfBytes(nn.Module):
    """Computes 32 features of 8-bit images, the input type of torchmetrics. With so few features, 40 images suffice."""

    def __init__(self, network: FIDInception) -> None:
        super().__init__()
        self.network = network
        self.num_features = 32

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.float() / 255)[:, :32]


@pytest.mark.data
@pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with cifar10 in parquet")
def test_it_is_torchmetrics_on_the_same_images(tmp_path: Path) -> None:
    network = FIDInception()
    try:
        extractor = Extractor(network, None)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    images = CIFAR10(str(Path(os.environ["NOISEWORKS_DATA"], "cifar10")))
    sets = {"training": images.training().image[:FEW], "test": images.test().image[:FEW]}
    oracle = FrechetInceptionDistance(feature=OfBytes(network))
    sides = []
    for name, image in sets.items():
        oracle.update(image, real=name == "test")
        feature = features_of(ArrayImages(list(image.numpy()), 255, name), extractor, tmp_path, 20, ALONE)
        sides.append(compute_moments(name, feature[:, :32], extractor.identity, ALONE, None))
    assert generation_metrics(*sides)["fid"] == pytest.approx(float(oracle.compute()), abs=1e-4)
