from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.files.image_files import UnreadableImage
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.cropped_images import CroppedImages
from datamodules.prompts.folder_sets import CaptionedFolder
from tests.datamodules.image_folders import photograph, save


def positions(width: int, height: int) -> Image.Image:
    """Create an 8-bit image in which red encodes the column and green the row."""
    column, row = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([column, row, 0 * row], axis=2).round().astype(np.uint8))


def source_of(folder: Path, **options: object) -> CroppedImages:
    source = CaptionedFolder(str(folder), **options).training().source  # type: ignore[arg-type]
    assert isinstance(source, CroppedImages)
    return source


@pytest.mark.parametrize("place", [None, [0.9, 0.2]])
def test_size_conditions_say_where_the_crop_is(tmp_path: Path, place: list[float] | None) -> None:
    save(tmp_path / "a.png", positions(160, 100))
    source = source_of(tmp_path, image_size=32, resize=48)
    uniform = None if place is None else torch.tensor([place])
    row = torch.zeros(1, dtype=torch.int64)
    height, width, top, left, tall, wide = source.size_conditions(row, uniform)[0].tolist()
    assert (height, width, tall, wide) == (100, 160, 32, 32)
    resized = positions(160, 100).resize((160 * 48 // 100, 48), Image.Resampling.BILINEAR)  # as in diffusers' script
    expected = np.asarray(resized)[int(top) : int(top) + 32, int(left) : int(left) + 32]
    found = source.fetch(row, uniform)[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - expected).max() <= 3
    mirrored = source.size_conditions(row, uniform, torch.ones(1, dtype=torch.bool))[0].tolist()
    flipped = np.asarray(resized)[:, ::-1][int(mirrored[2]) : int(mirrored[2]) + 32, int(mirrored[3]) :][:, :32]
    assert np.abs(found[:, ::-1].astype(int) - flipped).max() <= 3


def test_images_of_a_bucket_fill_it(tmp_path: Path) -> None:
    for number, size in enumerate([(128, 64), (60, 60), (64, 128), (130, 64)]):
        save(tmp_path / f"{number}.png", photograph(*size, number))
    source = source_of(tmp_path, image_size=64, buckets=Buckets(16, 2.0))
    assert [source.bucket_sizes[number] for number in source.bucket] == [(48, 80), (64, 64), (80, 48), (48, 80)]
    assert source.fetch(torch.tensor([0, 3]), torch.rand(2, 2)).shape == (2, 3, 48, 80)
    with pytest.raises(ValueError, match="a batch must not contain images of several buckets"):
        source.fetch(torch.tensor([0, 1]), None)
    uniform = torch.rand(2, 2)
    conditions = source.size_conditions(torch.tensor([3, 2]), uniform)
    assert conditions[:, :2].tolist() == [[64, 130], [128, 64]]
    assert conditions[:, 4:].tolist() == [[48, 80], [80, 48]]
    central = source.size_conditions(torch.tensor([3, 2]), None)
    assert central[:, 2:4].tolist() == [[0, (97 - 80) // 2], [(96 - 80) // 2, 0]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_a_photograph_is_turned_as_its_tag_says(suffix: str, tmp_path: Path) -> None:
    upright, exif = positions(96, 64), Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise by 90 degrees
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    save(tmp_path / "plain" / f"a.{suffix}", upright, quality=95)
    save(tmp_path / "tagged" / f"a.{suffix}", turned, exif=exif, quality=95)
    row = torch.zeros(1, dtype=torch.int64)
    plain, tagged = (source_of(tmp_path / name, image_size=32) for name in ("plain", "tagged"))
    assert plain.size.tolist() == tagged.size.tolist() == [[64, 96]]
    first, second = (each.fetch(row, torch.tensor([[0.0, 0.9]])).int() for each in (plain, tagged))
    assert (first - second).abs().max() <= 8
    assert torch.equal(plain.size_conditions(row, None), tagged.size_conditions(row, None))


def test_masks_are_cropped_like_images(tmp_path: Path) -> None:
    red = positions(90, 60).split()[0]
    save(tmp_path / "a.png", positions(90, 60))
    save(tmp_path / "masks" / "a.bmp", red.resize((45, 30)))
    source = source_of(tmp_path, image_size=16, resize=20, mask_dir=str(tmp_path / "masks"))
    assert source.names == ["a.png"]
    row, uniform = torch.zeros(1, dtype=torch.int64), torch.tensor([[0.1, 0.7]])
    image, mask = source.fetch(row, uniform).int(), source.fetch_masks(row, uniform).int()
    assert mask.shape == (1, 1, 16, 16)
    assert (image[:, :1] - mask).abs().max() <= 6
    Image.new("RGBA", (90, 60), (255, 255, 255, 0)).save(tmp_path / "masks" / "a.bmp", "PNG")
    assert not source.fetch_masks(row, uniform).any()


def test_masks_that_do_not_fit_and_files_that_are_no_images_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photograph(20, 20))
    save(tmp_path / "b.png", photograph(20, 20))
    save(tmp_path / "masks" / "a.png", photograph(20, 20))
    folder = CaptionedFolder(str(tmp_path), image_size=16, mask_dir=str(tmp_path / "masks"))
    with pytest.raises(FileNotFoundError, match=r"mask_dir: .*b\.png, the mask of an image, does not exist \(1 of 2"):
        folder.training()
    save(tmp_path / "masks" / "b.png", photograph(20, 30))
    with pytest.raises(ValueError, match=r"the mask b\.png has 20 x 30 pixels, and its image b\.png has 20 x 20"):
        folder.training()
    (tmp_path / "c.jpg").write_text("no image")
    with pytest.raises(UnreadableImage, match=r"c\.jpg cannot be read as an image"):
        CaptionedFolder(str(tmp_path), image_size=16, prompt="a").has_captions()
