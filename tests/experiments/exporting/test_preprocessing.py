"""The recorded lines and the built-in function resize and crop images like the readers of the datasets."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.files.image_files import Crop, Interpolation, ResizedCrop, WholeImage, read_crop
from datamodules.segmentation.folder_sets import read_image
from experiments.exporting.preprocessing import preprocessing, resize_and_crop, section, timm_keys


@pytest.mark.parametrize("size", [(300, 200), (97, 131), (64, 64)])
def test_an_export_says_how_its_images_were_resized_and_cropped(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    crop = ResizedCrop(32, 37, 0.5)
    found = preprocessing((3, 32, 32), crop)
    assert found == {
        **{"image_shape": [3, 32, 32], "resize_short_side": 37, "interpolation": "bilinear", "centre_crop": 32}
    }
    said = "\n\n".join(section(found))
    assert "resized to 37 pixels on the short side (bilinear), and the central 32 x 32 pixels were cut out" in said
    random = np.random.default_rng(0).integers(0, 256, (size[1] // 20 + 1, size[0] // 20 + 1, 3), dtype=np.uint8)
    Image.fromarray(random).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "picture.png")
    expected = read_crop(tmp_path / "picture.png", crop, None).transpose(2, 0, 1)[None] / 255
    given: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    code = re.search("```python\n(.*?)```", said, re.DOTALL)[1]  # type: ignore[index]
    exec(code.replace("picture.jpg", "picture.png"), given)
    np.testing.assert_allclose(given["image"], expected, rtol=0, atol=3 / 255)
    keys = {**timm_keys(found), "input_size": (3, 32, 32), "mean": (0, 0, 0), "std": (1, 1, 1)}
    transform = timm.data.create_transform(**timm.data.resolve_data_config(keys))
    prepared = transform(Image.open(tmp_path / "picture.png"))[None].numpy()
    np.testing.assert_allclose(prepared, expected, rtol=0, atol=3 / 255)
    assert section(preprocessing((1, 8, 8), None))[1] == "The training images had the shape 1 x 8 x 8 (C x H x W)."
    assert preprocessing(None, None) == {} == timm_keys({})


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (97, 131), (37, 37), (20, 25)])
def test_a_program_resizes_and_crops_like_the_reader(
    size: tuple[int, int], interpolation: Interpolation, tmp_path: Path
) -> None:
    crop = Crop(32, 37, interpolation)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    found = resize_and_crop(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, crop)[0].permute(1, 2, 0) * 255
    differs = np.abs(found.round().numpy() - read_crop(tmp_path / "picture.png", crop, None).astype(int))
    assert differs.max() <= 1
    assert (differs > 0).mean() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("white", [None, 60000])
def test_a_segmenters_images_are_resized_to_a_square_like_those_of_mask_folders(
    channels: int, white: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop, path = WholeImage(16, data_range=white), tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(
        0, white or 256, (40, 23), dtype=np.uint8 if white is None else np.uint16
    )
    Image.fromarray(pixels).save(path)
    expected = read_image(path, crop, channels) / (255 if white is None else 1)
    image = torch.from_numpy(pixels.astype(np.float32) / (white or 255)).expand(1, channels, -1, -1)
    found = resize_and_crop(image, crop)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 255 if white is None else 1e-5)
    keys = preprocessing((channels, 16, 16), crop)
    assert keys.get("data_range") == white
    assert keys["resize"] == [16, 16]
    assert timm_keys(keys) == {}
    said = "\n\n".join(section(keys))
    assert "Whole images were resized to 16 x 16 pixels (bilinear), regardless of their aspect ratio" in said
    if white is not None:
        assert "more than 8 bits: read all of them, and divide by 60000, the value of white" in said
        assert "```" not in said  # the lines would read 8 bits
        return
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {}
    exec(re.search("```python\n(.*?)```", said, re.DOTALL)[1].replace("picture.jpg", "picture.png"), given)  # type: ignore[index]
    np.testing.assert_allclose(given["image"][0], expected, rtol=0, atol=1e-6)
