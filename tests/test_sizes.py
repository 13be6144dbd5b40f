"""Files stay small, and a source file has a test file of its name; a list of exceptions can only shrink."""

import ast
from pathlib import Path

import pytest

from tests.command import ROOT

LONGEST = {"test file": 300, "module.py": 250, "class": 200}
KNOWN = ROOT / "tests" / "sizes.txt"
PACKAGES = ("experiments", "callbacks", "lightning_modules", "datamodules")
LITTLE = 40
"""Lines below which a source file has too little logic for a test file of its own: it is tested through its users."""


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def found() -> set[str]:
    """Say what is too long and which source file has no test file."""
    tests = list((ROOT / "tests").rglob("test_*.py"))
    sources = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    faults = {f"long {path.relative_to(ROOT)}" for path in tests if lines(path) > LONGEST["test file"]}
    names = {path.stem.removeprefix("test_") for path in tests}
    for path in sources:
        place = path.relative_to(ROOT)
        if path.name == "module.py" and lines(path) > LONGEST["module.py"]:
            faults.add(f"long {place}")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= LONGEST["class"]:
                faults.add(f"long {place}:{node.name}")
        if path.name != "__init__.py" and lines(path) >= LITTLE and path.stem not in names:
            faults.add(f"untested {place}")
    return faults


def known() -> set[str]:
    return set(KNOWN.read_text().splitlines())


@pytest.mark.parametrize("fault", sorted(found() - known()) or ["none"])
def test_nothing_is_too_long_or_without_a_test_file(fault: str) -> None:
    assert fault == "none", f"{fault}: split it, or write its tests/**/test_<file>.py (or, with a reason, {KNOWN.name})"


def test_the_list_of_exceptions_shrinks() -> None:
    assert known() - found() == set(), f"these are mended: take them out of {KNOWN.name}"


if __name__ == "__main__":
    KNOWN.write_text("\n".join(sorted(found())) + "\n")
