"""The command line from the user's perspective: its output files, and its errors for invalid input."""

import copy
import csv
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image

import train
from experiments.calls.build import build
from experiments.calls.parse import parse
from experiments.load_run import load_run
from experiments.parsing.parser import Parser
from experiments.results import read_test_metrics
from experiments.run_directory import check_checkpoint, read_checkpoint

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
DEMO = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "2", *QUIET)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    assert train.main([*DEMO, "--run_directory", str(directory), "--test_after_fit", "true"]) == 0
    return directory


def test_a_run_leaves_its_results_in_its_directory(finished: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "test_metrics.csv", "labels.csv", "early_learning.csv"):
        assert (finished / name).is_file(), name
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "figures/early_learning.png", "tensorboard"):
        assert (finished / name).exists(), name
    rows = list(csv.DictReader((finished / "metrics.csv").open()))
    assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert not list(finished.rglob("*.tmp"))


def test_a_copy_of_a_module_holds_neither_trainer_nor_data(tmp_path: Path) -> None:
    line = build(parse([*DEMO, "--run_directory", str(tmp_path)]), runs=False)
    held: dict[int, object] = {}
    copy.deepcopy(line.model, held)
    assert not any(isinstance(each, type(line.trainer) | type(line.datamodule)) for each in held.values())


OWN_IMAGES = """
seed_everything: 0
model:
  class_path: lightning_modules.baselines.CrossEntropy
  init_args:
    network: {class_path: lightning_modules.networks.cifar_resnet.CIFARResNet, init_args: {depth: 8, num_classes: 2}}
    num_classes: 2
data:
  class_path: datamodules.classification.labelled_images.LabelledImages
  init_args:
    images: {class_path: datamodules.classification.folder_sets.ImageFolder, init_args: {image_size: 8, resize: 8}}
    batch_size: 2
    loading: {num_workers: 0}
checkpoint: {test_checkpoint: last}
trainer: {max_epochs: 1, accelerator: cpu}
"""


def test_a_missing_test_set_is_told_before_the_training_that_a_test_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "own" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "own" / "train" / name / "a.png")
    (tmp_path / "own.yaml").write_text(OWN_IMAGES)
    fit = ["fit", "--config", str(tmp_path / "own.yaml"), "--data.images.data_dir", str(tmp_path / "own"), *QUIET]
    assert train.main([*fit, "--run_directory", str(tmp_path / "tested"), "--test_after_fit", "true"]) == 1
    assert "own has neither test/<class>/<image> nor val/<class>/<image>" in capsys.readouterr().err
    assert not list((tmp_path / "tested").glob("checkpoints/*"))
    assert train.main([*fit, "--run_directory", str(tmp_path / "untested")]) == 0


def test_test_and_predict_continue_in_the_run_directory(finished: Path) -> None:
    before = (finished / "test_metrics.csv").read_text()
    rows = (finished / "metrics.csv").read_text()
    assert train.main(["test", "--resume", str(finished), *QUIET]) == 0
    assert (finished / "test_metrics.csv").read_text() == before
    assert not list(finished.glob("test_metrics_*.csv"))
    assert (finished / "metrics.csv").read_text().startswith(rows)
    assert train.main(["predict", "--resume", str(finished), *QUIET]) == 0
    table = pd.read_parquet(finished / "predictions.parquet")
    assert table["index"].tolist() == list(range(497))
    model, data = load_run(finished)
    data.setup("test")
    image = data.test_set.source.image[:5].float() / 16
    expected = model(image).softmax(dim=1).detach()
    actual = torch.tensor(table.filter(like="probability_").to_numpy()[:5])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_checkpoint_of_another_class_or_shape_is_refused(finished: Path) -> None:
    model, _ = load_run(finished)
    path = finished / "checkpoints" / "last.ckpt"
    model.network = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"network\.weight is missing"):
        check_checkpoint(path, model)
    other = ["test", "--config", "configs/elr/demo_baseline.yaml", "--ckpt_path", str(path)]
    assert train.main([*other, "--run_directory", str(finished.parent / "other"), *QUIET]) == 1


