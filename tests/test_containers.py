"""The recipes for containers install the same packages, and the package index has them."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.command import ROOT

RECIPES = {name: (ROOT / name).read_text() for name in ("Dockerfile", "apptainer.def")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def installed(text: str) -> list[list[str]]:
    """Return the arguments of each `pip install` of a recipe."""
    return [shlex.split(line) for line in re.findall(r"^\s*(?:RUN )?pip install (.*)$", text, re.MULTILINE)]


def test_both_recipes_install_the_same() -> None:
    docker, apptainer = (installed(text) for text in RECIPES.values())
    assert docker == apptainer
    assert [each[0] for each in docker] == ["--no-cache-dir"] * 2
    assert {*docker[0][1:]} <= {re.split("[>=<]", each)[0] for each in PROJECT["dependencies"]}
    (extras,) = re.findall(r"^/opt/noiseworks\[(.*)\]$", docker[1][1])
    assert {*extras.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_their_python_is_supported() -> None:
    versions = {re.findall(r"^From: python:(.*)-slim$|^FROM python:(.*)-slim$", t, re.M)[0] for t in RECIPES.values()}
    (version,) = {"".join(each) for each in versions}
    assert f"{version}.0" in SpecifierSet(PROJECT["requires-python"])


def test_their_command_is_that_of_the_package() -> None:
    for text in RECIPES.values():
        (command,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$|^    exec (\w+) "\$@"$', text, re.MULTILINE)
        assert "".join(command) in PROJECT["scripts"]


@pytest.mark.nightly
def test_the_index_has_what_they_install(tmp_path: Path) -> None:
    """pip resolves the lines without downloading packages whose metadata the index has."""
    source = tmp_path / "noiseworks"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for line in installed(RECIPES["Dockerfile"]):
        words = [word.replace("/opt/noiseworks", str(source)) for word in line]
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
