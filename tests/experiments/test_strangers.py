"""Resuming an untrusted run directory runs no code, downloads nothing, and writes nothing outside this directory."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from experiments.load_run import load_run
from tests.command import ROOT

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
Forged = Callable[..., Path]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "run"
    options = ("--trainer.max_epochs", "1", "--run_directory", str(directory))
    assert train.main(["fit", "--config", "configs/elr/demo_baseline.yaml", *options, *QUIET]) == 0
    return directory


@pytest.fixture
def forged(trained: Path, tmp_path: Path) -> Forged:
    """Return a function that copies the run directory and changes dotted keys of the copy's configuration."""

    def forge(changes: dict[str, Any], at: Path | None = None, keep: bool = True) -> Path:
        directory = at or tmp_path / "run"
        shutil.copytree(trained, directory)
        config = yaml.safe_load((directory / "config.yaml").read_text())
        for key, value in changes.items():
            *parents, last = key.split(".")
            inner = config
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        if not keep:
            shutil.rmtree(directory / "checkpoints")
        return directory

    return forge


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Resume a run that must be rejected, and return the sentence."""

    def refused(directory: Path, subcommand: str = "fit", *more: str) -> str:
        capsys.readouterr()
        assert train.main([subcommand, "--resume", str(directory), *more]) in (1, 2)
        error = capsys.readouterr().err
        errors = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, error
        assert "Traceback" not in error
        return errors[0]

    return refused


def test_no_checkpoint_is_read_but_the_one_that_is_ours_to_name(
    forged: Forged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    path = "lightning.pytorch.callbacks.OnExceptionCheckpoint"
    spec = {"class_path": path, "init_args": {"dirpath": str(run), "filename": "x"}}
    forged({"trainer.callbacks": [spec], "weights_only": False, "trainer.max_epochs": 1}, keep=False)
    for name in ("x.ckpt", "hpc_ckpt_1.ckpt"):
        torch.save({"state_dict": {}, "x": Payload(tmp_path / "ran")}, run / name)
    for name, value in {
        "JOB_NAME": "a",
        "NTASKS": "1",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
        "JOB_ID": "1",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert train.main(["fit", "--resume", str(run), *QUIET]) == 0
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Path]]:
    """Return a function that writes a module which contains a network and leaves a trace when it is imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"import os\nos.makedirs({str(tmp_path / 'ran')!r}, exist_ok=True)\n"
            "from lightning_modules.baselines import CrossEntropy\nclass Network(CrossEntropy): ...\n"
        )
        return path

    yield write
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("runs", "mine", "evil", "within"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "class_path"),
    [
        ("runs/x/evil.py", "runs.x.evil.Network"),
        ("runs/x/__init__.py", "runs.x.Network"),
        ("runs/other/evil.py", "runs.other.evil.Network"),
        ("runs/evil.py", "runs.evil.Network"),
    ],
)
@pytest.mark.parametrize("subcommand", ["fit", "test", "load_run"])
def test_no_module_of_a_run_directory_is_imported(
    file: str, class_path: str, subcommand: str, forged: Forged, own_package: Callable[[Path], Path], tmp_path: Path,
    said: Callable[..., str],
) -> None:  # fmt: skip
    own_package(tmp_path / file)
    own_package(tmp_path / "run" / "z.py").unlink()
    (tmp_path / "run").rmdir()
    (tmp_path / "keep").mkdir()
    directory = tmp_path / "runs/x"
    module = (tmp_path / file).read_text()
    if directory.exists():
        shutil.rmtree(directory)
    forged({"model.class_path": class_path}, at=directory)
    (tmp_path / file).write_text(module)
    if subcommand == "load_run":
        with pytest.raises(Exception, match="is rejected"):
            load_run(directory)
    else:
        assert f"{class_path} is rejected" in said(directory, subcommand)
    assert not (tmp_path / "ran").exists()


