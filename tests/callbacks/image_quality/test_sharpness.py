from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule

from callbacks.image_quality.sharpness import RINGS, Sharpness, average_gradient, radial_power
from datamodules.loading import Loading
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.reduced_images import ReducedImages
from lightning_modules.baselines import SupervisedRestoration
from tests.trainers import quiet


def test_gradients_are_numpys() -> None:
    images = torch.rand(3, 7, 9, dtype=torch.float64)
    for image, found in zip(images.numpy(), average_gradient(images).tolist(), strict=True):
        down, right = np.gradient(image)
        assert found == pytest.approx(np.sqrt((down**2 + right**2) / 2).sum() / (6 * 8))


def test_power_is_summed_over_rings_of_frequency() -> None:
    images = torch.rand(2, 8, 12, dtype=torch.float64)
    sums, counts = np.zeros(RINGS), np.zeros(RINGS)
    for image in images.numpy():
        transform = np.abs(np.fft.fft2(image - image.mean())) ** 2 / 96
        for row, down in enumerate(np.fft.fftfreq(8)):
            for column, right in enumerate(np.fft.fftfreq(12)):
                if (ring := int(np.hypot(down, right) * 2 * RINGS)) < RINGS:
                    sums[ring] += transform[row, column]
                    counts[ring] += 1
    found = radial_power(images)
    np.testing.assert_allclose(found[0].numpy(), sums, atol=1e-12)
    np.testing.assert_array_equal(found[1].numpy(), counts)


class Sharpened(torch.nn.Module):
    """Multiplies the difference between each image and its mean by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        return mean + self.factor * (image - mean)


def results(network: torch.nn.Module, directory: Path, callback: Any) -> dict[str, float]:
    data = ImagePairs(test=ReducedImages(Photographs(64)), loading=Loading(evaluation_batch_size=2))
    module: LightningModule = SupervisedRestoration(network, factor=4)
    [metrics] = quiet(callbacks=[callback], default_root_dir=directory).test(module, data, verbose=False)
    return dict(metrics)


def test_a_sharper_estimate_has_greater_gradients_and_power(tmp_path: Path) -> None:
    found = results(Sharpened(1.0), tmp_path, Sharpness())
    assert found["test/average_gradient"] == pytest.approx(found["test/noisy_average_gradient"], rel=0.02)
    assert found["test/spectrum_error"] == pytest.approx(found["test/noisy_spectrum_error"], rel=0.02)
    assert found["test/average_gradient"] < found["test/clean_average_gradient"]
    difference = found["test/clean_average_gradient"] - found["test/average_gradient"]
    assert found["test/gradient_error"] == pytest.approx(difference)
    sharper = results(Sharpened(1.1), tmp_path, Sharpness())
    assert sharper["test/average_gradient"] == pytest.approx(1.1 * found["test/average_gradient"], rel=0.03)
    table = pd.read_csv(tmp_path / "spectrum.csv")
    power = {kind: rows["mean power"].to_numpy() for kind, rows in table.groupby("images")}
    error = np.sqrt(np.mean((np.log(power["estimate"]) - np.log(power["clean"])) ** 2))
    assert sharper["test/spectrum_error"] == pytest.approx(error, rel=1e-5)
    assert (tmp_path / "figures" / "spectrum.png").is_file()
