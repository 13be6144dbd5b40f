from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.restoration.folder_sets import ScaledFolders
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.images import Images, ItsTestImages, PairSet, PatchSampling, Split, Together
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.reduced_images import ReducedImages, downsample_bicubic
from tests.trainers import quiet


def kernel(x: np.ndarray) -> np.ndarray:
    """Compute Keys' cubic kernel with a = -1/2 from its formula."""
    x = np.abs(x)
    return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def matrix(size: int, factor: int) -> np.ndarray:
    """Compute MATLAB's `imresize` along one axis: a kernel that is `factor` times as wide, with mirrored borders."""
    made = np.zeros((size // factor, size))
    for row in range(size // factor):
        centre = (row + 0.5) * factor - 0.5
        taps = np.arange(np.floor(centre - 2 * factor), np.floor(centre + 2 * factor) + 2).astype(int)
        weight = kernel((taps - centre) / factor)
        place = taps % (2 * size)
        np.add.at(made[row], np.where(place < size, place, 2 * size - 1 - place), weight / weight.sum())
    return made


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reduction_is_matlabs_formula(factor: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 12 * factor, 8 * factor), dtype=np.uint8)
    exact = matrix(12 * factor, factor) @ image @ matrix(8 * factor, factor).T
    expected = np.clip(np.round(exact), 0, 255)
    assert np.abs(downsample_bicubic(image, factor).astype(float) - expected).max() <= (
        np.abs(exact % 1 - 0.5).min() < 1e-9
    )


class Numbered(PairSet):
    """Two images whose pixels encode their positions."""

    channels = 1

    def images(self, split: Split) -> Images:
        rows, columns = np.meshgrid(np.arange(24), np.arange(20), indexing="ij")
        return Images(["a", "b"], [(each + 1)[None].astype(np.uint8) for each in (rows, columns)])


def test_patches_of_both_sizes_show_the_same_place() -> None:
    data = ImagePairs(
        ReducedImages(Numbered(), 2),
        batch_size=8,
        patches=PatchSampling(size=8, per_image=20, augmentation=False),
        loading=Loading(seed=0),
    )
    assert data.scale == 2
    data.trainer = quiet()
    data.setup("fit")
    patches = data.train_set
    cut = patches.crop(torch.arange(40), 0)  # type: ignore[union-attr]
    assert cut["clean"].shape == (40, 1, 8, 8)
    assert cut["noisy"].shape == (40, 1, 4, 4)
    inner = cut["clean"].float().unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    interior = (inner > 4) & (inner < 18)  # ramps remain ramps except at borders, up to rounding
    assert interior.sum() > 300
    assert (inner - cut["noisy"].float()).abs()[interior].max() <= 0.5
    assert len({tuple(each.flatten().tolist()) for each in cut["clean"]}) > 10


def test_whole_images_are_tested_in_both_sizes() -> None:
    data = ImagePairs(test=ReducedImages(Photographs(34)), loading=Loading(evaluation_batch_size=2))
    data.setup("test")
    [images] = data.test_sets.values()
    batch = images[Request(torch.tensor([0, 2]), 2, 0)]
    assert batch["noisy"].shape == (2, 1, 8, 8)
    assert batch["clean"].shape == (2, 1, 32, 32)  # the last two rows and columns do not form a pixel
    np.testing.assert_array_equal(batch["noisy"][1].numpy(), downsample_bicubic(batch["clean"][1].numpy(), 4))


def test_sets_of_both_sizes_are_joined_and_sets_of_other_factors_refused() -> None:
    photographs = ReducedImages(Photographs(32))
    joined = Together([photographs, ItsTestImages(photographs)])
    images = joined.images("training")
    assert joined.scale == images.scale == 4
    assert len(images.noisy) == len(images.names) == 13
    with pytest.raises(ValueError, match=r"the same downsampling factor, got \[2, 4\]"):
        Together([photographs, ReducedImages(Photographs(32), 2)])


def write(folder: Path, name: str, height: int, width: int) -> None:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)


def test_folders_of_both_sizes_are_matched_and_one_alone_is_reduced(tmp_path: Path) -> None:
    for name in ("a.png", "bb.png"):
        write(tmp_path / "GT", name, 16, 12)
        write(tmp_path / "LR", name, 4, 3)
    both = ScaledFolders(str(tmp_path / "GT"), str(tmp_path / "LR")).images("training")
    assert both.names == ["a", "bb"]
    assert both.scale == 4
    np.testing.assert_array_equal(both.noisy[0].transpose(1, 2, 0), np.array(Image.open(tmp_path / "LR" / "a.png")))
    alone = ScaledFolders(str(tmp_path / "GT"), colour=False).images("training")
    np.testing.assert_array_equal(alone.noisy[1], downsample_bicubic(alone.clean[1], 4))