BAD_INPUT = {
    "unknown key": (["--model.strenght", "3"], "did you mean strength"),
    "unknown key inside": (["--data.label_noise.noise_rat", "0.5"], "did you mean noise_rate? It accepts noise_rate"),
    "abbreviated key": (["--trainer.max_epoch", "3"], "did you mean --trainer.max_epochs?"),
    "overfitting": (["--trainer.overfit_batches", "1"], "trainer.overfit_batches is not supported"),
    "averages that are lost": (
        ["--trainer.callbacks+", "{class_path: StochasticWeightAveraging, init_args: {swa_lrs: 0.1}}"],
        "StochasticWeightAveraging does not put its average into",
    ),
    "missing class": (
        ["--model", "lightning_modules.noisy_labels.elr.ERL"],
        "model: there is no class lightning_modules.noisy_labels.elr.ERL; did you mean lightning_modules.noisy_labels",
    ),
    "key of the last callback": (
        ["--trainer.callbacks+=callbacks.labels.Memorization", "--trainer.callbacks.foo", "1"],
        "'callbacks.labels.Memorization': Option 'foo' is not accepted. It accepts none",
    ),
    "missing config": (["--config", "configs/elr/dmeo.yaml"], "; did you mean configs/elr/demo.yaml?"),
    "another suffix": (["--config", "configs/elr/demo.yml"], "; did you mean configs/elr/demo.yaml?"),
    "claim for config": (["--config", "configs/elr/claim.yaml"], "configs/elr/claim.yaml is not a configuration"),
    "no devices": (["--trainer.accelerator", "tpu"], "error: "),
    "best without validation": (
        ["--data.split.validation_fraction", "0"],
        "checkpoint.monitor is val/accuracy, but there are no validation samples",
    ),
    "batch larger than the set": (["--data.batch_size", "2000"], "batch_size is 2000, more than the 1170 samples"),
    "number of classes": (["--model.num_classes", "7"], "model.num_classes is 7, but LabelledImages has 10 classes"),
    "network's input": (["--model.network.in_features", "65"], "does not accept images of shape [1, 8, 8]"),
    "network's output": (["--model.network.out_features", "9"], "outputs 9 logits, but model.num_classes is 10"),
    "sampler": (["--trainer.use_distributed_sampler", "true"], "use_distributed_sampler must be false"),
    "missing monitor": (["--checkpoint.monitor", "null"], "checkpoint.monitor must name a metric"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*DEMO, "--run_directory", str(tmp_path), *arguments]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "checkpoints").exists()


def test_a_logger_that_needs_a_folder_has_the_run_directory(tmp_path: Path) -> None:
    for given, place in ((["--trainer.logger.save_dir", str(tmp_path)], tmp_path), ([], tmp_path / "run")):
        options = ["--trainer.logger", "CSVLogger", *given, "--run_directory", str(tmp_path / "run")]
        line = build(parse([*DEMO, *options]), runs=False)
        assert [each.save_dir for each in line.trainer.loggers if type(each).__name__ == "CSVLogger"] == [str(place)]


def test_channels_that_differ_are_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = ["fit", "--config", "configs/supervised_restoration/demo.yaml", "--run_directory", str(tmp_path), *QUIET]
    assert train.main([*demo, "--model.network.channels", "3"]) == 1
    error = capsys.readouterr().err
    assert "DnCNN does not accept the images of data.training, which have 1 channels" in error
    assert "model.network.channels 1" in error
    assert "data.training.colour true" in error


def test_an_empty_or_broken_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in {"empty.yaml": "", "broken.yaml": "model: [1\ndata: 2"}.items():
        (tmp_path / name).write_text(text)
        assert train.main(["fit", "--config", str(tmp_path / name)]) == 1
        assert f"error: {tmp_path / name} is n" in capsys.readouterr().err
    (tmp_path / "latin.yaml").write_bytes("model: Gauß".encode("latin-1"))
    assert train.main(["fit", "--config", str(tmp_path / "latin.yaml")]) == 1
    assert f"error: {tmp_path / 'latin.yaml'} is not a text in UTF-8" in capsys.readouterr().err


def test_a_trained_run_is_not_trained_over(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert train.main([*DEMO, "--run_directory", str(finished)]) == 1
    assert f"contains a trained run: resume it with --resume {finished}" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before if path.name != "traceback.txt"} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data.label_noise.noise_rate", "0.2"], "data.label_noise.noise_rate 0.4, and cannot be resumed with 0.2"),
        (["--model.strength", "1.0"], "model.strength 3.0, and cannot be resumed with 1.0"),
        (["--seed_everything", "5"], "seed_everything 0, and cannot be resumed with 5"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    change: list[str], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "config.yaml").read_bytes()
    assert train.main(["fit", "--resume", str(finished), *change]) == 1
    assert message in capsys.readouterr().err
    assert (finished / "config.yaml").read_bytes() == before


def test_the_settings_of_a_prediction_are_recorded_beside_those_of_the_run(finished: Path, tmp_path: Path) -> None:
    run, picture = shutil.copytree(finished, tmp_path / "run"), tmp_path / "7.png"
    Image.new("L", (9, 9), 70).save(picture)
    before = (run / "config.yaml").read_bytes()
    assert train.main(["predict", "--resume", str(run), "--data.predict_dir", str(picture)]) == 0
    assert (run / "config.yaml").read_bytes() == before
    text = (run / "predict.yaml").read_text()
    assert text.startswith("# environment: ")
    recorded = yaml.safe_load(text)
    assert recorded["data"]["init_args"]["predict_dir"] == str(picture)
    assert recorded["ckpt_path"] == str(run / "checkpoints" / "last.ckpt")


