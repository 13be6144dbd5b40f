"""Rules on which module may import which, checked in the source without importing it.

1. Imports have one direction: train -> experiments -> callbacks -> lightning_modules -> datamodules. Of the other
   packages, `experiments` imports only `datamodules.files` and the protocols of `lightning_modules.interfaces`; its
   commands also import what they need when they run.
2. A file that defines a LightningModule or a Callback is imported only by the `__init__.py` of its own folder.
3. A shared file has at least two users: files of different methods or subjects, or class paths in a YAML file.
4. No import cycles exist, whether at import time, inside functions or for type annotations only.
5. Every project module or name that any file imports exists, including imports in tests and benchmarks that are skipped
on this machine.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from tests.command import ROOT

ORDER = ("train", "experiments", "callbacks", "lightning_modules", "datamodules")
OURS = (*ORDER, "tests")
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
    "lightning_modules.backbones.diffusion.cached_latents",  # alternatives for fine-tuning pipelines
    "lightning_modules.backbones.diffusion.export",
}
"""Shared files whose other users are still being written."""


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
    """Return the project modules that the nodes of a module import, as a whole or by a name from them."""
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
"""Imports, without those inside functions."""


def named_by_yaml(name: str) -> bool:
    """Return whether a module defines a LightningModule (except the common base class) or a Callback."""
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
                allowed = other.startswith("datamodules.files") or other == "lightning_modules.interfaces"
                assert allowed, f"{name} may not import {other}"
            assert ORDER.index(package) <= ORDER.index(other.split(".")[0]), f"{name} may not import {other}"


def test_imports_have_no_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises a CycleError that names the modules


def names_of(tree: ast.AST) -> set[str]:
    """Return the names that a module defines or imports outside functions and classes."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.split(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        else:
            found |= names_of(node)
    return found


def missing_imports(files: Mapping[Path, ast.AST], root: Path = ROOT) -> list[str]:
    """List imports of project modules or names that do not exist."""
    ours = {
        **{".".join(path.relative_to(root).with_suffix("").parts): path for path in files},
        **{".".join(path.relative_to(root).parent.parts): path for path in files if path.name == "__init__.py"},
    }
    names = {module: names_of(files[path]) for module, path in ours.items()}
    folders = {module.rsplit(".", depth)[0] for module in ours for depth in range(module.count(".") + 1)}
    missing = []
    for path, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                needed = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                needed = [(str(node.module), alias.name) for alias in node.names]
            else:
                continue
            for module, name in needed:
                known = {*names.get(module, ()), "", "*"}
                if module.split(".")[0] in OURS and not (
                    f"{module}.{name}" in folders or (module in folders and name in known)
                ):
                    missing.append(f"{path.relative_to(root)}:{node.lineno}: {module} {name}".strip())
    return missing


def test_what_any_file_imports_of_ours_exists() -> None:
    paths = [path for package in OURS for path in [*(ROOT / package).rglob("*.py"), ROOT / f"{package}.py"]]
    files = {path: TREES.get(module_of(path)) or ast.parse(path.read_text()) for path in paths if path.is_file()}
    assert not missing_imports(files)


def test_an_import_of_what_has_moved_is_named() -> None:
    module = ast.parse("from x import moved as here\nif True:\n    ONE: int = 1\ndef f():\n    inside = 1")
    right = "import x, tests.a.m\nfrom tests.a import m\nfrom tests.a.m import ONE, f, here\nfrom x import nothing"
    wrong = "import tests.b\ndef f():\n    from tests.a.n import ONE\n    from tests.a.m import f, moved, inside"
    files = {ROOT / f"tests/a/{name}.py": tree for name, tree in {"__init__": ast.parse(""), "m": module}.items()}
    assert not missing_imports({**files, ROOT / "tests/test_m.py": ast.parse(right)})
    assert missing_imports({**files, ROOT / "tests/test_m.py": ast.parse(wrong)}) == [
        "tests/test_m.py:1: tests.b",
        "tests/test_m.py:3: tests.a.n ONE",
        "tests/test_m.py:4: tests.a.m moved",
        "tests/test_m.py:4: tests.a.m inside",
    ]


def test_what_a_yaml_names_is_imported_by_its_folder_alone() -> None:
    # Classes in `experiments` belong to the command line and are not named in any YAML file.
    for name in (name for name in MODULES if named_by_yaml(name) and not name.startswith("experiments")):
        importing = {other for other, imported in IMPORTS.items() if name in imported}
        assert importing <= {name.rpartition(".")[0]}, f"{sorted(importing)} import {name}"


def owner(name: str) -> str:
    """Return the method or subject that a file belongs to, or the file itself if it belongs to none."""
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
    """Return whether several methods may use a file: it is in a shared package, or next to the methods of a field.

    An architecture that is named in a YAML file is excluded, because any new YAML file may use it.
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


def is_method(name: str) -> bool:
    """Return whether a file or folder defines a LightningModule, and is not a shared file of a field."""
    return any(named_by_yaml(each) for each in MODULES if each == name or each.startswith(f"{name}."))


def test_no_method_imports_another() -> None:
    for name, imported in IMPORTS.items():
        parts = name.split(".")
        if parts[0] == "lightning_modules" and len(parts) >= 2 and parts[1] not in NOT_FIELDS:
            for other in imported:
                theirs = other.split(".")
                if theirs[0] == "lightning_modules" and len(theirs) >= 3 and theirs[1] not in NOT_FIELDS:
                    assert theirs[1] == parts[1], f"{name}: {other} is another field's; move what both use out of it"
                    own = owner(name) == owner(other) or len(parts) == 2  # the __init__.py of a field
                    assert own or not is_method(owner(other)), f"{name}: {other} is another method's"


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
    assert is_method("lightning_modules.robustness.rrcm")
    assert not is_method("lightning_modules.robustness.certificates")
    assert owner("lightning_modules.robustness.rrcm.pretraining") == "lightning_modules.robustness.rrcm"
    assert "lightning_modules.noisy_labels.elr" in USERS["lightning_modules.distributed.per_sample"]
