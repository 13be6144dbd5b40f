"""Real images with 8 bits, from image datasets, image-pair datasets and folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.generation.image_lists import ArrayImages, FolderImages, images_of_set, in_bytes
from datamodules.classification.digits import Digits
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.restoration.folder_sets import PairFolders

HOST = torch.device("cpu")


@pytest.mark.parametrize(
    ("stored", "data_range", "expected"),
    [
        (torch.arange(256, dtype=torch.uint8), 255, torch.arange(256)),
        (torch.tensor([0, 1, 15, 16], dtype=torch.uint8), 16, torch.tensor([0, 15, 239, 255])),
        (torch.tensor([0, 257, 513, 65535]).to(torch.uint16), 65535, torch.tensor([0, 1, 1, 255])),
        (torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2]), 1, torch.tensor([0, 0, 127, 255, 255])),
    ],
)
def test_stored_values_are_rounded_down_to_bytes(stored: Tensor, data_range: int, expected: Tensor) -> None:
    torch.testing.assert_close(in_bytes(stored, data_range), expected.to(torch.uint8))


def written(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_folder_is_read_in_colour_and_known_again_by_its_files(tmp_path: Path) -> None:
    folder = written(tmp_path / "images", [(4, 5), (6, 7)])
    images = FolderImages(folder)
    assert [tuple(image.shape) for image in images[range(2)]] == [(3, 4, 5), (3, 6, 7)]
    assert images.name_of(1) == str(folder / "1.png")
    assert images.identity == FolderImages(folder).identity
    written(tmp_path / "more", [(4, 5)])
    (tmp_path / "more" / "0.png").rename(folder / "2.png")
    assert images.identity != FolderImages(folder).identity
    with pytest.raises(FileNotFoundError, match="holds no image"):
        FolderImages(tmp_path / "more")


def test_sets_of_labelled_images_and_of_pairs_give_their_clean_images(tmp_path: Path) -> None:
    digits = images_of_set(Digits(), "test", 0, HOST)
    assert (len(digits), digits.name) == (497, "Digits-test")
    stored = Digits().test().image[3]
    torch.testing.assert_close(digits[range(3, 4)][0], (stored.int() * 255 // 16).to(torch.uint8))
    pairs = images_of_set(PairFolders(clean_dir=str(written(tmp_path / "clean", [(4, 5), (6, 7)]))), "test", 0, HOST)
    assert isinstance(pairs, ArrayImages)
    assert [tuple(image.shape) for image in pairs[range(2)]] == [(3, 4, 5), (3, 6, 7)]
    captioned = images_of_set(CaptionedClasses(Digits()), "training", 0, HOST)
    training = images_of_set(Digits(), "training", 0, HOST)
    assert captioned.identity == training.identity
    assert digits.identity != training.identity
    with pytest.raises(ValueError, match="split: CaptionedClasses has no test images of its own; use training"):
        images_of_set(CaptionedClasses(Digits()), "test", 0, HOST)
