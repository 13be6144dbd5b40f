import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms

from callbacks.generation.image_lists import FolderImages
from datamodules.augmentation.boxes import box_of_random_area
from datamodules.editing.folder_sets import decode_upright
from datamodules.files.image_files import (
    SUFFIXES,
    Crop,
    ResizedCrop,
    UnreadableImage,
    WholeImage,
    box_after_resizing,
    class_folders,
    eight_bits,
    files_by_class,
    image_names,
    read_crop,
    size_in_header,
)
from datamodules.files.pixels import read_pixels
from datamodules.randomness.counter import sample_uniform
from datamodules.restoration.folder_sets import read_images
from datamodules.segmentation.folder_sets import read_image
from datamodules.segmentation.mask_files import read_mask
from datamodules.segmentation.segthor import read_slice
from tests.datamodules.image_folders import photograph, save

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (256, 256), (300, 1000)])
@pytest.mark.parametrize("place", [None, (0.0, 0.0), (0.3, 0.7), (0.999, 0.999)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_is_what_resizing_and_then_cutting_gives(
    tmp_path: Path, width: int, height: int, place: tuple[float, float] | None, interpolation: Any
) -> None:
    """The result equals torchvision's two steps, up to a rounding error in the pixels."""
    # The values are far from 0 and 255, because Pillow clips overshoots between its row and column passes, in an order
    # that it chooses by cost.
    image = Image.fromarray(np.random.default_rng(0).integers(64, 192, size=(height, width, 3), dtype=np.uint8))
    path = save(tmp_path / "image.png", image)
    resized = transforms.resize(image, [256], transforms.InterpolationMode(interpolation))
    if place is None:
        expected = transforms.center_crop(resized, [224])
    else:
        top, left = (math.floor(u * (side - 224 + 1)) for u, side in zip(place, resized.size[::-1], strict=True))
        expected = transforms.crop(resized, top, left, 224, 224)
    found = read_crop(path, Crop(224, 256, interpolation), place)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 50), st.integers(0, 50), st.data())
def test_a_box_lies_in_the_image_and_keeps_its_shape(
    width: int, height: int, size: int, margin: int, data: st.DataObject
) -> None:
    uniform = st.floats(0, 1, exclude_max=True)
    place = data.draw(st.none() | st.tuples(uniform, uniform))
    box = box_after_resizing(width, height, size + margin, size, place)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    resize = size + margin
    for side in (box.right - box.left, box.bottom - box.top):
        # This is exact for the short side; the long side is rounded down by less than one pixel of at least `resize`
        # pixels.
        assert 1 - 1e-9 <= side * resize / min(width, height) / size < 1 + 1 / resize + 1e-9


def test_a_random_box_is_what_is_resized(tmp_path: Path) -> None:
    image = photograph(300, 200)
    path = save(tmp_path / "image.png", image)
    uniform = sample_uniform(3, 1, torch.tensor([5]), count=22)[0].tolist()
    left, top, right, bottom = box_of_random_area(300, 200, uniform, SCALE, RATIO)
    size, bilinear = [64, 64], transforms.InterpolationMode.BILINEAR
    expected = transforms.resized_crop(image, int(top), int(left), int(bottom - top), int(right - left), size, bilinear)
    found = read_crop(path, ResizedCrop(64, 72), uniform)
    inside = np.abs(found.astype(int) - np.asarray(expected).astype(int))[2:-2, 2:-2]  # edges are excluded
    assert inside.max() <= 2


