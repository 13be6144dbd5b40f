"""Each configuration for one's own data and models runs, on a few small images and small networks made here."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import train
from tests.datamodules.image_folders import photograph, save, shades

CPU = ["--trainer.accelerator", "cpu", "--data.num_workers", "0"]
SIZE = 16


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional U-Net of 16 x 16 colour images, as diffusers saves it."""
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
        assert np.abs(after - before)[:, 12:].mean() > 12  # the prior is random


def test_restoration_enlarges_fourfold(prior: Path, tmp_path: Path) -> None:
    save(tmp_path / "photographs" / "a.png", photograph(SIZE // 4, SIZE // 4))
    assert restored("restoration", prior, tmp_path) == 0
    assert Image.open(tmp_path / "run" / "restored" / "a.png").size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("config", "image", "message"),
    [
        ("inpainting", photograph(SIZE, 15), "height and width are multiples of 2, but these have 15 x 16 pixels"),
        ("restoration", photograph(4, 4).convert("L"), "takes images with 3 channels, but these have 1"),
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
