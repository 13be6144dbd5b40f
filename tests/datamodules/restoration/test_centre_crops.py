from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.restoration.centre_crops import CentreCrops, centre_crop
from tests.datamodules.restoration.pictures import planes, written


def test_an_image_four_times_as_large_is_the_mean_of_blocks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    found = torch.from_numpy(centre_crop(pixels, 16)).float()
    halves = F.avg_pool2d(torch.from_numpy(pixels).float()[None], 4)[0, :, :, 4:20]
    assert float((found - halves).abs().max()) <= 2  # each halving rounds along both axes
    small = pixels[:, :16, :16]
    np.testing.assert_array_equal(centre_crop(small, 16), small)
    assert centre_crop(pixels[:1, :20, :30], 16).shape == (1, 16, 16)


def test_a_listing_chooses_and_orders(tmp_path: Path) -> None:
    stored = written(tmp_path / "images", ["b/1.png", "a/2.png", "a/3.png"], height=8, width=8)
    (tmp_path / "list.txt").write_text("b/1.png 7\na/3.png 0\n")
    images = CentreCrops(str(tmp_path / "images"), 8, listing=str(tmp_path / "list.txt")).images("test")
    assert images.names == ["b/1", "a/3"]
    assert images.clean is not None
    np.testing.assert_array_equal(images.clean[1], planes(stored["a/3.png"]))
    assert len(CentreCrops(str(tmp_path / "images"), 8).images("test").names) == 3
    with pytest.raises(FileNotFoundError, match=r"listing .*no\.txt does not exist"):
        CentreCrops(str(tmp_path / "images"), listing=str(tmp_path / "no.txt")).images("test")
