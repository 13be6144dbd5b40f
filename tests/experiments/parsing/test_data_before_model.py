"""The configurations for a user's own data: classes are counted, and what the README says about them holds."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import train
from experiments.calls.parse import parse
from experiments.parsing.data_before_model import count_classes, with_placeholder
from tests.datamodules.image_folders import photograph, save, shades

SMALL = ("--data.images.image_size", "32", "--data.images.resize", "32", "--data.loading.num_workers", "0")
QUICK = ("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false")
TINY = ("--model.network.name", "test_resnet")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    shades(tmp_path / "own", "train", ["cat", "cow", "dog"])
    shades(tmp_path / "own", "test", ["cat", "cow", "dog"], per_class=2)
    return tmp_path / "own"


def test_classes_are_counted_and_predicted_by_the_starter(own: Path, tmp_path: Path) -> None:
    data, run = ("--data.images.data_dir", str(own)), str(tmp_path / "run")
    fit = ["fit", "--config", "configs/own_data/classes.yaml", "--config", "configs/callbacks/label_report.yaml"]
    small = ["--data.batch_size", "6", *data, *SMALL, *TINY, *QUICK, "--run_directory", run]
    assert train.main([*fit, *small, "--test_after_fit", "true"]) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init_args"]
    assert saved["num_classes"] == saved["network"]["init_args"]["num_classes"] == 3
    assert pd.read_csv(tmp_path / "run" / "label_report.csv")["in_sample"].eq(1).all()
    new = ["--data.predict_dir", str(own / "test"), "--trainer.accelerator", "cpu"]
    assert train.main(["predict", "--resume", run, *new]) == 0
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert table["name"].tolist()[:2] == ["cat/0.png", "cat/1.png"]
    assert table["label"].tolist() == [0, 0, 1, 1, 2, 2]


def test_images_without_classes_are_learned_from_by_the_starter(own: Path, tmp_path: Path) -> None:
    command = ["fit", "--config", "configs/own_data/images.yaml", "--data.images.data_dir", str(own), *SMALL, *QUICK]
    small = ["--model.view.size", "32", "--data.batch_size", "6", *TINY]
    assert train.main([*command, *small, "--run_directory", str(tmp_path / "run")]) == 0


def test_only_a_whole_word_is_a_placeholder() -> None:
    assert with_placeholder("a: {num_classes: auto, b: auto}") == "a: {num_classes: -1, b: auto}"
    assert with_placeholder("num_classes: automatic") == "num_classes: automatic"


def test_data_without_classes_are_refused(tmp_path: Path) -> None:
    parsed: Any = parse(["fit", "--config", "configs/elr/demo.yaml"]).settings
    parsed.model.init_args.num_classes = -1
    parsed.data = type(parsed)(class_path="lightning.pytorch.LightningDataModule", init_args=type(parsed)())
    with pytest.raises(ValueError, match=r"num_classes: auto needs data with a number of classes, but .* has none"):
        count_classes(parsed)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    named = ["--config", "configs/own_data/classes.yaml", "--data.images.data_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="auto finds one class in the data, cat, but a classifier needs at least two"):
        count_classes(parse(["fit", *named]).settings)


@pytest.mark.parametrize(
    ("config", "pipeline"),
    [
        ("finetuning/lora.yaml", "--model.network.pipeline"),
        ("one_more_step/stable_diffusion.yaml", "--model.model.pipeline"),
    ],
)
def test_missing_captions_are_reported_before_the_pipeline_is_loaded(
    config: str, pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shades(tmp_path, "mine", ["sks"])
    folder = ["--data.images.data_dir", str(tmp_path / "mine"), pipeline, str(tmp_path / "no_pipeline")]
    command = ["fit", "--config", f"configs/{config}", *folder, "--run_directory", str(tmp_path / "run")]
    assert train.main(command) == 1
    assert "captions, but the data have none" in capsys.readouterr().err
    assert train.main([*command, "--data.images.prompt", "a photo of sks"]) == 1
    assert "no_pipeline" in capsys.readouterr().err


def test_images_that_do_not_fit_are_reported_before_the_pipeline_is_loaded(
    text_to_image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        save(tmp_path / "mine" / f"{number}.png", photograph(40, 30 if number else 60, number))
    for part in ("vae", "unet"):  # everything else is missing, so loading fails
        (tmp_path / "pipeline" / part).mkdir(parents=True)
        shutil.copy(text_to_image / part / "config.json", tmp_path / "pipeline" / part)
    folder = ["--data.images.data_dir", str(tmp_path / "mine"), "--data.images.prompt", "sks"]
    command = ["fit", "--config", "configs/finetuning/lora.yaml", *folder, "--run_directory", str(tmp_path / "run")]
    command += ["--model.network.pipeline", str(tmp_path / "pipeline"), "--data.validation_fraction", "0"]
    buckets = ["--data.images.buckets.multiple", "8"]
    for more, message in (
        (["--data.images.image_size", "31"], "images of 31 x 31 pixels, but height and width must be multiples of 2"),
        (["--data.images.buckets.multiple", "3", "--data.images.image_size", "33"], "buckets.multiple is 3, but heig"),
        (["--data.images.image_size", "32", *buckets, "--trainer.devices", "2"], "has 1 training images, fewer than"),
        (["--data.images.image_size", "32", *buckets], "no pipeline in"),
    ):
        assert train.main([*command, *more]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "mine" / "0.png").write_bytes(b"no image")
    assert train.main([*command, "--data.images.image_size", "32"]) == 1
    assert "0.png cannot be read as an image" in capsys.readouterr().err
