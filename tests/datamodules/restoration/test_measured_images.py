from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.corruptions.image_noise import CounterRNG
from datamodules.corruptions.operators import (
    AverageDownsampling,
    FreeForm,
    Grayscale,
    Operator,
    PhaseRetrieval,
    RandomPixels,
)
from datamodules.loading.global_batches import Request
from datamodules.restoration.images import Images, PairSet, PatchSampling, Split
from datamodules.restoration.measured_images import MeasuredFolder, MeasuredImages
from tests.datamodules.recorder import Recorder
from tests.datamodules.restoration.test_image_pairs import patches, whole_images
from tests.grouped import grouped
from tests.trainers import quiet

CLEAN = [np.random.default_rng(seed).integers(0, 256, (3, 16, 16), dtype=np.uint8) for seed in range(5)]


class Five(PairSet):
    """Five images of the same size, which are given either as clean or as noisy images."""

    channels = 3

    def __init__(self, noisy: bool = False) -> None:
        self.noisy = noisy

    def images(self, split: Split) -> Images:
        return Images("abcde", None, CLEAN) if self.noisy else Images("abcde", CLEAN)


def measurements(operator: Operator, **options: Any) -> list[dict[str, Any]]:
    return [batch for _, batch in whole_images(MeasuredImages(operator, Five(), **grouped(MeasuredImages, options)))]


@pytest.mark.parametrize("operator", [AverageDownsampling(2), FreeForm(), PhaseRetrieval(), Grayscale()])
def test_measurements_are_of_images_between_minus_one_and_one(operator: Operator) -> None:
    (batch,) = measurements(operator, sigma=0.1, evaluation_batch_size=5)
    index = torch.arange(5)
    image = torch.from_numpy(np.stack(CLEAN)).double() / 127.5 - 1
    own = operator.of(index, (16, 16))
    measured = own.forward(image)
    measured = measured + 0.2 * CounterRNG(0, 0, index).normal(measured)
    torch.testing.assert_close(batch["measured"], measured.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(batch["noisy"], (own.pseudo_inverse(measured).float() + 1) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(batch["clean"], (image.float() + 1) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("operator", [RandomPixels(), AverageDownsampling(4)])
def test_an_image_has_the_same_measurement_in_every_batch_and_run(operator: Operator) -> None:
    (whole,), parts = (measurements(operator, sigma=0.1, evaluation_batch_size=size, seed=size) for size in (5, 2))
    for key in ("measured", "noisy"):
        assert torch.equal(whole[key], torch.cat([part[key] for part in parts]))
    assert not torch.equal(whole["measured"][0] - whole["noisy"].mean(), whole["measured"][1])


def test_training_batches_are_clean_patches() -> None:
    batches = patches(
        MeasuredImages(
            AverageDownsampling(2), training=Five(), batch_size=3, patches=PatchSampling(16, augmentation=False)
        )
    )
    assert [set(batch) for batch in batches] == [{"index", "global_batch_size", "clean"}] * 2
    row = int(batches[0]["index"][1])
    torch.testing.assert_close(batches[0]["clean"][1], torch.from_numpy(CLEAN[row]) / 255)


def test_a_folder_of_small_images_is_measured_already(tmp_path: Path) -> None:
    small = np.random.default_rng(9).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    module = Recorder()
    quiet().predict(module, MeasuredImages(AverageDownsampling(4), predict_dir=str(tmp_path)))
    [batch] = module.evaluated
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(batch["measured"], 2 * pixels - 1)
    torch.testing.assert_close(batch["noisy"], pixels.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
    assert batch["name"] == ["small"]


def test_grey_measurements_are_read_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "grey.png")
    batch = MeasuredFolder(Grayscale(), str(tmp_path), Grayscale().measured_channels(3), None)[
        Request(torch.tensor([0]), 0, 1)
    ]
    assert batch["measured"].shape == (1, 1, 4, 4)
    torch.testing.assert_close(batch["noisy"], torch.full((1, 3, 4, 4), 0.2), rtol=0, atol=1e-4)
