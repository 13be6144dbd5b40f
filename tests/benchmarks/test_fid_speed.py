"""Cost of computing features of real images, including everything around the network, relative to the network alone."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from callbacks.generation.extraction import ALONE, Extractor, features_of
from callbacks.generation.image_lists import ArrayImages
from callbacks.generation.measurement import described
from lightning_modules.networks.fid_inception import FIDInception
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark


def test_images_in_a_second(tmp_path: Path, report: Callable[[str, float, str], None]) -> None:
    """The time includes reading and resizing images, writing features to files, and summing the features.

    Each set has a fixed cost, which is divided among only 64 images here.
    """
    network = FIDInception()
    network.network.to_empty(device="cpu")
    for value in network.network.state_dict().values():
        nn.init.constant_(value, 0.01)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    extractor = Extractor(network, None)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(64)]
    prepared = network.resized(torch.from_numpy(np.stack(images)) / 255).split(32)
    folders = iter(range(100))

    def ours() -> None:
        listed = ArrayImages(images, 255, "images")
        feature = features_of(listed, extractor, tmp_path / str(next(folders)), 32, ALONE)
        described("images", feature, extractor.identity, ALONE, None)

    def theirs() -> None:
        with torch.no_grad():
            for batch in prepared:
                network.network(batch.contiguous(memory_format=torch.channels_last))

    # All work is in this process, so that its CPU time excludes everything else on the machine.
    ratio = 1 / paired_ratio(ours, theirs, rounds=5, clock=time.process_time)
    report("images per CPU second of FID over those of its network alone, 32 x 32 pixels, 64 images", ratio, ">= 0.95")
    assert ratio >= 0.95
