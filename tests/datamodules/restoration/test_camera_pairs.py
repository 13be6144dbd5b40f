from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datamodules.restoration import camera_pairs
from datamodules.restoration.camera_pairs import CC, DND, FMD, SIDD, SIDDBenchmark
from tests.datamodules.restoration.pictures import planes, written


def test_pairs_of_cc_are_matched(tmp_path: Path) -> None:
    stored = written(tmp_path / "CC", [f"d{i}_{kind}.png" for i in range(15) for kind in ("real", "mean")])
    images = CC(str(tmp_path)).images("test")
    assert (images.clean is not None, images.noisy is not None) == (True, True)
    for name, clean, noisy in zip(images.names, images.clean or [], images.noisy or [], strict=True):
        np.testing.assert_array_equal(clean, planes(stored[f"{name}_mean.png"]))
        np.testing.assert_array_equal(noisy, planes(stored[f"{name}_real.png"]))


def test_blocks_of_sidd_come_from_images_or_from_mat_files(tmp_path: Path) -> None:
    noisy = written(tmp_path / "one/SIDD_Val/noisy", ["0_1.png", "3_0.png"])
    clean = written(tmp_path / "one/SIDD_Val/GT", ["0_1.png", "3_0.png"])
    images = SIDD(str(tmp_path / "one")).images("test")
    assert images.names == ["0_1", "3_0"]
    np.testing.assert_array_equal((images.noisy or [])[1], planes(noisy["3_0.png"]))
    np.testing.assert_array_equal((images.clean or [])[1], planes(clean["3_0.png"]))
    random = np.random.default_rng(0)
    blocks = {kind: random.integers(0, 256, (2, 32, 4, 4, 3), dtype=np.uint8) for kind in ("Noisy", "Gt")}
    for kind, array in blocks.items():
        savemat(tmp_path / f"Validation{kind}BlocksSrgb.mat", {f"Validation{kind}BlocksSrgb": array})
    images = SIDD(str(tmp_path)).images("validation")
    assert (len(images.names), images.names[33]) == (64, "1_1")
    np.testing.assert_array_equal((images.noisy or [])[33], planes(blocks["Noisy"][1, 1]))
    np.testing.assert_array_equal((images.clean or [])[33], planes(blocks["Gt"][1, 1]))
    savemat(tmp_path / "BenchmarkNoisyBlocksSrgb.mat", {"BenchmarkNoisyBlocksSrgb": blocks["Noisy"]})
    assert SIDDBenchmark(str(tmp_path)).images("test").clean is None


def test_sidd_medium_is_read_with_and_without_its_ground_truth(tmp_path: Path) -> None:
    folder = tmp_path / "SIDD_Medium_Srgb" / "Data"
    files = [f"000{i}_S6/000{i}_{kind}_SRGB_01{j}.PNG" for i in (1, 2) for j in (0, 1) for kind in ("NOISY", "GT")]
    stored = written(folder, files)
    images = SIDD(str(tmp_path)).images("training")
    for name, clean, noisy in zip(images.names, images.clean or [], images.noisy or [], strict=True):
        np.testing.assert_array_equal(noisy, planes(stored[f"{name}.PNG"]))
        np.testing.assert_array_equal(clean, planes(stored[f"{name}.PNG".replace("NOISY", "GT")]))
    alone = SIDD(str(tmp_path), ground_truth=False).images("training")
    assert (len(alone.names), alone.clean) == (4, None)
    (folder / files[0]).unlink()
    with pytest.raises(ValueError, match=r"0001_S6/0001_GT_SRGB_010 has a clean image but no noisy counterpart"):
        SIDD(str(tmp_path)).images("training")


def test_microscopes_test_and_train_on_other_fields_of_view(tmp_path: Path) -> None:
    stored = written(tmp_path / "FMD", [f"Cells/raw/{fov}/{i}.png" for fov in (1, 19) for i in range(3)], colour=False)
    stored |= written(tmp_path / "FMD", ["Cells/gt/1/avg50.png", "Cells/gt/19/avg50.png"], colour=False)
    stored |= written(tmp_path / "FMD", ["test_mix/raw/a.png", "test_mix/gt/a.png"], colour=False)
    training = FMD(str(tmp_path), captures=2).images("training")
    assert training.names == ["Cells/raw/1/0", "Cells/raw/1/1"]
    np.testing.assert_array_equal((training.clean or [])[1], planes(stored["Cells/gt/1/avg50.png"]))
    test = FMD(str(tmp_path)).images("test")
    np.testing.assert_array_equal((test.noisy or [])[0], planes(stored["test_mix/raw/a.png"]))
    (tmp_path / "FMD/Cells/gt/1/avg50.png").unlink()
    with pytest.raises(ValueError, match=r"raw/1 has no ground truth"):
        FMD(str(tmp_path)).images("training")


def test_crops_of_dnd_have_no_ground_truth(tmp_path: Path) -> None:
    written(tmp_path / "DND" / "png_srgb", ["0001_01.png", "0001_02.png"])
    images = DND(str(tmp_path)).images("test")
    assert (images.names, images.clean) == (["0001_01", "0001_02"], None)


def test_crops_of_dnd_are_cut_out_of_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are 1-based and include their last row and column."""
    (tmp_path / "DND" / "dnd_2017" / "images_srgb").mkdir(parents=True)
    photographs = np.random.default_rng(0).random((2, 6, 8, 3))
    monkeypatch.setattr(camera_pairs, "read_cells", lambda path, key: [np.array([[1, 1, 4, 4], [3, 5, 6, 8.0]])] * 2)
    monkeypatch.setattr(camera_pairs, "read_mat", lambda path, key: photographs[int(path.stem) - 1])
    images = DND(str(tmp_path)).images("test")
    assert images.names == ["0001_01", "0001_02", "0002_01", "0002_02"]
    assert (images.clean, images.data_range) == (None, 1)
    np.testing.assert_array_equal((images.noisy or [])[3], photographs[1, 2:6, 4:8].transpose(2, 0, 1).astype("f4"))
    monkeypatch.setattr(camera_pairs, "read_cells", lambda path, key: [np.ones((4, 20))])
    with pytest.raises(ValueError, match=r"info.mat has boxes of shape \[4, 20\] for a photograph, not \[20, 4\]"):
        DND(str(tmp_path)).images("test")
