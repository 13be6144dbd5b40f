"""The rules of the house on who may import whom, read from the source without importing it.

1. Imports run one way, train -> experiments -> callbacks -> lightning_modules -> datamodules, and `experiments` takes
   `datamodules.files` alone; its commands take what they need, once they run.
2. A file that defines a LightningModule or a Callback is imported by its own folder's `__init__.py` alone.
3. A shared file has at least two users: files of different methods or subjects, or class paths in a YAML.
4. No module imports itself through others, whether at import time, in a function or for types alone.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.command import ROOT

ORDER = ("train", "experiments", "callbacks", "lightning_modules", "datamodules")
FORBIDDEN_NAMES = {"utils", "common", "helpers", "base", "misc", "core", "components", "src"}
NOT_FIELDS = {
    "tasks",
    "optim",
    "training",
    "losses",
    "metrics",
    "networks",
    "backbones",
    "views",
    "sde",
    "distributed",
    "baselines",
}
FILES = sorted(
    path for package in ORDER for path in [*(ROOT / package).rglob("*.py"), ROOT / f"{package}.py"] if path.is_file()
)

AWAITED: set[str] = {
    "lightning_modules.backbones.diffusion.cached_latents",  # other ways of fine-tuning pipelines
    "lightning_modules.backbones.diffusion.export",
}
"""Shared files whose users are being written."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from outside_functions(node)


def imports_of(name: str, nodes: Iterable[ast.AST]) -> set[str]:
    """Modules of ours that nodes of a module import, whole or a name from them."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[name]}: imports are absolute"
            found |= {
                full if (full := f"{node.module}.{alias.name}") in MODULES else str(node.module) for alias in node.names
            }
    return {module for module in found if module in MODULES}


IMPORTS = {name: imports_of(name, ast.walk(tree)) for name, tree in TREES.items()}
AT_ONCE = {name: imports_of(name, outside_functions(tree)) for name, tree in TREES.items()}
"""Without imports inside functions."""


def named_by_yaml(name: str) -> bool:
    """Whether a module defines a LightningModule, other than the base of all, or a Callback."""
    return name != "lightning_modules.method_module" and any(
        isinstance(node, ast.ClassDef)
        and any(re.search(r"(LightningModule|MethodModule|Callback)$", ast.unparse(base)) for base in node.bases)
        for node in ast.walk(TREES[name])
    )


def test_imports_run_one_way() -> None:
    for name, imported in IMPORTS.items():
        package = name.split(".")[0]
        command = name.startswith("experiments.commands.")
        for other in imported:
            outside = package == "experiments" and not other.startswith("experiments")
            if outside and (not command or other in AT_ONCE[name]):
                assert other.startswith("datamodules.files"), f"{name} may not import {other}"
            assert ORDER.index(package) <= ORDER.index(other.split(".")[0]), f"{name} may not import {other}"


def test_imports_have_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # its CycleError names the modules


def test_what_a_yaml_names_is_imported_by_its_folder_alone() -> None:
    # What experiments define is wiring of the command line, which no YAML names.
    for name in (name for name in MODULES if named_by_yaml(name) and not name.startswith("experiments")):
        importing = {other for other, imported in IMPORTS.items() if name in imported}
        assert importing <= {name.rpartition(".")[0]}, f"{sorted(importing)} import {name}"


def owner(name: str) -> str:
    """The method or subject that a file belongs to; the file itself where it belongs to none."""
    parts = name.split(".")
    if parts[0] == "lightning_modules" and len(parts) >= 3 and parts[1] not in NOT_FIELDS:
        return ".".join(parts[:3])
    if parts[0] == "callbacks" and len(parts) >= 2:
        return ".".join(parts[:2])
    return name


USERS: dict[str, set[str]] = defaultdict(set)
for _name, _imported in IMPORTS.items():
    if MODULES[_name].name != "__init__.py" or not IMPORTS[_name] <= {m for m in MODULES if m.startswith(_name)}:
        for _other in _imported:
            USERS[_other].add(owner(_name))
for _path in sorted((ROOT / "configs").rglob("*.yaml")):
    for _class_path in re.findall(r"[a-z_]+(?:\.\w+)+", _path.read_text()):
        _module = _class_path
        while _module and _module not in MODULES:
            _module = _module.rpartition(".")[0]
        for _exported in [_module, *IMPORTS.get(_module, set())]:
            USERS[_exported].add(str(_path))


def shared(name: str) -> bool:
    """Whether a file is for several: in a shared package, or in a field beside its methods.

    An architecture that a YAML names is for whoever writes the next YAML.
    """
    parts = name.split(".")
    if parts[0] != "lightning_modules" or MODULES[name].name == "__init__.py" or len(parts) < 3:
        return False
    if parts[1] == "networks" and any(user.endswith(".yaml") for user in USERS[name]):
        return False
    return parts[1] in NOT_FIELDS - {"baselines"} or (len(parts) == 3 and not named_by_yaml(name))


def test_a_shared_file_has_two_users() -> None:
    for name in (name for name in MODULES if shared(name) and name not in AWAITED):
        users = {user for user in USERS[name] if user != owner(name)}
        assert len(users) >= 2, f"{name} is used by {sorted(users) or 'nobody'} alone: it belongs there"


def test_no_method_imports_another() -> None:
    for name, imported in IMPORTS.items():
        parts = name.split(".")
        if parts[0] == "lightning_modules" and len(parts) >= 2 and parts[1] not in NOT_FIELDS:
            for other in imported:
                theirs = other.split(".")
                if theirs[0] == "lightning_modules" and len(theirs) >= 3 and theirs[1] not in NOT_FIELDS:
                    assert theirs[1] == parts[1], f"{name}: {other} is another field's; move what both use out of it"


def test_no_shared_package_imports_a_field() -> None:
    for name, imported in IMPORTS.items():
        parts = name.split(".")
        if parts[0] == "lightning_modules" and len(parts) >= 3 and parts[1] in NOT_FIELDS:
            for other in imported:
                theirs = other.split(".")
                assert len(theirs) < 3 or theirs[0] != "lightning_modules" or theirs[1] in NOT_FIELDS, (
                    f"{name}: {other}"
                )


def test_no_file_or_folder_is_a_drawer() -> None:
    for path in FILES:
        assert not FORBIDDEN_NAMES & {path.stem, *path.relative_to(ROOT).parts[:-1]}, path


def test_folders_are_small() -> None:
    sizes = {
        folder: len([path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"])
        for folder in {path.parent.relative_to(ROOT) for path in FILES}
    }
    large = {str(folder): size for folder, size in sizes.items() if size > 20}
    assert set(large) <= {"lightning_modules/networks"}, large


def test_the_rules_see_what_they_are_about() -> None:
    assert named_by_yaml("lightning_modules.noisy_labels.elr")
    assert not named_by_yaml("lightning_modules.losses.mixing")
    assert owner("lightning_modules.robustness.rrcm.pretraining") == "lightning_modules.robustness.rrcm"
    assert "lightning_modules.noisy_labels.elr" in USERS["lightning_modules.distributed.per_sample"]