def test_the_users_own_package_is_imported_without_a_flag(
    forged: Forged, own_package: Callable[[Path], Path], tmp_path: Path
) -> None:
    own_package(tmp_path / "mine/networks.py")
    directory = forged({"model.class_path": "mine.networks.Network"}, at=tmp_path / "runs/x", keep=False)
    assert train.main(["fit", "--resume", str(directory), *QUIET]) == 0
    assert (tmp_path / "ran").is_dir()
    assert type(load_run(directory)[0]).__module__ == "mine.networks"


@pytest.mark.parametrize("subcommand", ["fit", "test", "predict"])
def test_keys_of_one_call_are_left_out_when_they_are_read(
    subcommand: str, forged: Forged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    changes = {"run_directory": str(elsewhere), "test_after_fit": True, "resume": str(elsewhere), "config": ["x.yaml"]}
    directory = forged({**changes, "weights_only": False, "verbose": False, "base": "x.yaml"})
    (directory / "test_metrics.csv").unlink(missing_ok=True)
    data = ("--data.predict_dir", str(tmp_path)) if subcommand == "none" else ()
    assert train.main([subcommand, "--resume", str(directory), *QUIET, *data]) in (0, 1)
    assert not elsewhere.exists()
    assert "elsewhere" not in capsys.readouterr().err
    assert (directory / "test_metrics.csv").exists() == (subcommand == "test")


LIGHTNING = "lightning.pytorch."
CODE = "__import__('os').mkdir('MADE')"
REFUSED = {
    "an address as model": ({"model": "http://192.0.2.9/x.yaml"}, "model is the address"),
    "an address as data": ({"data": "memory://x.yaml"}, "data is the address"),
    "an address within": ({"model.init_args.network": "s3://b/x.yaml"}, "network is the address"),
    "a chain of addresses": ({"trainer.callbacks": "simplecache::x"}, "callbacks is the address"),
    "an address of a logger": ({"trainer.default_root_dir": "gs://b"}, "default_root_dir is the address"),
    "a file as callbacks": ({"trainer.callbacks": str(ROOT / "pyproject.toml")}, "trainer.callbacks is the file"),
    "a dotted key": ({"trainer": {"callbacks.class_path": "x"}}, "the key callbacks.class_path is rejected"),
    "text that runs": (
        {"trainer.callbacks": [{"class_path": f"{LIGHTNING}callbacks.LambdaCallback", "init_args": {
            "setup": {"class_path": "sympy.Lambda", "init_args": {"signature": "x", "expr": CODE}}
        }}]},
        "is rejected",
    ),
    "a checkpoint's plugin": (
        {"trainer.plugins": [{"class_path": f"{LIGHTNING}plugins.io.TorchCheckpointIO"}]}, "is rejected",
    ),
    "a library's loader": (
        {"model.init_args.network": {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t"}}},
        "is rejected",
    ),
    "a standard module": ({"model.init_args.optimizer": {"class_path": "this.s"}}, "is rejected"),
    "a module of an environment": (
        {"data.init_args.environment": "runs.x.evil:E-v0"},
        "data.init_args.environment is 'runs.x.evil:E-v0', but the config.yaml of a run may not name a module",
    ),
    "too many processes": ({"trainer.devices": 10**6}, "trainer.devices must be at most 1024, got 1000000"),
    "an installed package": (
        {"model.init_args.network": {"class_path": "sklearn.svm.SVC"}},
        "if the run is yours, also give its original configuration by --config FILE",
    ),
}  # fmt: skip
for _name, _arguments in {
    "callbacks.OnExceptionCheckpoint": {"dirpath": "ELSEWHERE"},
    "callbacks.ModelCheckpoint": {"dirpath": "ELSEWHERE"},
    "callbacks.model_checkpoint.ModelCheckpoint": {"filename": "../../x"},
    "loggers.CSVLogger": {"save_dir": "ELSEWHERE"},
    "loggers.TensorBoardLogger": {"save_dir": "RUN", "name": "../../x"},
    "loggers.tensorboard.TensorBoardLogger": {"save_dir": "RUN", "filename_suffix": "/../../x"},
    "profilers.SimpleProfiler": {"dirpath": "ELSEWHERE"},
    "profilers.AdvancedProfiler": {"dirpath": "RUN", "filename": "/ELSEWHERE"},
}.items():
    _kind = _name.partition(".")[0].replace("loggers", "logger").replace("profilers", "profiler")
    _spec = {"class_path": LIGHTNING + _name, "init_args": _arguments}
    REFUSED[_name] = ({f"trainer.{_kind}": [_spec] if _kind == "callbacks" else _spec}, "outside of the run directory")
_spec = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "ELSEWHERE"}}
REFUSED["by its name alone"] = ({"trainer.callbacks": [_spec]}, "outside of the run directory")


@pytest.mark.parametrize("name", REFUSED)
def test_what_runs_fetches_or_writes_elsewhere_is_refused(
    name: str, forged: Forged, tmp_path: Path, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        if isinstance(value, list):
            return [put(each) for each in value]
        if not isinstance(value, str):
            return value
        for word, place in {"ELSEWHERE": "elsewhere", "RUN": "run", "MADE": "made"}.items():
            value = value.replace(word, str(tmp_path / place))
        return value

    monkeypatch.setattr("fsspec.open", lambda *_, **__: pytest.fail("fetched"))
    changes, sentence = REFUSED[name]
    assert sentence in said(forged(put(changes)), "fit")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_what_the_command_line_says_is_not_the_strangers(forged: Forged, tmp_path: Path) -> None:
    """The command line sets a logger that writes to another folder; the untrusted file contains the same logger."""
    logger = {"class_path": f"{LIGHTNING}loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "mine")}}
    directory = forged({"trainer.logger": logger})
    assert train.main(["test", "--resume", str(directory), "--trainer.logger", yaml.safe_dump(logger), *QUIET]) == 0
    assert list((tmp_path / "mine").rglob("metrics.csv"))


@pytest.mark.parametrize(
    "name", [".lock", ".writable", "traceback.txt", "metrics.csv", "checkpoints", "tensorboard", "x"]
)
def test_a_link_out_of_the_directory_is_refused(
    name: str, forged: Forged, tmp_path: Path, said: Callable[..., str]
) -> None:
    directory = forged({})
    precious = tmp_path / "precious"
    precious.write_text("kept")
    path = directory / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(precious)
    for subcommand in ("fit", "test"):
        assert f"{path} is a link that leads out of the run directory" in said(directory, subcommand)
    path.unlink()
    os.mkfifo(path)
    assert f"{path} is neither a file nor a folder" in said(directory, "test")
    assert precious.read_text() == "kept"


BEST = (
    "ModelCheckpoint{'monitor': 'val/accuracy', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
    "'train_time_interval': None}"
)


@pytest.mark.parametrize("form", ["local://{}", "{}/run/checkpoints/../../precious", "{}"])
def test_a_checkpoint_has_nothing_removed_elsewhere(form: str, forged: Forged, tmp_path: Path) -> None:
    """Lightning deletes the path (even of a folder) that its callback's state names as the worst of the best models."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    directory = forged({"trainer.max_epochs": 3, "checkpoint.monitor": "val/accuracy"})
    for file in directory.glob("checkpoints/*.ckpt"):
        content = torch.load(file, weights_only=True)
        path = form.format(tmp_path) if "run" in form else form.format(precious)
        for name, state in content["callbacks"].items():
            if "ModelCheckpoint" in name or "LastCheckpoint" in name:
                worst = torch.tensor(-1.0)
                state |= {"best_model_path": path, "last_model_path": path, "kth_best_model_path": path}
                state |= {"best_k_models": {path: worst}, "best_model_score": worst, "kth_value": worst}
                state.pop("dirpath", None)
        content["callbacks"][BEST] = state
        torch.save(content, file)
    train.main(["fit", "--resume", str(directory), *QUIET])
    assert (precious / "file").read_text() == "kept"
