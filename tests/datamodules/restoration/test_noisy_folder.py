from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from datamodules.corruptions.image_noise import Gaussian, Sensor
from datamodules.files.bayer import pack_bayer
from datamodules.loading.global_batches import Request
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.noisy_folder import NoisyFolder, RawFolder
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.raw_photographs import RawPhotographs
from tests.datamodules.recorder import Recorder
from tests.trainers import quiet

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
DEEP = np.random.default_rng(0).integers(0, 4096, (9, 7), dtype=np.uint16)


def folder(directory: Path, **files: np.ndarray) -> str:
    for name, pixels in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(directory / f"{name}.png")
    return str(directory)


def test_a_folder_needs_no_clean_images_and_no_set_and_tells_which_files_are_broken(tmp_path: Path) -> None:
    images = folder(tmp_path, one=PIXELS, two=PIXELS[..., 0], four=DEEP)
    folder(tmp_path / "sub", three=PIXELS[:5])
    (tmp_path / "broken.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    data, module = ImagePairs(predict_dir=images, data_range=4095), Recorder()
    quiet().predict(module, data)
    batches = {batch["name"][0]: batch for batch in module.evaluated}
    assert sorted(batches) == ["four"]  # the others have 8 bits
    torch.testing.assert_close(batches["four"]["noisy"][0, 0], torch.from_numpy(DEEP.astype(np.float32) / 4095))
    data, module = ImagePairs(predict_dir=images), Recorder()
    quiet().predict(module, data)
    batches = {batch["name"][0]: batch for batch in module.evaluated}
    assert sorted(batches) == ["one", "sub/three", "two"]
    assert all(
        batch.keys() == {"noisy", "index", "global_batch_size", "name", "data_range", "dtype"}
        for batch in batches.values()
    )
    torch.testing.assert_close(batches["one"]["noisy"][0], torch.from_numpy(PIXELS).permute(2, 0, 1) / 255.0)
    assert batches["two"]["noisy"].shape == (1, 1, 9, 7)
    broken, deep = data.predict_set.unreadable
    assert str(tmp_path / "broken.png") in broken
    assert f"{tmp_path / 'four.png'} has 16 bits, so its white value is unknown: set data.data_range" in deep


def test_a_network_of_colours_gets_grey_images_as_colours_and_none_of_grey_gets_colours(tmp_path: Path) -> None:
    images = folder(tmp_path, one=PIXELS, two=PIXELS[..., 0])
    for colour, names in ((True, ["one", "two"]), (False, ["two"])):
        data = ImagePairs(Photographs(32, colour=colour), noise=Gaussian(), predict_dir=images)
        data.setup("predict")
        assert data.predict_set.names == names
        assert {size[0] for size in data.predict_set.sizes} == {3 if colour else 1}


def test_raw_images_are_packed_above_black_and_brightened(tmp_path: Path) -> None:
    bayer = np.random.default_rng(1).integers(500, 900, (6, 8), dtype=np.uint16)
    (tmp_path / "night").mkdir()
    np.savez(tmp_path / "night/a.npz", bayer=bayer, black=512, white=16383, pattern="RGGB")
    (tmp_path / "b.npz").write_bytes(b"PK")
    data = ImagePairs(test=RawPhotographs(8), noise=Sensor(), predict_dir=str(tmp_path), predict_ratio=100)
    module = Recorder()
    quiet().predict(module, data)
    [batch] = module.evaluated
    assert (batch["name"], batch["data_range"]) == (["night/a"], 65535)
    expected = 100 * (pack_bayer(bayer).astype(float) - 512).clip(0) / (16383 - 512)
    np.testing.assert_allclose(batch["noisy"][0], expected, rtol=1e-5)
    assert "b.npz lacks bayer" in data.predict_set.unreadable[0]
    (tmp_path / "c").mkdir()
    data = ImagePairs(test=RawPhotographs(8), noise=Sensor(), predict_dir=str(tmp_path / "c"))
    with pytest.raises(FileNotFoundError, match=r"c holds no raw image; expected files that end with .npz, .arw"):
        data.setup("predict")


def test_one_file_is_a_set_of_one_and_each_of_its_pages_an_image(tmp_path: Path) -> None:
    """A broken page makes the whole file unreadable, so that no page is lost in silence."""
    folder(tmp_path, other=PIXELS)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([DEEP, DEEP // 2]), photometric="minisblack")
    alone, both = (NoisyFolder(str(tmp_path / name), data_range=4095) for name in ("stack.tif", ""))
    assert (alone.names, alone.stacks["stack"].count, both.names) == (["stack/1", "stack/2"], 2, ["stack/1", "stack/2"])
    batch = alone[Request(torch.tensor([1]), 0, 1)]
    np.testing.assert_array_equal(batch["noisy"][0, 0].numpy(), DEEP // 2)
    assert NoisyFolder(str(tmp_path / "other.png")).names == ["other"]
    np.savez(tmp_path / "raw.npz", bayer=np.full((4, 4), 600, np.uint16), black=512, white=16383, pattern="RGGB")
    assert RawFolder(str(tmp_path / "raw.npz")).names == ["raw"]
    path = tmp_path / "stack.tif"
    path.write_bytes(path.read_bytes()[:-150])  # cuts the second page
    with pytest.raises(ValueError, match=r"no image can be read: .*stack\.tif cannot be read"):
        NoisyFolder(str(path), data_range=4095)
