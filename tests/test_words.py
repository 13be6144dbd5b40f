"""Docstrings begin with a plain sentence, and what they say of an argument stands alone in `--help`."""

import ast
import re

import pytest

from tests.command import ROOT

PACKAGES = ("experiments", "callbacks", "lightning_modules", "datamodules")
NO_SENTENCE = re.compile(r"(What|Which|How|Where|Whether)\b")
POINTS_ELSEWHERE = re.compile(r"\b(likewise|as above|see above|of the draw)\b", re.IGNORECASE)
FILES = [ROOT / "train.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]


def faults(source: str) -> list[str]:
    """List the docstrings that break the rule, by what they belong to."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if NO_SENTENCE.match(text) or POINTS_ELSEWHERE.search(text):
                found.append(f"{getattr(node, 'name', 'module')}: {text.splitlines()[0]}")
    return found


def test_docstrings_are_plain() -> None:
    found = {str(path.relative_to(ROOT)): faults(path.read_text()) for path in FILES}
    assert not {path: each for path, each in found.items() if each}


@pytest.mark.parametrize("text", ["What a run holds.", "Args:\n    std: likewise."])
def test_the_rule_sees_what_it_is_about(text: str) -> None:
    assert faults(f'def f() -> None:\n    """{text}"""')
