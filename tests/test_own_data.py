"""Each configuration for a user's data and models runs on a few small images, with small networks from the tests."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

import train
from tests.datamodules.image_folders import photograph, save, shades

CPU = ["--trainer.accelerator", "cpu", "--data.loading.num_workers", "0"]
SIZE = 16


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an unconditional U-Net for 16 x 16 colour images in the diffusers layout."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=SIZE, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("prior")
    network.save_pretrained(folder)
    return folder


def restored(config: str, prior: Path, folder: Path, *more: str) -> int:
    line = ["predict", "--config", f"configs/own_data/{config}.yaml", "--data.predict_dir", str(folder / "photographs")]
    line += ["--model.network.name_or_path", str(prior), "--model.steps", "20", *CPU, *more]
    return train.main([*line, "--run_directory", str(folder / "run")])


def test_inpainting_keeps_what_the_mask_shows(prior: Path, tmp_path: Path) -> None:
    shown = np.zeros((SIZE, SIZE), np.uint8)
    shown[:, :12] = 255
    for number in range(2):
        save(tmp_path / "photographs" / f"{number}.png", photograph(SIZE, SIZE, number))
        save(tmp_path / "masks" / f"{number}.png", shown)
    masks = ("--data.operator.mask_dir", str(tmp_path / "masks"), "--model.steps", "200", "--model.strength", "0.01")
    assert restored("inpainting", prior, tmp_path, *masks) == 0
    for number in range(2):
        after, before = (
            np.asarray(Image.open(tmp_path / folder / f"{number}.png")).astype(int)
            for folder in ("run/restored", "photographs")
        )
        assert np.abs(after - before)[:, :12].mean() < 12
        assert np.abs(after - before)[:, 12:].mean() > 12  # the prior has random weights


def test_restoration_enlarges_fourfold(prior: Path, tmp_path: Path) -> None:
    save(tmp_path / "photographs" / "a.png", photograph(SIZE // 4, SIZE // 4))
    assert restored("restoration", prior, tmp_path) == 0
    assert Image.open(tmp_path / "run" / "restored" / "a.png").size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("config", "image", "message"),
    [
        ("inpainting", photograph(SIZE, 15), "height and width are multiples of 2, but the data have 15 x 16 pixels"),
        ("restoration", photograph(4, 4).convert("L"), "needs images with 3 channels, but the data have 1"),
    ],
)
def test_photographs_that_do_not_fit_the_prior_are_rejected(
    config: str, image: Image.Image, message: str, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "photographs" / "a.png", image)
    save(tmp_path / "masks" / "a.png", np.full((image.height, image.width), 255, np.uint8))
    masks = ("--data.operator.mask_dir", str(tmp_path / "masks")) if config == "inpainting" else ()
    assert restored(config, prior, tmp_path, *masks) == 1
    assert re.search(rf"^error: model\.network .*{message}", capsys.readouterr().err, re.MULTILINE)


def certified(folder: Path, *more: str) -> int:
    line = ["test", "--config", "configs/own_data/certified_checkpoint.yaml"]
    line += ["--config", "configs/callbacks/certification.yaml", "--data.images.data_dir", str(folder), *CPU]
    line += ["--trainer.callbacks.mode.n", "50", "--trainer.callbacks.mode.n0", "10", "--trainer.callbacks.skip", "4"]
    return train.main([*line, "--data.images.image_size", "32", "--run_directory", str(folder / "run"), *more])


def test_a_timm_checkpoint_is_certified_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    for split in ("train", "test"):
        shades(tmp_path, split, ["cat", "dog"], per_class=4)
    network = timm.create_model("test_resnet", num_classes=2)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    model = ("--model.network.name", "test_resnet", "--model.network.weights", str(tmp_path / "mine.pth"))
    assert certified(tmp_path, *model) == 0
    table = pd.read_csv(tmp_path / "run" / "certification.csv")
    assert len(table) == 2
    assert certified(tmp_path, *model[:2], "--run_directory", str(tmp_path / "no")) == 1
    assert "would use initial weights" in capsys.readouterr().err


def test_a_torch_checkpoint_is_certified_without_training(tmp_path: Path) -> None:
    for split in ("train", "test"):
        shades(tmp_path, split, ["cat", "dog"], per_class=4)
    network = {
        "class_path": "lightning_modules.networks.mlp.MLP",
        "init_args": {"in_features": 3 * 32 * 32, "hidden_features": [8], "out_features": 2},
    }
    from lightning_modules.networks.mlp import MLP

    torch.save({"state_dict": MLP(3 * 32 * 32, [8], 2).state_dict()}, tmp_path / "mine.pth")
    normalized = {
        "class_path": "lightning_modules.backbones.Normalized",
        "init_args": {"network": network, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    whole = {
        "class_path": "lightning_modules.backbones.with_weights",
        "init_args": {"path": str(tmp_path / "mine.pth"), "network": normalized},
    }
    assert certified(tmp_path, "--model.network", json.dumps(whole)) == 0
    assert (tmp_path / "run" / "certification.csv").is_file()


GAINS = {"iso100": 0.5, "iso200": 1.0, "iso400": 2.0}
BLACK, WHITE, READ = 64, 4095, 3.0


def raw(
    path: Path, electrons: float, gain: float, numbers: np.random.Generator, size: tuple[int, int] = (64, 96)
) -> None:
    """Write a Bayer frame D = K Poisson(electrons) + N(0, (READ K)^2) + row offset with deviation READ K / 2."""
    rows = numbers.normal(0, READ * gain / 2, (size[0], 1))
    values = BLACK + gain * numbers.poisson(electrons, size) + numbers.normal(0, READ * gain, size) + rows
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, bayer=values.round().clip(0, WHITE).astype(np.uint16), black=BLACK, white=WHITE, pattern="RGGB")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(0)
    for name, gain in GAINS.items():
        for number in range(4):
            raw(tmp_path / "frames" / name / "dark" / f"{number}.npz", 0, gain, numbers)
            for electrons in (200, 800, 1600):
                raw(tmp_path / "frames" / name / "flat" / str(electrons) / f"{number}.npz", electrons, gain, numbers)
    return tmp_path / "frames"


def test_a_cameras_noise_is_calibrated_and_its_photographs_are_denoised(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datamodules.corruptions.image_noise.camera import camera

    own = tmp_path / "camera.yaml"
    assert train.main(["calibrate_camera", str(frames), "--output", str(own)]) == 0
    assert capsys.readouterr().out.count("iso200: K ") == 2
    measured = own.read_bytes()
    corrected = measured.replace(b"gain: [", b"gain: [0.1, 9.0] # [")
    for edited, status, said in ((measured, 0, ""), (corrected, 2, "perhaps corrected by hand: rename it")):
        own.write_bytes(edited)  # a file that was corrected by hand is kept
        assert train.main(["calibrate_camera", str(frames), "--output", str(own)]) == status
        assert said in capsys.readouterr().err
        assert own.read_bytes() == edited
    own.write_bytes(measured)
    found = camera(str(own))
    assert found.levels == WHITE - BLACK
    assert found.gain == pytest.approx((0.5, 2.0), rel=0.05)
    slope, intercept, spread = found.gaussian
    assert (slope, intercept) == pytest.approx((1, np.log(READ * 1.25**0.5)), abs=0.1)
    assert found.row[1] == pytest.approx(np.log(READ / 2), abs=0.3)
    assert spread < 0.2

    raw(tmp_path / "photographs" / "night.npz", 10, 1.0, np.random.default_rng(1))
    line = ["fit", "--config", "configs/own_data/camera.yaml", "--data.noise.camera", str(own)]
    line += ["--data.test_noise.camera", str(own), "--data.patches.size", "32", "--data.patches.per_image", "4", *CPU]
    assert train.main([*line, "--run_directory", str(tmp_path / "run")]) == 0
    predict = ["predict", "--resume", str(tmp_path / "run"), "--data.predict_dir", str(tmp_path / "photographs")]
    assert train.main([*predict, "--data.predict_ratio", "10"]) == 0
    assert [path.stem for path in (tmp_path / "run" / "restored").iterdir()] == ["night"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "iso400"), "has 2 folders of gains, but a calibration needs at least 3"),
        (lambda folder: (folder / "iso100/dark/0.npz").rename(folder / "iso100/dark/0.txt"), ""),
        (lambda folder: shutil.rmtree(folder / "iso100/dark"), "iso100/dark has 0 raw images, expected at least 2"),
        (
            lambda folder: raw(folder / "iso200/dark/1.npz", 0, 0.0, np.random.default_rng(0)),
            "dark has a frame in which all values are equal",
        ),
        (lambda folder: raw(folder / "iso200/flat/200/0.npz", 1e5, 1.0, np.random.default_rng(0)), "are saturated"),
        (
            lambda folder: raw(folder / "iso400/flat/200/0.npz", 9, 1.0, np.random.default_rng(0), (32, 96)),
            r"0.npz has the size \(32, 96\), but other frames have \(64, 96\)",
        ),
        (lambda folder: (folder / "iso100/dark/0.npz").write_bytes(b"PK"), "0.npz lacks bayer"),
    ],
)
def test_frames_that_cannot_be_calibrated_are_named(
    damage: Callable[[Path], object], message: str, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(frames)
    own = tmp_path / "camera.yaml"
    assert train.main(["calibrate_camera", str(frames), "--output", str(own)]) == (2 if message else 0)
    assert own.exists() == (not message)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_one_file_of_a_microscope_is_trained_on_and_denoised(dtype: type, tmp_path: Path) -> None:
    """The commands of docs/choose_a_denoiser.md, on a stack of two slices and two channels with 12 bits or float32."""
    stored = np.random.default_rng(0).uniform(0, 4095, (2, 2, 40, 48)).astype(dtype)
    tifffile.imwrite(file := tmp_path / "one.tif", stored, imagej=True, metadata={"axes": "ZCYX"})
    line = ["fit", "--config", "configs/own_data/noise2void.yaml", "--data.training.noisy_dir", str(file), *CPU]
    line += ["--data.training.data_range", "4095", "--run_directory", str(tmp_path / "run")]
    line += ["--trainer.max_steps", "2", "--data.patches.size", "24", "--trainer.enable_progress_bar", "false"]
    assert train.main(line) == 0
    line = ["predict", "--resume", str(tmp_path / "run"), "--data.predict_dir", str(file), "--data.data_range", "4095"]
    assert train.main(line) == 0
    with tifffile.TiffFile(tmp_path / "run" / "restored" / "one.tif") as found:
        assert (found.series[0].shape, found.series[0].axes, found.series[0].dtype) == (stored.shape, "ZCYX", dtype)
        assert found.is_imagej
