"""Record the environment of a run in the first lines of its `config.yaml`: versions, commit and machine.

Each environment is a comment, so the file is read as before. A run that is resumed in another environment has a line
for each. The lines contain no paths and no names of users or hosts.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from experiments.config_files import PROJECT
from experiments.run_request import code_fingerprint, machine

PACKAGES = ("noiseworks", "torch", "lightning", "torchmetrics", "timm", "diffusers")
START = "# environment: "
UNKNOWN = "not recorded"
LONGEST = 1000


@cache
def environment() -> str:
    """Describe the environment of this process in one line that begins with the date."""
    own = machine()
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    parts = [own["date"], *versions, f"Python {own['python']}", *commit_of(PROJECT), f"code {code_fingerprint()}"]
    return _clean(", ".join([*parts, own["machine"]]))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit_of(project: Path) -> list[str]:
    """Return `commit <hash>`, and whether tracked files have been changed, if a folder is a git checkout.

    git reads the checkout of the code that is running, never the working directory, which may be a stranger's.
    Therefore, `.git/config` cannot run anything for somebody who could not have changed the code itself. Hooks and
    the monitor of the file system are off.
    """
    if not (project / ".git").exists():
        return []
    options = ("core.fsmonitor=false", "core.hooksPath=/dev/null", f"safe.directory={project}")
    command = ["git", *(part for each in options for part in ("-c", each)), "status", "--porcelain=v2", "--branch"]
    command += ["--untracked-files=no", "--ignore-submodules=all"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(command, cwd=project, env=own, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ["commit unknown"]
    text = done.stdout
    commit = re.search(r"^# branch\.oid ([0-9a-f]+)$", text, re.MULTILINE)
    changed = any(not line.startswith("#") for line in text.splitlines())
    return [f"commit {commit[1] if commit else 'unknown'}" + " with uncommitted changes" * changed]


def recorded_environments(directory: Path) -> list[str]:
    """Read the environments of a run from its `config.yaml`. Characters that Markdown interprets are removed."""
    try:
        with (directory / "config.yaml").open(encoding="utf-8", errors="replace") as file:
            lines = [file.readline(LONGEST) for _ in range(20)]
    except FileNotFoundError:
        return []
    return [_clean(line.removeprefix(START)) for line in lines if line.startswith(START)]


def header(environments: Sequence[str]) -> str:
    """Return the first lines of a `config.yaml`."""
    return "".join(f"{START}{each}\n" for each in environments)


def with_own_environment(directory: Path) -> list[str]:
    """Return the environments of a run, with that of this process if it differs from the last in more than the date.

    A run whose beginning was not recorded says so.
    """
    known = recorded_environments(directory)
    if not known and (directory / "config.yaml").exists():
        known = [UNKNOWN]
    same = bool(known) and known[-1].partition(", ")[2] == environment().partition(", ")[2]
    return known if same else [*known, environment()]


def _clean(text: str) -> str:
    return re.sub(r"[^\w .,:+()-]", " ", text)[:LONGEST].strip()
