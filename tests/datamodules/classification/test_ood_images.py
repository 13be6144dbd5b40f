from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.classification.ood_images import ImagesInFolder, PhotographPatches, UniformNoise


def test_noise_has_its_moments_and_each_image_depends_on_its_position_alone() -> None:
    source, rows = UniformNoise(2000).of_no_class((3, 4, 4), seed=5), torch.arange(2000)
    image = source.fetch(rows, None)
    assert image.shape == (2000, 3, 4, 4)
    assert torch.equal(source.fetch(rows[700:710], None), image[700:710])
    assert not torch.equal(UniformNoise(2000).of_no_class((3, 4, 4), seed=6).fetch(rows[:5], None), image[:5])
    assert float((image / 255).mean()) == pytest.approx(0.5, abs=0.005)
    assert float((image / 255).std()) == pytest.approx(12**-0.5, abs=0.005)


def test_patches_tile_the_photograph() -> None:
    import skimage.data

    source = PhotographPatches().of_no_class((3, 64, 64), seed=0)
    image = source.fetch(torch.arange(len(source.label)), None)
    assert image.shape == (64, 3, 64, 64)
    assert int(image[:, 0].long().sum()) == int(skimage.data.camera().sum(dtype=np.int64))
    assert torch.equal(image[:, 0], image[:, 2])


def test_folders_are_read_in_the_authors_layout_and_flat(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    for folder in ("LSUN_resize", "iSUN/iSUN_patches"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(pixels[number]).save(tmp_path / folder / f"{number}.png")
    for folder in ("LSUN_resize", "iSUN"):
        source = ImagesInFolder(folder, str(tmp_path)).of_no_class((3, 32, 32), 0)
        np.testing.assert_array_equal(source.fetch(torch.arange(3), None).permute(0, 2, 3, 1), pixels)
        assert source.label.tolist() == [-1] * 3
    assert len(ImagesInFolder("iSUN", str(tmp_path), num_images=2).of_no_class((3, 32, 32), 0).label) == 2
