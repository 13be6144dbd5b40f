"""The files for pre-commit and for the forge name commands and targets that exist."""

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGETS = set(re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_workflows_run_targets_and_scripts_of_this_repository() -> None:
    targets = {each for line in TARGETS for each in line.split()}
    assert len(WORKFLOWS) == 2
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            made = job.get("strategy", {}).get("matrix", {}).get("target", [])
            commands = [step["run"] for step in job["steps"] if "run" in step]
            scripts = [ROOT / command.split()[1] for command in commands if command.startswith("bash ")]
            assert set(made) <= targets
            assert commands
            assert made or scripts
            assert all(script.is_file() for script in scripts)


def test_hooks_run_the_environment_of_the_tests_on_files_that_exist() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]:
        program, *arguments = shlex.split(hook["entry"])
        assert program == ".venv/bin/python"
        assert all((ROOT / each).is_file() for each in arguments if each.endswith(".py"))


def test_relative_links_of_the_security_policy_and_of_the_templates_exist() -> None:
    pages = [ROOT / "SECURITY.md", *(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")]
    assert len(pages) == 4
    for page in pages:
        for link in re.findall(r"\]\((?!\w+:)([^)#]+)", page.read_text()):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
