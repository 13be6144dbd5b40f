"""Testing or predicting with untrained weights is rejected, unless it is explicitly requested."""

from pathlib import Path

import pytest

import train

TEST = [
    "test",
    "--config",
    "configs/elr/demo.yaml",
    "--data.num_workers",
    "0",
    "--trainer.enable_progress_bar",
    "false",
]


@pytest.mark.parametrize("subcommand", ["test", "predict", "validate"])
def test_initial_weights_are_refused(subcommand: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    assert train.main([subcommand, *TEST[1:], "--run_directory", str(directory)]) == 1
    message = capsys.readouterr().err
    assert f"{subcommand} would use initial weights of ELR" in message
    assert "--ckpt_path none to confirm" in message
    assert not directory.exists()  # it would contain only a traceback


@pytest.mark.parametrize("meant", [["--ckpt_path", "none"], ["--trainer.fast_dev_run", "true"]])
def test_what_is_meant_is_done(meant: list[str], tmp_path: Path) -> None:
    assert train.main([*TEST, *meant, "--run_directory", str(tmp_path / "run")]) == 0


def test_pretrained_weights_are_recognised() -> None:
    from experiments.command_line import _names_weights

    network = {"class_path": "lightning_modules.backbones.timm_model", "init_args": {"name": "a", "pretrained": True}}
    assert _names_weights({"init_args": {"network": network}})
    assert _names_weights({"init_args": {"networks": [{"init_args": {"path": "weights.pt"}}]}})
    assert not _names_weights({"init_args": {"network": {"init_args": {"pretrained": False, "weights": None}}}})
