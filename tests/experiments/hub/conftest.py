"""A user's run on a folder of images, with absolute paths in its settings, and the folder that `push` makes from it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from tests.datamodules.image_folders import photograph, save
from tests.experiments.hub.stand_in_hub import hub as hub  # a fixture

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def push(*arguments: object) -> int:
    """Run the command."""
    return train.main(["push", *map(str, arguments)])


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use a home folder that contains a Hub token, and none of the caches of this machine."""
    home = tmp_path_factory.mktemp("home") / "somebody"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_qwertyuiopasdfghjkl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def own_run(home: Path) -> Path:
    """Train a classifier on a folder of images for one epoch, in a directory of the home folder."""
    images = home / "my_images"
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                save(images / split / name / f"{number}.png", photograph(10, 10, 10 * label + number))
    network = {"class_path": "lightning_modules.networks.mlp.MLP"}
    network |= {"init_args": {"in_features": 192, "hidden_features": [4], "out_features": 2}}  # type: ignore[dict-item]
    settings = {
        "model": {
            "class_path": "lightning_modules.noisy_labels.elr.ELR",
            "init_args": {"network": network, "num_classes": 2},
        },
        "data": {
            "class_path": "datamodules.classification.labelled_images.LabelledImages",
            "init_args": {
                "images": {
                    "class_path": "datamodules.classification.folder_sets.ImageFolder",
                    "init_args": {"data_dir": str(images), "image_size": 8},
                },
                "batch_size": 4,
                "loading": {"num_workers": 0},
            },
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": str(home)},
        "checkpoint": {"test_checkpoint": "last"},
    }
    config, run = home / "own.yaml", home / "runs" / "own"
    config.write_text(json.dumps(settings))
    before = os.getcwd()
    os.chdir(home)
    try:
        given = ("fit", "--config", str(config), "--run_directory", str(run), "--test_after_fit", "true")
        assert train.main([*given, *QUIET]) == 0
    finally:
        os.chdir(before)
    save(run / "figures" / "early_learning.png", photograph(30, 20, 0))
    return run


@pytest.fixture(scope="session")
def pushed(own_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that `push` writes for `own_run`."""
    folder = tmp_path_factory.mktemp("pushed") / "cats"
    assert push(own_run, "--output", folder, "--license", "cc-by-4.0") == 0
    return folder