def test_a_class_that_only_the_run_names_is_not_imported_to_compare(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another model on the command line, the model of `config.yaml` is not parsed, and so not checked."""
    run = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Network: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    model = yaml.safe_dump(settings["model"])
    settings["model"] = {"class_path": "evil.Network"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert train.main(["fit", "--resume", str(run), "--model", model]) == 1
    assert not (tmp_path / "imported").exists()


def test_a_later_test_adds_metrics_and_changes_none(finished: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(finished, tmp_path / "run")
    table = directory / "test_metrics.csv"
    first = read_test_metrics(table)
    assert any(name.startswith("best_epoch/") for name in first)
    report = ("--config", "configs/callbacks/label_report.yaml")
    assert train.main(["test", "--resume", str(directory), *report, *QUIET]) == 0
    second = read_test_metrics(table)
    assert first.items() <= second.items()
    assert any(name.startswith("test/label_") for name in second.keys() - first.keys())
    assert train.main(["test", "--resume", str(directory), "--trainer.limit_test_batches", "0.5", *QUIET]) == 0
    assert read_test_metrics(table) == second
    [other] = directory.glob("test_metrics_*.csv")
    assert read_test_metrics(other)["test/accuracy"] != second["test/accuracy"]


def test_a_test_of_a_run_may_write_elsewhere(finished: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    elsewhere = ("--run_directory", str(tmp_path / "elsewhere"))
    assert train.main(["test", "--resume", str(finished), *elsewhere, *QUIET]) == 0
    assert train.main(["predict", "--resume", str(finished), *elsewhere, *QUIET]) == 0
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    first = read_test_metrics(finished / "test_metrics.csv")
    assert read_test_metrics(tmp_path / "elsewhere/test_metrics.csv").items() <= first.items()
    assert (tmp_path / "elsewhere/predictions.parquet").is_file()


def test_training_goes_on_in_its_own_directory(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["fit", "--resume", str(finished), "--run_directory", str(tmp_path / "elsewhere")]) == 1
    assert f"--resume {finished} continues in that directory" in capsys.readouterr().err


def test_no_seed_leaves_the_data_their_own(tmp_path: Path) -> None:
    line = build(parse([*DEMO, "--run_directory", str(tmp_path), "--seed_everything", "false"]), runs=False)
    assert line.parsed.settings.data.init_args.loading.seed is None


def test_null_is_none_for_a_class_within_a_class() -> None:
    parser = Parser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    folder = "datamodules.classification.folder_sets.ImageFolder"
    options = {"": "datamodules.classification.labelled_images.LabelledImages", ".images": folder}
    options |= {".images.data_dir": "folder", ".images.min_area": "null", ".batch_size": "2"}
    data = parser.parse_args([f"--data{name}={value}" for name, value in options.items()]).data
    assert data.init_args.images.init_args.min_area is None


def test_unwritable_run_directory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*DEMO, "--run_directory", "/proc/nowhere"]) == 1
    assert "the run directory /proc/nowhere cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_one_sentence_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a small disk")
    try:
        assert train.main([*DEMO, "--run_directory", str(tmp_path / "run")]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert "could not be written" in error or "No space left on device" in error
        for checkpoint in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
            read_checkpoint(checkpoint)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_accumulated_gradients_are_one_step_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = [*DEMO, "--trainer.max_epochs", "1", "--run_directory", str(tmp_path)]
    assert train.main([*arguments, "--trainer.accumulate_grad_batches", "3"]) == 0
    assert "makes an optimizer step of 384 samples: the global batch size is 128" in caplog.text
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4  # an epoch has 10 batches


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*DEMO, "--run_directory", str(tmp_path)]) == 0
    good = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    arguments = ["fit", "--resume", str(tmp_path), "--trainer.max_epochs", "4", *QUIET]
    poisoned = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    poisoned["state_dict"]["network.layers.0.bias"][:] = float("nan")
    torch.save(poisoned, tmp_path / "poisoned.ckpt")
    assert train.main([*arguments, "--ckpt_path", str(tmp_path / "poisoned.ckpt")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the training loss became nan at step 20 (epoch 2, batch 0) on 128 samples with index" in error
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == good


def test_a_start_that_fails_keeps_results_that_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing noise pairs or features may have taken days before the first batch."""

    def made_and_failed(module: LightningModule) -> None:
        Path(module.trainer.log_dir, "pairs.npz").write_text("days of work")  # type: ignore[arg-type]
        raise ValueError("no room for the model")

    monkeypatch.setattr("lightning_modules.noisy_labels.elr.ELR.on_fit_start", made_and_failed)
    assert train.main([*DEMO, "--run_directory", str(tmp_path / "run")]) == 1
    assert (tmp_path / "run" / "pairs.npz").read_text() == "days of work"
