import getpass
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from experiments.config_files import mapping_of
from experiments.saving import environment as module
from experiments.saving.environment import commit_of, environment, header, recorded_environments, with_own_environment


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_an_environment_names_versions_and_neither_paths_nor_people() -> None:
    text = environment()
    for name in ("torch", "lightning", "torchmetrics", "timm", "diffusers"):
        assert f", {name} {metadata.version(name)}, " in text
    assert f", Python {platform.python_version()}, " in text
    assert "code " in text
    for private in ("/", "~", str(Path.home()), platform.node(), f" {getpass.getuser()} "):
        assert private not in text
    assert "\n" not in text


def test_a_checkout_has_its_commit_and_says_whether_files_have_changed(tmp_path: Path) -> None:
    """Neither the monitor nor a hook of the checkout is run, and a checkout that contains the folder is not meant."""
    assert commit_of(tmp_path) == []
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    assert commit_of(tmp_path) == ["commit unknown with uncommitted changes"]
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "notes.txt").write_text("not tracked")
    hook = tmp_path / ".git/hooks/post-index-change"
    for path in (hook, tmp_path / "monitor"):
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
        path.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(tmp_path / "monitor"))
    assert commit_of(tmp_path) == [f"commit {commit}"]
    (tmp_path / "a.py").write_text("changed")
    assert commit_of(tmp_path) == [f"commit {commit} with uncommitted changes"]
    (tmp_path / "below").mkdir()
    assert commit_of(tmp_path / "below") == []
    assert not (tmp_path / "run").exists()


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path) == ["commit unknown"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) == ["commit unknown"]


def test_a_resumed_run_keeps_its_first_environment_and_adds_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = tmp_path / "config.yaml", "model: {a: 1}\ntrainer: null\n"
    days = ("2026-01-01, torch 2", "2026-01-02, torch 2", "2026-01-03, torch 3", "2026-01-04, torch 2")
    for day in days:
        monkeypatch.setattr(module, "environment", lambda day=day: day)
        config.write_text(header(with_own_environment(tmp_path)) + settings)
    assert recorded_environments(tmp_path) == [days[0], days[2], days[3]]
    assert mapping_of(config) == {"model": {"a": 1}, "trainer": None}
    config.write_text(settings)
    assert with_own_environment(tmp_path) == ["not recorded", days[3]]


def test_the_header_of_a_strangers_run_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "# environment: [x](http://y) `z` <b>\x1b[0m|\n" + "# environment: " + 5000 * "a"
    )
    first, long = recorded_environments(tmp_path)
    assert not set(first) & set("[]`<>|/\x1b")
    assert len(long) <= 1000
