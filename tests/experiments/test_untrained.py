"""Testing or predicting with untrained weights is rejected, unless it is explicitly requested."""

from pathlib import Path

import pytest
import torch

import train
from experiments.calls.build import build
from experiments.calls.execute import has_untrained_weights
from experiments.calls.parse import parse
from tests.command import ROOT

TEST = [
    "test",
    "--config",
    "configs/elr/demo.yaml",
    "--data.loading.num_workers",
    "0",
    "--trainer.enable_progress_bar",
    "false",
]
QUIET = TEST[3:]


def spec(class_path: str, arguments: str) -> str:
    return f"{{class_path: {class_path}, init_args: {{{arguments}}}}}"


MLP = spec("lightning_modules.networks.mlp.MLP", "in_features: 64, hidden_features: [512, 512], out_features: 10")


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


def refused(*arguments: str) -> bool:
    return has_untrained_weights(build(parse(["test", "--config", *arguments, *QUIET]), runs=False))


def test_weights_of_a_file_are_recognised_and_a_word_is_not(tmp_path: Path) -> None:
    """EDiffSR has an argument `weights: trained`, and a loaded network does not make another network trained."""
    digits, place = ROOT / "configs/elr/demo_baseline.yaml", ("--run_directory", str(tmp_path / "run"))
    plain = build(parse(["fit", "--config", str(digits), *place, *QUIET]), runs=False).model
    torch.save(plain.network.state_dict(), tmp_path / "network.pt")
    loaded = spec("lightning_modules.backbones.with_weights", f"path: {tmp_path}/network.pt, network: {MLP}")
    assert refused(str(ROOT / "configs/ediffsr/demo.yaml"), *place)
    assert refused(str(digits), *place)
    assert not refused(str(digits), *place, "--model.network", loaded)
    frozen = spec("lightning_modules.backbones.frozen", f"network: {loaded}")
    both = spec("torch.nn.ModuleList", f"modules: [{MLP}, {frozen}]")
    assert refused(str(digits), *place, "--model.network", both)
