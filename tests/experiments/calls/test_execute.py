"""A run is made by three calls, from Python as on the command line: parse, build, execute."""

from argparse import ArgumentError
from pathlib import Path

import pytest
import torch

from experiments.calls.build import BuiltRun, build
from experiments.calls.execute import execute
from experiments.calls.parse import Parsed, parse

DEMO = ("--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


def parsed_in(place: Path, *more: str) -> Parsed:
    return parse(["fit", *DEMO, *QUIET, "--run_directory", str(place), *more])


def test_parsing_neither_builds_nor_writes_nor_changes_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    parsed = parsed_in(tmp_path / "run", "--seed_everything", "5")
    assert torch.equal(torch.get_rng_state(), before)
    assert parsed.settings.model.class_path == "lightning_modules.noisy_labels.elr.ELR"
    assert parsed.settings.seed_everything == 5
    assert (parsed.subcommand, parsed.resumed, parsed.folder.path) == ("fit", None, tmp_path / "run")
    assert not parsed.folder.path.exists()
    with pytest.raises(ArgumentError, match="strenght"):
        parsed_in(tmp_path / "run", "--model.strenght", "3")
    with pytest.raises(FileNotFoundError, match="cannot be resumed"):
        parse(["test", "--resume", str(tmp_path)])


def test_building_locks_the_directory_and_trains_nothing(tmp_path: Path) -> None:
    built: BuiltRun = build(parsed_in(tmp_path / "run"))
    assert built.trainer.global_step == 0
    assert type(built.model).__name__ == "ELR"
    assert built.parsed.folder.begun
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    with pytest.raises(
        ValueError, match=r"is in use by process \d+ on .*: wait for it to end, or set another --run_directory"
    ):
        build(parsed_in(tmp_path / "run"))
    built.parsed.folder.held.close()
    build(parsed_in(tmp_path / "run"), runs=False)  # takes no lock
    again = build(parsed_in(tmp_path / "run"))
    again.parsed.folder.held.close()


def test_executing_returns_the_metrics_and_releases_the_directory(tmp_path: Path) -> None:
    metrics = execute(build(parsed_in(tmp_path / "run", "--test_after_fit", "true")))
    assert {"train/loss", "val/accuracy", "test/accuracy"} <= metrics.keys()
    assert (tmp_path / "run/config.yaml").is_file()
    tested = execute(build(parse(["test", "--resume", str(tmp_path / "run"), *QUIET])))
    assert tested["test/accuracy"] == metrics["test/accuracy"]
    with pytest.raises(ValueError, match="contains a trained run"):
        build(parsed_in(tmp_path / "run"))
    assert execute(build(parse(["validate", "--resume", str(tmp_path / "run"), *QUIET]))).keys() >= {"val/accuracy"}
