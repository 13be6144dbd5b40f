from pathlib import Path

import numpy as np
import torch

from datamodules.files.bayer import pack_bayer
from datamodules.files.xtrans import XTRANS, packed_xtrans
from datamodules.loading.global_batches import Request
from datamodules.restoration.image_pairs import WholeImages
from datamodules.restoration.raw_pairs import SID, ELDPairs, images_of

RANDOM = np.random.default_rng(0)


def raw(path: Path, size: int = 8, **levels: int) -> np.ndarray:
    """Write a random raw image, and return its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bayer = RANDOM.integers(500, 2000, (size, size + 4), dtype=np.uint16)
    np.savez(path, bayer=bayer, pattern="RGGB", **{"black": 512, "white": 16383, **levels})
    return bayer


def sid(directory: Path) -> dict[str, np.ndarray]:
    """Write two scenes in SID's layout."""
    names = ["00001_00_0.1s", "00001_01_0.1s", "00001_00_10s", "00002_00_0.033s", "00002_00_10s"]
    stored = {
        name: raw(directory / "SID" / "Sony" / ("long" if name.endswith("10s") else "short") / f"{name}.npz")
        for name in names
    }
    lines = [f"./Sony/short/{short}.ARW ./Sony/long/{long}.ARW ISO200 F8" for short, long in
             ((names[0], names[2]), (names[1], names[2]), (names[3], names[4]))]  # fmt: skip
    for split in ("train", "val", "test"):
        (directory / "SID" / f"Sony_{split}_list.txt").write_text("\n".join(lines) + "\n")
    return stored


def clipped(bayer: np.ndarray) -> np.ndarray:
    return (pack_bayer(bayer).astype(float) - 512).clip(0) / (16383 - 512)


def test_sid_trains_on_each_long_exposure_once(tmp_path: Path) -> None:
    stored = sid(tmp_path)
    images = SID(str(tmp_path)).images("training")
    assert (images.names, images.noisy, images.data_range) == (["00001_00_10s", "00002_00_10s"], None, 16383 - 512)
    np.testing.assert_allclose(images.stored[1] / images.data_range, clipped(stored["00002_00_10s"]))


def test_short_exposures_are_brightened_by_the_ratio_that_their_names_say(tmp_path: Path) -> None:
    stored = sid(tmp_path)
    images = SID(str(tmp_path), ratio=100, crop=2).images("test")
    assert images.names == ["00001_00_0.1s", "00001_01_0.1s"]
    expected = 100 * clipped(stored["00001_01_0.1s"])[:, 1:3, 2:4]
    np.testing.assert_allclose((images.noisy or [])[1], expected, rtol=1e-5)
    np.testing.assert_allclose((images.clean or [])[1], clipped(stored["00001_00_10s"])[:, 1:3, 2:4], rtol=1e-5)
    every = SID(str(tmp_path), crop=None).images("test")
    np.testing.assert_allclose((every.noisy or [])[2], 300 * clipped(stored["00002_00_0.033s"]), rtol=1e-5)


def test_pairs_of_sid_are_trained_on_whole_with_the_brightened_short_exposure(tmp_path: Path) -> None:
    stored = sid(tmp_path)
    images = SID(str(tmp_path), crop=2, pairs=True).images("training")
    assert (images.names, images.data_range) == (["00001_00_0.1s", "00001_01_0.1s", "00002_00_0.033s"], 1)
    np.testing.assert_allclose((images.noisy or [])[1], 100 * clipped(stored["00001_01_0.1s"]), rtol=1e-5)
    np.testing.assert_allclose((images.clean or [])[1], clipped(stored["00001_00_10s"]), rtol=1e-5)
    assert len(SID(str(tmp_path), ratio=300, pairs=True).images("training").names) == 1


def test_pairs_of_an_x_trans_sensor_have_nine_channels(tmp_path: Path) -> None:
    names = {"short": "10001_00_0.1s", "long": "10001_00_10s"}
    for kind, name in names.items():
        (tmp_path / "SID" / "Fuji" / kind).mkdir(parents=True)
        bayer = RANDOM.integers(1024, 1200, (12, 18), dtype=np.uint16)
        levels = {"black": 1024, "white": 16383, "pattern": XTRANS}
        np.savez(tmp_path / "SID" / "Fuji" / kind / f"{name}.npz", bayer=bayer, **levels)
        stored = packed_xtrans(bayer)
    for split in ("train", "test"):
        line = f"./Fuji/short/{names['short']}.RAF ./Fuji/long/{names['long']}.RAF ISO400 F9\n"
        (tmp_path / "SID" / f"Fuji_{split}_list.txt").write_text(line)
    made = SID(str(tmp_path), camera="Fuji", pairs=True, crop=None)
    assert made.channels == 9
    for split in ("training", "test"):
        images = made.images(split)  # type: ignore[arg-type]
        np.testing.assert_allclose((images.clean or [])[0], (stored - 1024.0) / (16383 - 1024), rtol=1e-5)
        assert (images.noisy or [])[0].shape == (9, 4, 6)
    assert SID(str(tmp_path), camera="Fuji").images("training").stored[0].dtype == np.uint16


def test_colours_of_the_cameras_reach_the_batch() -> None:
    colours = RANDOM.random((2, 4, 3), dtype=np.float32)
    read = [(RANDOM.random((4, 2, 2), dtype=np.float32), np.zeros((4, 2, 2), np.float32), each) for each in colours]
    images = images_of(["a", "b"], read)
    np.testing.assert_array_equal((images.noisy or [])[1], read[1][0])
    batch = WholeImages(images, None)[Request(torch.tensor([1, 0]), 0, 2)]
    np.testing.assert_array_equal(batch["rendering"], colours[[1, 0]])
    assert images_of(["a", "b"], [read[0], (*read[1][:2], None)]).rendering is None


def test_eld_compares_with_the_nearest_reference(tmp_path: Path) -> None:
    folder = tmp_path / "ELDPairs" / "SonyA7S2"
    stored = {
        (scene, number): raw(folder / f"scene-{scene}" / f"IMG_{number:04d}.npz")
        for scene in (2, 10)
        for number in range(1, 17)
    }
    images = ELDPairs(str(tmp_path), factor=100).images("test")
    numbers = [(2, 4, 6), (2, 9, 11), (2, 14, 16), (10, 4, 6), (10, 9, 11), (10, 14, 16)]
    assert images.names == [f"scene-{scene}_IMG_{number:04d}" for scene, number, _ in numbers]
    for place, (scene, number, reference) in enumerate(numbers):
        np.testing.assert_allclose((images.noisy or [])[place], 100 * clipped(stored[scene, number]), rtol=1e-5)
        np.testing.assert_allclose((images.clean or [])[place], clipped(stored[scene, reference]), rtol=1e-5)
