"""The source distribution and the wheel are valid and complete, and the installed wheel works.

The wheel contains the configurations, the defaults and the command `noiseworks`.
"""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.command import ROOT, environment

PACKAGES = ("lightning_modules", "datamodules", "callbacks", "experiments", "configs")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as in `make dist`, but from a copy of the sources, because setuptools writes files next to them."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", str(source)], check=True, capture_output=True)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """Return the wheel, which is built from the source distribution."""
    [found] = built.glob("noiseworks-*.whl")
    return found


@pytest.mark.nightly
def test_the_index_would_accept_the_distributions_and_show_their_readme(built: Path) -> None:
    files = sorted(str(path) for path in built.iterdir())
    assert [Path(name).name.split("-")[0] for name in files] == ["noiseworks", "noiseworks"]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [sources] = built.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert inside >= {"train.py", "pyproject.toml", "README.md", "LICENSE", "configs/defaults.yaml"}


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "type"}
    assert {name: citation[name] for name in ("title", "version", "license")} == {
        "title": project["name"],
        "version": project["version"],
        "license": project["license"],
    }
    release = project["version"].partition(".dev")[0]
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert newest.split()[0] == release


@pytest.mark.nightly
def test_the_wheel_holds_every_source_and_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    ends = ("py", "yaml", "jinja")
    ours = [path for package in PACKAGES for end in ends for path in (ROOT / package).rglob(f"*.{end}")]
    assert inside == {path.relative_to(ROOT).as_posix() for path in ours} | {"train.py"}


@pytest.mark.nightly
def test_the_installed_command_trains_and_predicts_as_the_checkout_does(wheel: Path, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], check=True
    )
    # The dependencies are borrowed from the environment of the tests. A .pth file inside a folder that another .pth
    # file names is not read, so the checkout is not importable.
    [packages] = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere.mkdir()
    clean = {name: value for name, value in environment().items() if name != "PYTHONPATH"}

    def noiseworks(*arguments: str) -> str:
        command = [str(home / "bin" / "noiseworks"), *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import experiments, train; print(*experiments.__path__, train.__file__)"
    found = subprocess.run([python, "-c", where], cwd=elsewhere, env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(packages / "experiments"), str(packages / "train.py")]
    assert noiseworks("--help").startswith("usage: noiseworks SUBCOMMAND")
    assert "configs/elr/demo.yaml" in noiseworks("methods", "elr")
    fit = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "2", *QUIET)
    noiseworks(*fit, "--run_directory", "run", "--test_after_fit", "true")
    noiseworks("predict", "--resume", "run", *QUIET)
    assert (elsewhere / "run" / "predictions.parquet").is_file()
    config = yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())
    defaults = yaml.safe_load((ROOT / "configs" / "defaults.yaml").read_text())
    assert {name: each["class_path"] for name, each in config["guards"].items()} == defaults["guards"]

    checkout = [sys.executable, str(ROOT / "train.py"), *fit, "--run_directory", str(tmp_path / "own")]
    subprocess.run([*checkout, "--test_after_fit", "true"], cwd=ROOT, env=environment(), check=True)
    for name in ("metrics.csv", "test_metrics.csv"):
        assert (elsewhere / "run" / name).read_text() == (tmp_path / "own" / name).read_text()


def test_a_configuration_that_is_not_here_is_that_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.config_files import locate_config

    monkeypatch.chdir(tmp_path)
    demo = Path("configs/elr/demo.yaml")
    assert locate_config(demo) == ROOT / demo
    assert locate_config(Path("configs/elr/nothing.yaml")) == Path("configs/elr/nothing.yaml")
    assert locate_config(Path("other/elr/demo.yaml")) == Path("other/elr/demo.yaml")
    (tmp_path / "configs" / "elr").mkdir(parents=True)
    (tmp_path / demo).write_text("")
    assert locate_config(demo) == demo


def test_without_its_defaults_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import train
    from experiments.calls import parse

    monkeypatch.setattr(parse, "DEFAULTS", tmp_path / "defaults.yaml")
    assert train.main(["fit", "--config", str(ROOT / "configs/elr/demo.yaml")]) == 1
    assert f"error: {tmp_path / 'defaults.yaml'} does not exist: install noiseworks again" in capsys.readouterr().err