def test_a_large_jpeg_decodes_to_a_coarser_size_that_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photograph(1600, 1200)
    jpeg, png = save(tmp_path / "image.jpg", image, quality=98), save(tmp_path / "image.png", image)
    decoded: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def recorded(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        decoded.append(self.size)
        return resize(self, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    crop = Crop(56, 64)
    coarse, exact = (read_crop(path, crop, (0.2, 0.9)).astype(int) for path in (jpeg, png))
    assert decoded == [(200, 150), (1600, 1200)]  # an eighth: still more than twice 64
    assert np.abs(coarse - exact).max() <= 6


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_comes_as_three_colours(tmp_path: Path, mode: str) -> None:
    image = photograph(40, 40).convert(mode)
    path = save(tmp_path / ("image.tif" if mode == "CMYK" else "image.png"), image)
    found = read_crop(path, Crop(40, 40), None)
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
def test_transparent_pixels_show_the_background(tmp_path: Path, background: str, level: int) -> None:
    """The result is a c + (1 - a) b, where a is the opacity, c the colour and b the background."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    crop = Crop(8, 8)
    crop.background = background
    found = read_crop(save(tmp_path / "image.png", Image.fromarray(pixels)), crop, None)
    a = pixels[..., 3:] / 255
    assert np.abs(found - (a * pixels[..., :3] + (1 - a) * level)).max() <= 1
    indexed = Image.new("P", (8, 8), 1)
    indexed.putpalette([0, 0, 0, 9, 9, 9])
    indexed.save(tmp_path / "indexed.png", transparency=1)
    assert (read_crop(tmp_path / "indexed.png", crop, None) == level).all()


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, name: str) -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    found = read_crop(save(tmp_path / name, Image.fromarray(values)), Crop(32, 32), None)
    np.testing.assert_array_equal(found, np.repeat((values / 257).round()[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_whose_files_are_found_is_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"image{suffix.upper()}", Image.new("RGB", (16, 16), (200, 200, 200)))
    assert image_names(tmp_path) == [path.name]
    assert np.abs(read_crop(path, Crop(8, 8), None).astype(int) - 200).max() <= 4


def encoded(kind: str, side: int) -> bytes:
    buffer = io.BytesIO()
    photograph(side, side).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [encoded("png", 60)[:2000], encoded("jpeg", 300)[:2000], encoded("png", 60)[:20], b"", b"<html>no image</html>"],
    ids=["half a PNG", "half a JPEG", "head of a PNG", "empty", "text"],
)
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"^{path} cannot be read as an image \(.+\); replace or remove it$"):
        read_crop(path, Crop(16, 16), None)


def test_floating_point_images_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "image.tif", Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)))
    with pytest.raises(UnreadableImage, match=r"image\.tif cannot be read as an image \(its values are floating-point"):
        read_crop(path, Crop(8, 8), None)
    with pytest.raises(UnreadableImage, match=rf"^{tmp_path / 'gone.png'} cannot be read .*No such file"):
        read_crop(tmp_path / "gone.png", Crop(8, 8), None)


def test_names_are_sorted_images_of_all_subfolders(tmp_path: Path) -> None:
    for name in ("b.JPEG", "a.png", "sub/c.webp", ".hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_names(tmp_path) == ["a.png", "b.JPEG", "sub/c.webp"]


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Write two classes of four images each, one of them in a subfolder."""
    split = tmp_path / "train"
    for name in ("cat", "dog"):
        for image in ("0.png", "1.png", "2.png", "more/3.png"):
            (split / name / image).parent.mkdir(parents=True, exist_ok=True)
            (split / name / image).touch()
    return split


LINKS = {
    "to itself": {"dog/loop": "loop", "dog/loop.png": "loop.png"},
    "to the class": {"dog/more/all": "..", "dog/self": "."},
    "to the split": {"dog/all": "..", "cat/more/all": "../.."},
    "to the root": {"dog/all": "/"},
    "of two to each other": {"dog/one": "two", "dog/two": "one"},
    "to a subfolder": {"dog/again": "more", "dog/another": "more"},
    "to an image": {"dog/a.png": "0.png", "dog/more/b.png": "../0.png", "dog/c.png": "more/3.png"},
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_links_within_a_class_bring_no_image_a_second_time(animals: Path, links: dict[str, str]) -> None:
    for name, target in links.items():
        (animals / name).symlink_to(target)
    names, label = files_by_class(animals, class_folders(animals))
    found = [name for name in names if "loop" not in name]  # a broken link is listed, and reported when it is read
    images = ("0.png", "1.png", "2.png", "more/3.png")
    assert found == [f"{kind}/{image}" for kind in ("cat", "dog") for image in images]
    assert label[:8].tolist() == [0] * 4 + [1] * 4


def test_links_elsewhere_are_followed(animals: Path, tmp_path: Path) -> None:
    """A class folder or its subfolder may be a link to another disk, and links to images may have other names."""
    (tmp_path / "disk").mkdir()
    (animals / "dog").rename(tmp_path / "disk" / "dogs")
    (animals / "dog").symlink_to(tmp_path / "disk" / "dogs")
    (animals / "dog" / "all").symlink_to(animals)  # a loop through the other disk
    (animals / "cat" / "more").rename(tmp_path / "disk" / "cats")
    (animals / "cat" / "more").symlink_to(tmp_path / "disk" / "cats")
    (tmp_path / "disk" / "4.png").touch()
    for name in ("cat/z.png", "cat/y.png"):
        (animals / name).symlink_to(tmp_path / "disk" / "4.png")
    names, label = files_by_class(animals, ["cat", "dog"])
    assert names[:5] == ["cat/0.png", "cat/1.png", "cat/2.png", "cat/more/3.png", "cat/y.png"]
    assert names[5:] == ["dog/0.png", "dog/1.png", "dog/2.png", "dog/more/3.png"]
    assert label.tolist() == [0] * 5 + [1] * 4


@pytest.mark.parametrize(
    ("link", "target", "twice"),
    [
        ("dog/others", "../cat", "cat"),
        ("cat/others", "../dog/more", "dog/more"),
        ("dog/others", "../../pool", "pool"),
        ("dog/4.png", "../cat/more/3.png", "cat/more/3.png"),
        ("cat/4.png", "../dog/0.png", "dog/0.png"),
        ("cat/4.png", "../../pool/7.png", "pool/7.png"),
        ("kitten", "cat", "cat"),
    ],
)
def test_an_image_that_links_bring_into_two_classes_is_refused(
    animals: Path, tmp_path: Path, link: str, target: str, twice: str
) -> None:
    """Such an image would have two labels, of which at least one is wrong."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "7.png").touch()
    if "pool" in twice:
        (animals / "cat" / "pool").symlink_to(tmp_path / "pool")
        (animals / "dog" / "8.png").symlink_to(tmp_path / "pool" / "7.png")
    (animals / link).symlink_to(target)
    message = rf"{twice} is in two classes, cat and (dog|kitten), because of a link; leave it in one"
    with pytest.raises(ValueError, match=message):
        files_by_class(animals, class_folders(animals))


def animation(path: Path) -> Path:
    frames = [photograph(20, 16, seed) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "classification": lambda path: read_crop(path, Crop(8, 8), None),
    "its size": size_in_header,
    "a shard": lambda path: read_crop("shard.tar", Crop(8, 8), None, path.read_bytes()),
    "scores and references": lambda path: FolderImages(path.parent, [path.name])[range(1)],
    "segmentation": lambda path: read_image(path, WholeImage(8), 3),
    "masks": read_mask,
    "slices": read_slice,
    "photographs to protect": decode_upright,
    "published sets": lambda path: read_images(path.parent, [path.name], 3),
}


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp", "a.png"])
@pytest.mark.parametrize("reader", READERS)
def test_several_pages_are_never_lost_in_silence(reader: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"has 3 pages, but .* must have one here; save each page as its own"):
        READERS[reader](animation(tmp_path / name))


def test_previews_are_no_pages(tmp_path: Path) -> None:
    """A camera's JPEG has a preview, and a TIFF may have reduced copies (tag 254, 1) and masks (4)."""
    assert read_crop(animation(tmp_path / "a.mpo"), Crop(8, 8), None).shape == (8, 8, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side, kind in ((4, 1), (16, 0), (8, 1), (16, 4)):
            tag = [(254, "I", 1, kind, True)]
            file.write(np.full((side, side), side, np.uint8), extratags=tag, contiguous=False, metadata=None)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), np.full((1, 16, 16), 16, np.uint8))


@pytest.mark.filterwarnings("error")
def test_images_of_12_bits_are_not_darkened_without_a_word() -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    assert np.asarray(eight_bits(Image.fromarray(values))).tolist() == [[0, 1, 255]]
    with pytest.warns(UserWarning, match="no value above 4095, and white is 65535: .* multiply their values by 16"):
        assert np.asarray(eight_bits(Image.fromarray(values // 16))).tolist() == [[0, 0, 16]]
    assert np.asarray(eight_bits(Image.fromarray(values // 16 * 16))).tolist() == [[0, 1, 255]]
