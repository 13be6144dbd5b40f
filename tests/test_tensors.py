"""Methods as functions of tensors: the table of docs/python.md, its examples, and what all functions have in common."""

import ast
import doctest
import importlib
import inspect
import re
from typing import Any

import pytest
import torch
from torch import nn

from experiments.catalogue import find_methods
from lightning_modules.tasks.classifier import ClassifierSteps
from lightning_modules.tasks.segmenter import Segments
from tests.command import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| `(.+?)` \|", PAGE, re.MULTILINE))
FEWEST = 40
OPTIONAL = {"BM3D": "bm3d"}
"""Packages without which an example cannot run."""
FITTED = ("DeepImagePrior", "ScoreDVI", "Self2Self")
"""Methods that fit copies of their networks to each image, and therefore do not only evaluate them."""


def found(path: str) -> Any:
    """Return a function, a class, or a method of a class."""
    module, _, name = path.rpartition(".")
    if module.rpartition(".")[2][0].isupper():
        return inspect.getattr_static(found(module), name)
    return getattr(importlib.import_module(module), name)


def example(path: str) -> doctest.DocTest:
    name, of = path.rpartition(".")[2], found(path)
    parts = inspect.getdoc(of) or ""
    known = {"torch": torch, name: of}
    return doctest.DocTestParser().get_doctest(parts.partition("Examples:")[2], known, name, path, 0)


def verb_of(path: str) -> str:
    return re.sub(r"\(.*", "", ROWS[path]).rpartition(".")[2]


def call_of(run: doctest.DocTest, verb: str) -> ast.Call:
    """Return the call in an example that the table names."""
    nodes = (node for each in run.examples for node in ast.walk(ast.parse(each.source)) if isinstance(node, ast.Call))
    return next(node for node in nodes if getattr(node.func, "attr", getattr(node.func, "id", "")) == verb)


def parts_of(names: dict[str, Any]) -> list[nn.Module]:
    return list({part: None for each in names.values() if isinstance(each, nn.Module) for part in each.modules()})


def computed(function: Any, call: ast.Call, known: dict[str, Any], device: str | torch.device = "cpu") -> Any:
    """Call a function of an example again, on a device; its random numbers are those of a new CPU generator."""
    given = [eval(ast.unparse(each), known) for each in call.args if "Generator" not in ast.unparse(each)]
    more = {each.arg: eval(ast.unparse(each.value), known) for each in call.keywords}
    if "generator" in inspect.signature(function).parameters:
        more["generator"] = torch.Generator().manual_seed(1)
    for each in (getattr(function, "__self__", None), *given):
        if isinstance(each, nn.Module):
            each.to(device)
    return function(*(each.to(device) if isinstance(each, torch.Tensor) else each for each in given), **more)


@pytest.mark.parametrize("path", ROWS)
def test_an_example_prints_what_its_docstring_says(path: str) -> None:
    """It has at most five statements and calls the function, which leaves no gradients and no other modes behind."""
    name, verb = path.rpartition(".")[2], verb_of(path)
    pytest.importorskip(OPTIONAL.get(name, "torch"))
    run, written = example(path), []
    statements = [each.source for each in run.examples if not re.match(r"(from|import) ", each.source)]
    assert 1 <= len(statements) <= 5
    assert any(each.want for each in run.examples)
    torch.manual_seed(0)
    doctest.DocTestRunner(verbose=False).run(run, out=written.append, clear_globs=False)
    assert not written, "".join(written)
    call, known = call_of(run, verb), run.globs
    trained: list[bool] = []
    for place, part in enumerate(parts_of(known)):
        part.training ^= place % 3 == 2
        part.register_forward_pre_hook(lambda module, _: trained.append(module.training))
    before = [part.training for part in parts_of(known)]
    function = eval(ast.unparse(call.func), known)
    results = [computed(function, call, known) for _ in range(2)]
    assert [part.training for part in parts_of(known)] == before
    assert not any(trained) or name in FITTED
    if isinstance(results[0], torch.Tensor):
        assert results[0].isfinite().all()
        assert not results[0].requires_grad
        torch.testing.assert_close(*results, rtol=0, atol=1e-6 if name in OPTIONAL else 0)  # a package may round


def test_every_method_is_called_with_tensors_or_has_a_reason() -> None:
    assert len(ROWS) >= FEWEST
    methods = {each.class_path: each.name for each in find_methods()}
    called = {methods[path] for path in ROWS.keys() & methods.keys()}
    of_one_pass, others = PAGE.partition("Classifiers and segmenters")[2].split("The other methods", 1)
    inherited = set(re.findall(r"`(\w+)`", of_one_pass)) & set(methods.values())
    excused = {
        name for row in re.findall(r"^\| (`.+?`) \| ", others, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert sorted([*called, *inherited, *excused]) == sorted(methods.values())  # each in one place
    for path, name in methods.items():
        if name in inherited:
            kind = found(path)
            assert (
                kind.classify is ClassifierSteps.classify
                if hasattr(kind, "classify")
                else kind.segment is Segments.segment
            )
