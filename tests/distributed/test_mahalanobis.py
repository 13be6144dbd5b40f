"""With two processes, the Mahalanobis detector attacks images as with one; a row of `methods.py` covers the rest."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.robustness.attacks.ascent import PGD
from lightning_modules.robustness.attacks.minimal import DeepFool
from lightning_modules.robustness.mahalanobis.layers import layer_features
from lightning_modules.robustness.mahalanobis.module import CopyNoise, Mahalanobis
from tests.trainers import quiet


def detector(**options: Any) -> Mahalanobis:
    torch.manual_seed(0)
    network = ConvNet(1, [6, 8], 8)
    return Mahalanobis(
        network, 8, ["relu1", "relu2"], (1, 8, 8), "tuned_on_target", [0.0, 0.01], num_validation=30, **options
    )


@pytest.mark.nightly
def test_two_processes_find_the_adversarial_images_and_their_dimensions_that_one_finds() -> None:
    """The test uses noisy copies and an attack with a random start."""
    metrics = []
    for processes in (1, 2):
        strategy = "ddp_fork" if processes > 1 else "auto"
        module = detector(
            attacks=[DeepFool(0.1), PGD("linf", 0.1, steps=2, name="pgd")], noise=CopyNoise(0.05), lid=True
        )
        source = Digits(num_classes=8).training()
        optimizer = torch.optim.Adam(module.network.parameters(), lr=0.03)
        for step in range(30):
            rows = slice(step % 3, None, 3)
            optimizer.zero_grad()
            cross_entropy(module.network(source.image[rows] / 16), source.label[rows]).backward()
            optimizer.step()
        module.double()
        with torch.no_grad():
            _, features = layer_features(module.network, module.layers, source.image.double() / 16)
        module.gaussians.update(features, source.label)
        trainer = quiet(devices=processes, strategy=strategy, precision="64-true")
        results = trainer.test(
            module, datamodule=LabelledImages(Digits(1600, num_classes=8), batch_size=57), verbose=False
        )
        metrics.append({name: value for part in results for name, value in part.items()})
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-6)
    assert {"test/auroc_lid_deepfool", "test/auroc_tuned_on_target_pgd"} <= metrics[0].keys()
