import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules.restoration.folder_sets import (
    DIV2K,
    CentreCrops,
    PairFolders,
    Set12,
    centre_crop,
)
from datamodules.restoration.images import Crops, Images, ItsTestImages, PairSet, Together
from datamodules.restoration.photographs import Photographs
from experiments.config_files import settings_of
from tests.conformance.experiments import CONFIGS
from tests.datamodules.restoration.pictures import planes, written


def test_folders_of_pairs_match_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    clean = written(tmp_path / "clean", ["b.png", "sub/a.png", "c.png"])
    noisy = written(tmp_path / "noisy", ["c.bmp", "sub/a.png", "b.png"])
    images = PairFolders(str(tmp_path / "clean"), str(tmp_path / "noisy")).images("test")
    assert (images.names, images.clean is not None, images.noisy is not None) == (["b", "c", "sub/a"], True, True)
    for stored, read in ((clean, images.clean), (noisy, images.noisy)):
        by_name = {os.path.splitext(name)[0]: planes(image) for name, image in stored.items()}
        assert all(np.array_equal(image, by_name[name]) for name, image in zip(images.names, read or [], strict=True))


def test_the_mixed_test_set_of_fmd_is_read_by_the_configuration(tmp_path: Path) -> None:
    """Raw images and averaged captures have equal names, and grey images get three equal channels."""
    given = settings_of(CONFIGS / "scoredvi" / "fmd.yaml")
    [place] = {key.rpartition(".")[0] for key in given if key.endswith("noisy_dir")}
    folders = {key: given[f"{place}.{key}"] for key in ("noisy_dir", "clean_dir")}
    assert folders == {"noisy_dir": "test_mix/raw", "clean_dir": "test_mix/gt"}
    for value, folder in enumerate(folders.values()):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("Confocal_BPAE_B_1.png", "TwoPhoton_MICE_3.png"):
            Image.fromarray(np.full((4, 5), 10 * value, np.uint8)).save(tmp_path / folder / name)
    images = PairFolders(**{key: str(tmp_path / folder) for key, folder in folders.items()}).images("test")
    assert images.names == ["Confocal_BPAE_B_1", "TwoPhoton_MICE_3"]
    assert (images.noisy[0] == 0).all()
    assert (images.clean[1] == 10).all()
    assert images.clean[1].shape == (3, 4, 5)


def test_a_folder_alone_is_clean_or_noisy_and_grey_is_luma(tmp_path: Path) -> None:
    stored = written(tmp_path, ["a.png"])["a.png"]
    alone = PairFolders(noisy_dir=str(tmp_path), colour=False).images("training")
    assert alone.clean is None
    luma = stored @ np.array([0.299, 0.587, 0.114])
    assert np.abs(alone.noisy[0][0] - luma).max() <= 0.51
    assert PairFolders(str(tmp_path)).images("training").noisy is None


def test_sets_are_trained_on_together() -> None:
    both = Together([Photographs(16), Photographs(12)])
    images = both.images("training")
    assert (both.channels, len(images.names), images.stored[0].shape, images.stored[-1].shape) == (
        1,
        20,
        (1, 16, 16),
        (1, 12, 12),
    )


def test_the_images_of_a_test_are_trained_on() -> None:
    photographs = Photographs(16, colour=True)
    images = ItsTestImages(photographs)
    assert (images.channels, images.images("training").names) == (3, photographs.images("test").names)


def test_centres_of_some_images_are_evenly_spaced() -> None:
    images = Crops(Numbered(), crop_size=4, count=3).images("test")
    assert images.names == ["0", "2", "4"]
    stored = Numbered().images("test")
    for place, noisy, clean in zip((0, 2, 4), images.noisy or [], images.clean or [], strict=True):
        np.testing.assert_array_equal(noisy, stored.noisy[place][:, 1:5, 2:6])
        np.testing.assert_array_equal(clean, stored.clean[place][:, 1:5, 2:6])
    for arguments, message in (
        ({"crop_size": 4, "count": 8}, "Numbered has 7 images, but count is 8"),
        ({"crop_size": 7, "count": 3}, "0 has 6 x 8 pixels, less than crop_size 7"),
    ):
        with pytest.raises(ValueError, match=message):
            Crops(Numbered(), **arguments).images("test")


class Numbered(PairSet):
    """Seven pairs."""

    channels = 3

    def images(self, split: Any) -> Any:
        pairs = np.random.default_rng(0).integers(0, 256, (2, 7, 3, 6, 8), dtype=np.uint8)
        return Images([str(number) for number in range(7)], list(pairs[0]), list(pairs[1]))


def test_known_sets_are_found_in_their_folder_or_given_it(tmp_path: Path) -> None:
    written(tmp_path / "Set12", [f"{number:02d}.png" for number in range(1, 13)], height=256, width=256)
    for data_dir in (tmp_path, tmp_path / "Set12"):
        images = Set12(str(data_dir)).images("test")
        assert (len(images.names), images.names[0], images.stored[0].shape) == (12, "01", (1, 256, 256))


def test_div2k_has_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "DIV2K" / "DIV2K_valid_HR", [f"{number:04d}.png" for number in range(801, 901)])
    images = DIV2K(str(tmp_path), colour=False).images("validation")
    assert (len(images.names), images.stored[0].shape) == (100, (1, 6, 5))
    with pytest.raises(FileNotFoundError, match="DIV2K_train_HR"):
        DIV2K(str(tmp_path)).images("training")


def test_an_image_four_times_as_large_is_the_mean_of_blocks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    found = torch.from_numpy(centre_crop(pixels, 16)).float()
    halves = F.avg_pool2d(torch.from_numpy(pixels).float()[None], 4)[0, :, :, 4:20]
    assert float((found - halves).abs().max()) <= 2  # each halving rounds in both directions
    small = pixels[:, :16, :16]
    np.testing.assert_array_equal(centre_crop(small, 16), small)
    assert centre_crop(pixels[:1, :20, :30], 16).shape == (1, 16, 16)


def test_a_listing_chooses_and_orders(tmp_path: Path) -> None:
    stored = written(tmp_path / "images", ["b/1.png", "a/2.png", "a/3.png"], height=8, width=8)
    (tmp_path / "list.txt").write_text("b/1.png 7\na/3.png 0\n")
    images = CentreCrops(str(tmp_path / "images"), 8, listing=str(tmp_path / "list.txt")).images("test")
    assert images.names == ["b/1", "a/3"]
    np.testing.assert_array_equal(images.clean[1], planes(stored["a/3.png"]))
    assert len(CentreCrops(str(tmp_path / "images"), 8).images("test").names) == 3
    with pytest.raises(FileNotFoundError, match=r"listing .*no\.txt does not exist"):
        CentreCrops(str(tmp_path / "images"), listing=str(tmp_path / "no.txt")).images("test")


def test_each_page_is_an_image_and_pairs_need_as_many_pages(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    for name, count in {"noisy": 3, "clean": 3, "fewer": 2}.items():
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", pages[:count], photometric="minisblack")
    one = PairFolders(noisy_dir=str(tmp_path / "noisy" / "a.tif"), colour=False).images("training")
    pairs = PairFolders(str(tmp_path / "clean"), str(tmp_path / "noisy" / "a.tif"), colour=False).images("training")
    for images in (one, pairs):
        assert images.names == ["a/1", "a/2", "a/3"]
        np.testing.assert_array_equal(np.concatenate(images.noisy or []), pages)
    with pytest.raises(ValueError, match="a/3 has no counterpart; clean and noisy pages must be as many"):
        PairFolders(str(tmp_path / "fewer"), str(tmp_path / "noisy")).images("training")
