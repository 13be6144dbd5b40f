"""Method files stay small, and the folders of tests mirror the source tree: one test per rule, without exceptions."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.command import ROOT

PACKAGES = ("experiments", "callbacks", "datamodules", "lightning_modules")
GENERIC = {ROOT / "tests" / name for name in ("benchmarks", "conformance", "gpu")}
LITTLE = 40
"""Number of lines below which a source file needs no tests other than those of its users."""


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def too_long(paths: Iterator[Path], longest: int) -> dict[str, int]:
    return {str(path.relative_to(ROOT)): count for path in paths if (count := lines(path)) > longest}


def mirrored(folder: Path) -> Path:
    """Return the source folder that a test folder covers; test folders omit `lightning_modules` before a field."""
    place = folder.relative_to(ROOT / "tests")
    return ROOT / place if place.parts[:1] and place.parts[0] in PACKAGES[:3] else ROOT / "lightning_modules" / place


def test_the_module_of_a_method_is_short() -> None:
    assert too_long((ROOT / "lightning_modules").rglob("module.py"), 250) == {}


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield each class of the source with its name, `<path>: <class>`."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield f"{path.relative_to(ROOT)}: {node.name}", node


def test_a_class_is_short() -> None:
    assert {name for name, node in classes() if (node.end_lineno or 0) - node.lineno >= 200} == set()


def test_a_constructor_has_at_most_twelve_arguments() -> None:
    constructors = ((name, each) for name, node in classes() for each in node.body if isinstance(each, ast.FunctionDef))
    counts = {
        name: len(each.args.posonlyargs + each.args.args + each.args.kwonlyargs) - 1
        for name, each in constructors
        if each.name == "__init__"
    }
    assert {name for name, count in counts.items() if count > 12} == set()


def test_a_folder_has_at_most_twenty_files() -> None:
    counts: dict[str, int] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            folder = str(path.parent.relative_to(ROOT))
            counts[folder] = counts.get(folder, 0) + (path.name != "__init__.py")
    assert {folder for folder, count in counts.items() if count > 20} == {"lightning_modules/networks"}


def test_contributing_names_places_that_exist() -> None:
    """Folders and files that the table and the rules name exist; a file is in the folder of its row or anywhere."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where does it go?")[2].partition("\n## ")[0]
    places = set(re.findall(r"`([\w/]+(?:/|\.py))`", text))
    files = {f"/{path.relative_to(ROOT)}" for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")}
    assert len(places) > 20
    found = {place for place in places if any(file.endswith(f"/{place}") for file in files)}
    assert {place for place in places - found if not (ROOT / place).exists()} == set()


def test_a_test_file_is_short() -> None:
    assert too_long((ROOT / "tests").rglob("test_*.py"), 400) == {}


def test_tests_mirror_the_tree() -> None:
    """Each test folder has a source folder; each source folder with larger files has a test folder or file."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent not in GENERIC | {ROOT / "tests"}]
    tested = {mirrored(path.parent) for path in files}
    assert {folder for folder in tested if not folder.is_dir()} == set()
    sources = {
        path.parent
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py" and lines(path) >= LITTLE
    }
    by_one_file = {mirrored(path.parent) / path.stem.removeprefix("test_") for path in files}
    at_the_top = {ROOT / "lightning_modules"}  # its few own files are tested in this folder
    assert sources - tested - by_one_file - at_the_top == set()
