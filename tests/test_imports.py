"""Who may import whom (the README's house rules), read from the source without importing it."""

import ast
from pathlib import Path

import pytest

from tests.command import ROOT

OURS = ("lightning_modules", "datamodules", "callbacks", "experiments", "train")
ALLOWED = {
    "lightning_modules": ("lightning_modules", "datamodules.corruptions", "datamodules.batches"),
    "datamodules": ("datamodules",),
    "callbacks": ("callbacks", "lightning_modules.interfaces", "lightning_modules.whole_files"),
    # What runs is all that experiments know, but for the reading and drawing of certification logs, which the callback
    # `Certification` and the subcommand `certified_curves` share.
    "experiments": ("experiments", "callbacks.certified_curves"),
    "train": ("experiments",),
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "base", "misc"}
FILES = sorted(
    path for package in OURS for path in [*(ROOT / package).rglob("*.py"), ROOT / f"{package}.py"] if path.is_file()
)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


def defines_method(path: Path) -> bool:
    """Whether a file defines a LightningModule, which makes it a method's own."""
    return any(
        isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("LightningModule") for base in node.bases)
        for node in ast.walk(ast.parse(path.read_text()))
    )


FIELDS = [f"lightning_modules.{path.parent.name}" for path in (ROOT / "lightning_modules").glob("*/__init__.py")]
SHARED = {"lightning_modules.networks", "lightning_modules.views"}  # by all fields
METHODS = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if defines_method(path)}


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_the_right_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(path):
        assert not any(within(name, method) for method in METHODS), f"{path}: {name} is a method's file"
        field_file = package == "callbacks" and any(within(name, field) for field in FIELDS)
        assert field_file or any(within(name, allowed) for allowed in ALLOWED[package]), f"{path} may not import {name}"


def field_of(name: str) -> str | None:
    """The field that a module belongs to, None of what is shared or no part of a field."""
    return next((field for field in FIELDS if within(name, field) and field not in SHARED), None)


def test_no_field_imports_from_another() -> None:
    for path in FILES:
        if path.is_relative_to(ROOT / "lightning_modules"):
            own = field_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for name in imported(path):
                assert field_of(name) in (None, own), f"{path}: {name} is another field's; move what both use out of it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_a_drawer(path: Path) -> None:
    assert path.stem not in FORBIDDEN_NAMES


def test_the_rules_see_the_methods() -> None:
    assert "lightning_modules.noisy_labels.elr" in METHODS
    assert "lightning_modules.noisy_labels.mixup" not in METHODS


def test_the_rules_see_the_fields() -> None:
    assert field_of("lightning_modules.robustness.rrcm.views") == "lightning_modules.robustness"
    assert field_of("lightning_modules.noisy_labels.mixup.Mixing") == "lightning_modules.noisy_labels"
    assert field_of("lightning_modules.views.colour") is None
    assert field_of("lightning_modules.per_sample") is None
