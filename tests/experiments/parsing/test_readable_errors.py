"""Pipes, names in other encodings and a removed directory give one-line errors, and never block."""

import importlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train
from datamodules.files.image_files import image_names
from datamodules.restoration.noisy_folder import RawFolder
from experiments.parsing.readable_errors import readable

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
DEMO = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--trainer.max_epochs", "3", *QUIET)
ELR = ("fit", "--config", "configs/elr/demo.yaml", *QUIET)
LORA = ("fit", "--config", "configs/finetuning/lora.yaml")
LATIN = os.fsdecode(b"caf\xe9")
"""A name that is not valid UTF-8."""


@pytest.fixture(autouse=True)
def _nobody_waits() -> Iterator[None]:
    """Abort tests that wait forever for a pipe."""

    def end(*_: object) -> None:
        raise TimeoutError("the test waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path / "pipe.png"


def images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 100, dtype=np.uint8)).save(os.fsencode(folder / name))
    return folder


def test_pipes_and_devices_are_no_images(pipe: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "folder", "a.png")
    os.mkfifo(folder / "b.png")
    (folder / "c.png").symlink_to(pipe)
    (folder / "d.png").symlink_to("/dev/zero")
    (folder / "e.png").symlink_to(folder / "a.png")
    assert image_names(folder) == ["a.png"]
    os.mkfifo(folder / "f.dng")
    with pytest.raises(FileNotFoundError, match="holds no raw image"):
        RawFolder(str(folder))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "--resume", "{}"), "pipe.png/config.yaml does not exist"),
        (("test", "--resume", "{}"), "pipe.png/config.yaml does not exist"),
        ((*DEMO, "--ckpt_path", "{}"), "the checkpoint {} does not exist"),
        ((*DEMO, "--run_directory", "{}"), "the run directory {} cannot be written: File exists"),
        ((*DEMO, "--data.images", "datamodules.classification.cifar.CIFAR10", "--data.images.data_dir", "{}"),
         "data_dir {} is a file"),
        ((*DEMO, "--data.label_noise", "datamodules.corruptions.label_noise.FromCSV", "--data.label_noise.path", "{}"),
         "{} was not found: expected a CSV file"),
        (("predict", *DEMO[1:], "--ckpt_path", "none", "--data.predict_dir", "{}"), "{} is not a folder"),
        (("claim", "{}"), "claim file {} is not a file"),
        (("compare", "{}", "configs/elr/demo.yaml", "--seeds", "0"), "config {} is not a file"),
    ],
)  # fmt: skip
def test_a_pipe_in_place_of_a_file_is_one_line(
    arguments: tuple[str, ...], said: str, pipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.replace("{}", str(pipe)) for argument in arguments]
    if given[0] in ("fit", "predict") and "--resume" not in given and "--run_directory" not in given:
        given += ["--run_directory", str(tmp_path / "run")]
    assert train.main(given) in (1, 2)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert said.replace("{}", str(pipe)) in line


@pytest.mark.parametrize(
    "arguments",
    [
        (*DEMO, "--run_directory", "{}"),
        ("predict", *DEMO[1:], "--ckpt_path", "none", "--data.predict_dir", "{}"),
    ],
)
def test_a_name_in_another_encoding_is_one_line_before_the_work(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predicted: list[object] = []
    monkeypatch.setattr("callbacks.predictions.append_predictions", lambda *_: predicted.append(1))
    folder = images(tmp_path / "plain", f"{LATIN}.png") if "predict" in arguments else tmp_path / LATIN
    given = [argument.replace("{}", str(folder)) for argument in arguments]
    if "--run_directory" not in given:
        given += ["--run_directory", str(tmp_path / "run")]
    assert train.main(given) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "this name is not in UTF-8; rename it" in line
    assert not predicted


@pytest.mark.parametrize("keeps_writing", [False, True])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_whose_directory_is_removed_ends_by_one_line(
    epoch: int,
    keeps_writing: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "runs" / "run"

    def remove(callback: Any, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == epoch:
            shutil.rmtree(directory)
            if keeps_writing:  # like callbacks, which create missing folders
                (directory / "figures").mkdir(parents=True)

    monkeypatch.setattr("callbacks.guards.FiniteLoss.on_train_epoch_end", remove)
    assert train.main([*DEMO, "--run_directory", str(directory)]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert f"the run directory {directory} or files in it were removed during the run" in line
    assert not (directory / "checkpoints").exists()


def test_a_renamed_argument_is_named_as_it_is_called_now_where_the_class_has_it() -> None:
    def said(kind: str, option: str) -> str:
        importlib.import_module(f"datamodules.{kind.rpartition('.')[0]}")  # as the parser does
        error = f"class_path 'datamodules.{kind}': Option '{option}' is not accepted"
        return readable(ValueError(error)).partition("accepted")[2]

    assert said("restoration.image_pairs.ImagePairs", "brightest") == "; since version 0.2 it is data_range"
    assert said("restoration.photographs.Photographs", "brightest") == ". It accepts image_size, colour, tested"
    for kind, option, new in (
        ("restoration.image_pairs.ImagePairs", "patch_size", "patches.size"),
        ("video.clip_pairs.ClipPairs", "patch_size", "windows.size"),
        ("classification.labelled_images.LabelledImages", "folds", "split.folds"),
        ("classification.out_of_distribution.OutOfDistribution", "seed", "loading.seed"),
        ("tables.tables.Tables", "num_workers", "loading.num_workers"),
    ):
        assert said(kind, option) == f"; since version 0.2 it is {new}"


def test_of_alternative_classes_the_one_that_was_meant_gives_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (512, 512)).save(tmp_path / name)
    images = ("--data.images.data_dir", str(tmp_path), "--data.images.prompt", "a cat")
    own = ("--model.network.pipeline", str(tmp_path / "nowhere"), *images)
    assert train.main(["fit", "--config", "configs/finetuning/lora.yaml", *own]) != 0
    [message] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message.endswith("nowhere: expected a folder with model_index.json; correct the path")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit",), "fit.model; give a configuration: --config configs/elr/demo.yaml"),
        (("fit", "configs/elr/demo.yaml"), "put --config before a configuration: --config configs/elr/demo.yaml"),
        ((*ELR, "--model.optimizer", "torch.optim.Adm"), "no class torch.optim.Adm; did you mean torch.optim.Adam?"),
        ((*ELR, "--model.lamda", "3"), "Option 'lamda' is not accepted; did you mean strength?"),
        (
            (*ELR, "--data.shifted_tests", "[]"),
            "'shifted_tests' is not accepted; since version 0.2 it is ood_test_sets",
        ),
        ((*LORA, "--model.network.dtype", "bfloat16"), "not accepted; since version 0.2 it is weights.dtype"),
        ((*ELR, "--trainer.logger", "MLFlowLogger"), "`pip install -U 'mlflow>=1.0.0'`"),
    ],
)
def test_a_first_mistake_is_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--run_directory", str(tmp_path)) if "--config" in arguments else ()
    assert train.main([*arguments, *place]) in (1, 2)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
