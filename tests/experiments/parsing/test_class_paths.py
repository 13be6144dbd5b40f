"""A configuration can run no code except the classes that the types of its arguments allow."""

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse._util import import_object

import train
from experiments.launching.dry_run import errors_of
from experiments.load_run import load_run
from experiments.parsing.class_paths import check_class_paths
from experiments.strangers import known_imports
from tests.command import ROOT

COMMAND = "{class_path: NAME, init_args: {command: touch MADE}}"
PICKLE = "{class_path: pandas.read_pickle, init_args: {filepath_or_buffer: MADE}}"
LAMBDA = "{class_path: torch.optim.lr_scheduler.LambdaLR, init_args: {lr_lambda: %s}}"
FROZEN = "{class_path: lightning_modules.backbones.frozen, init_args: {network: %s}}"
HOOKS = "{class_path: lightning.pytorch.callbacks.LambdaCallback, init_args: {setup: os.system}}"
ATTACKS = {
    "optimizer": ("--model.optimizer", COMMAND.replace("NAME", "os.system")),
    "another name of it": ("--model.optimizer", COMMAND.replace("NAME", "torch.os.system")),
    "a string": ("--model.optimizer", "os.system"),
    "a function of an optimizer's callable": ("--model.optimizer", PICKLE),
    "a string of another library": ("--model.optimizer", "torch.hub.load"),
    "schedule": ("--model.lr_scheduler", PICKLE),
    "a callable within a callable": ("--model.lr_scheduler", LAMBDA % PICKLE),
    "network": ("--model.network", PICKLE),
    "network of a factory": ("--model.network", FROZEN % PICKLE),
    "data set": ("--data.images", PICKLE),
    "noise": ("--data.label_noise", PICKLE),
    "a guard": ("--guards.finite_loss", PICKLE),
    "callback": ("--trainer.callbacks+", PICKLE),
    "a function of a callback": ("--trainer.callbacks+", HOOKS),
    "logger": ("--trainer.logger", PICKLE),
    "a list of loggers": ("--trainer.logger", f"[{PICKLE}]"),
    "plugins": ("--trainer.plugins", f"[{PICKLE}]"),
}


def test_what_is_no_class_of_the_arguments_type_is_refused_and_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr("pandas.read_pickle", lambda filepath_or_buffer: called.append(filepath_or_buffer))
    demo = ["--config", "configs/elr/demo.yaml"]
    errors = errors_of([[*demo, key, value.replace("MADE", str(tmp_path / "made"))] for key, value in ATTACKS.values()])
    for name, error in zip(ATTACKS, errors, strict=True):
        assert error, name
        assert "\n" not in error, name
        assert any(each in error for each in ("is rejected", "does not", "to be a function")), (name, error)
    assert not called
    assert not (tmp_path / "made").exists()


def test_a_strangers_run_directory_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    config = yaml.safe_load(Path("configs/elr/demo.yaml").read_text())
    config["model"]["init_args"]["optimizer"] = yaml.safe_load(COMMAND.replace("NAME", "os.system"))
    directory.mkdir()
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    for subcommand in ("fit", "test", "predict"):
        assert train.main([subcommand, "--resume", str(directory)]) == 2
        assert "model.optimizer: " in (error := capsys.readouterr().err)
        assert "os.system is rejected: configurations may not name what is in os" in error
    with pytest.raises(Exception, match=r"os\.system"):
        load_run(directory)
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "config.yaml"}


def test_an_argument_without_a_type_takes_no_class() -> None:
    spec = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1}}
    for hint in (object, dict[str, int]):
        with pytest.raises(TypeError, match=r"torch\.nn\.Linear is rejected: its type allows none"):
            check_class_paths("anything", hint, [spec])


def test_functions_that_say_what_they_return_are_taken() -> None:
    mine = [
        *("--model.optimizer", "lightning_modules.optim.optimizers.adamw"),
        *("--model.lr_scheduler", "lightning_modules.optim.optimizers.constant"),
    ]
    assert errors_of([["--config", "configs/elr/demo.yaml", *mine]]) == [None]


def test_a_run_of_any_configuration_here_can_be_resumed(tmp_path: Path) -> None:
    """Each class in a configuration must be allowed, because the saved settings of a run contain its name again."""
    files = [path.read_text() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    found = {path for text in files for path in re.findall(r"class_path: *([\w.]+)", text)} - {"MY_MODULE.MY_NETWORK"}
    found |= {
        path for text in files for path in re.findall(r"^[^#\n]*: *((?:lightning_modules|torch)\.[\w.]+)", text, re.M)
    }
    with known_imports({}, [], tmp_path):
        for path in sorted(found):
            import_object(path)
    assert len(found) > 100
    with known_imports({}, [], tmp_path), pytest.raises(Exception, match="not allowed"):
        import_object("timm.create_model")
