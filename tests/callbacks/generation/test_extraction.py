"""Features of real images: computed once, resumed, named after their extractor, and rejections."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.generation import extraction
from callbacks.generation.extraction import ALONE, INCEPTION, Extractor, features_of, metric_name
from callbacks.generation.image_lists import ArrayImages
from lightning_modules.networks.fid_inception import FIDInception


class Counting(nn.Module):
    """Returns the mean of each channel, and fails after a number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.fails_after = 100

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(len(image))
        if sum(self.seen) > self.fails_after:
            raise RuntimeError("killed")
        return image.mean(dim=(2, 3))


def images(n: int = 23, sizes: tuple[int, ...] = (4,)) -> ArrayImages:
    random = np.random.default_rng(0)
    shapes = [(3, 4, sizes[number % len(sizes)]) for number in range(n)]
    return ArrayImages([random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes], 255, "some")


def test_features_are_computed_once_and_a_killed_computation_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "ROWS_PER_PART", 6)
    extractor = Extractor(network := Counting(), "means")
    network.fails_after = 15
    with pytest.raises(RuntimeError, match="killed"):
        features_of(images(), extractor, tmp_path, 3, ALONE)
    network.seen, network.fails_after = [], 100
    feature = features_of(images(), extractor, tmp_path, 3, ALONE)
    assert network.seen == [3, 3, 3, 2]  # 12 of 23 were already cached
    expected = np.stack([image.mean(axis=(1, 2)) / 255 for image in images().images])
    np.testing.assert_allclose(feature, expected, atol=1e-6)
    features_of(images(), extractor, tmp_path, 3, ALONE)
    assert sum(network.seen) == 11
    network.bias = nn.Parameter(torch.zeros(3))  # a different network
    features_of(images(), Extractor(network, "means"), tmp_path, 3, ALONE)
    assert sum(network.seen) == 11 + 23


def test_metrics_are_named_after_the_extractor() -> None:
    inception = {"name": INCEPTION, "resize": "legacy"}
    assert [metric_name(kind, inception) for kind in ("fid", "kid", "is")] == ["fid", "kid", "is"]
    assert metric_name("fid", {**inception, "resize": "clean"}) == "fid_clean"
    assert [metric_name(kind, {"name": "resnet18"}) for kind in ("fid", "kid")] == ["fd_resnet18", "kd_resnet18"]
    assert metric_name("fid", None) == "fid"


def test_inception_resizes_images_of_different_sizes_one_by_one(tmp_path: Path) -> None:
    network = FIDInception()
    network.network = nn.Flatten()  # replaces the network behind the resizing
    network.read = lambda: None  # type: ignore[method-assign]
    feature = features_of(images(2, sizes=(4, 7)), Extractor(network, None), tmp_path, 2, ALONE)
    given = torch.from_numpy(images(2, sizes=(4, 7)).images[1])[None] / 255
    np.testing.assert_allclose(feature[1], network(given)[0], atol=1e-6)
