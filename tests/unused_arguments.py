"""Find arguments of a class that have no effect under some option of a mode, by analysing the source.

A mode is an argument of a class whose annotation is a `Literal` of strings. Each read of `self.<argument>`, or of the
argument itself in the constructor, is recorded with the options under which it is reached. Surrounding conditions and
earlier returns limit these options. If the constructor passes an argument on, or if another file of the same folder
uses the argument, it counts as always read. Ruff's ARG rules find only arguments that no option reads.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.command import ROOT

Options = dict[str, frozenset[str]]
CHECKS = {"at_least", "positive", "within", "one_of", "only_with"}
TREES: dict[Path, ast.Module] = {
    path: ast.parse(path.read_text())
    for room in ("callbacks", "datamodules", "lightning_modules")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def strings_of(annotation: ast.AST | None) -> frozenset[str]:
    """Return the strings of the `Literal` that an annotation contains."""
    found: set[str] = set()
    for node in ast.walk(annotation) if annotation is not None else ():
        if isinstance(node, ast.Name) and node.id in ALIASES:
            found |= ALIASES[node.id]
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal":
            found |= {each.value for each in ast.walk(node.slice) if isinstance(each, ast.Constant)}  # type: ignore[misc]
    return frozenset(each for each in found if isinstance(each, str))


ALIASES: dict[str, frozenset[str]] = {}
for _tree in TREES.values():
    for _line in _tree.body:
        if isinstance(_line, ast.Assign) and isinstance(_line.targets[0], ast.Name) and strings_of(_line.value):
            ALIASES[_line.targets[0].id] = strings_of(_line.value)


def constructor(owner: ast.ClassDef) -> ast.FunctionDef | None:
    """Return the constructor that the class itself defines, if any."""
    return next((m for m in owner.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)


class Reads:
    """Records, for each argument and mode of a class, the options under which the argument is read."""

    def __init__(self, owner: ast.ClassDef, init: ast.FunctionDef) -> None:
        arguments = [*init.args.args[1:], *init.args.kwonlyargs]
        self.modes = {each.arg: found for each in arguments if len(found := strings_of(each.annotation)) > 1}
        self.names = {each.arg for each in arguments}
        self.read: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.rejected = {
            keyword.arg
            for node in ast.walk(init)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "only_with"
            for keyword in node.keywords
        }
        for method in owner.body:
            self.inside = method is init
            if isinstance(method, ast.FunctionDef):
                self.block(method.body, dict(self.modes))

    def named(self, node: ast.AST) -> str | None:
        """Return the name of the argument that an expression refers to: `self.x`, or `x` in the constructor."""
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
            return node.attr if node.attr in self.names else None
        return node.id if self.inside and isinstance(node, ast.Name) and node.id in self.names else None

    def split(self, test: ast.expr, options: Options) -> tuple[Options, Options]:
        """Return the options that remain if a condition is true, and those that remain if it is false."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            holds, fails = self.split(test.operand, options)
            return fails, holds
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            left = options
            for each in test.values:
                left, fails = self.split(each, left)
            return left, fails if len(test.values) == 1 else options
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and (name := self.named(test.left)) in self.modes:
            wanted = {each.value for each in ast.walk(test.comparators[0]) if isinstance(each, ast.Constant)}
            if wanted and wanted <= self.modes[name]:
                among = options | {name: options[name] & wanted}
                others = options | {name: options[name] - wanted}
                return (among, others) if isinstance(test.ops[0], ast.Eq | ast.In) else (others, among)
        return options, options

    def block(self, lines: Sequence[ast.stmt], options: Options) -> None:
        """Process statements in order; after `if ...: return`, only the options that did not return remain."""
        for line in lines:
            if isinstance(line, ast.If):
                holds, fails = self.split(line.test, options)
                if not (self.inside and isinstance(line.body[-1], ast.Raise)):
                    self.expression(line.test, options)
                    self.block(line.body, holds)
                self.block(line.orelse, fails)
                if isinstance(line.body[-1], ast.Return):
                    options = fails
            elif isinstance(line, ast.FunctionDef | ast.For | ast.While | ast.With | ast.Try):
                for each in ast.iter_child_nodes(line):
                    if isinstance(each, ast.expr | ast.withitem):
                        self.expression(each, options)
                self.block(line.body, options)
                self.block(getattr(line, "orelse", []), options)
            elif not (self.inside and (self.is_kept(line) or self.is_check(line))):
                self.expression(line, options)

    def is_kept(self, line: ast.stmt) -> bool:
        """Return whether a constructor line only stores an argument, or its replacement for None, as `self.x`."""
        if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
            return False
        target = line.targets[0] if isinstance(line, ast.Assign) else line.target
        kept = [line.value.body, line.value.orelse] if isinstance(line.value, ast.IfExp) else [line.value]
        return any(isinstance(each, ast.Name) and getattr(target, "attr", "") == each.id for each in kept)

    def is_check(self, line: ast.stmt) -> bool:
        """Return whether a line of the constructor only checks the range of an argument."""
        call = line.value if isinstance(line, ast.Expr) else None
        return isinstance(call, ast.Call) and getattr(call.func, "id", "") in CHECKS

    def expression(self, node: ast.AST, options: Options) -> None:
        """Record the arguments that an expression reads."""
        if isinstance(node, ast.IfExp):
            holds, fails = self.split(node.test, options)
            self.expression(node.test, options)
            self.expression(node.body, holds)
            self.expression(node.orelse, fails)
            return
        if (name := self.named(node)) is not None and isinstance(node.ctx, ast.Load):  # type: ignore[attr-defined]
            for mode in self.modes:
                self.read[name, mode] |= options[mode]
        for each in ast.iter_child_nodes(node):
            self.expression(each, options)


def read_elsewhere(path: Path, owner: ast.ClassDef) -> set[str]:
    """Return the attributes that code outside the class reads, in the files of the same method."""
    folder = path.parent if len(path.relative_to(ROOT).parts) > 3 else None
    files = [each for each in TREES if each.parent == folder] if folder else [path]
    own = {id(node) for node in ast.walk(owner)}
    nodes: Iterator[ast.AST] = (node for each in files for node in ast.walk(TREES[each]) if id(node) not in own)
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def unused_arguments() -> Mapping[str, str]:
    """Find arguments that an option leaves unread without a rejection in the constructor.

    Returns:
        Mapping from `path:Class.argument` to `mode option option ...`, the options that read the argument.
    """
    found = {}
    for path, tree in TREES.items():
        for owner in tree.body:
            if not isinstance(owner, ast.ClassDef) or (init := constructor(owner)) is None:
                continue
            reads = Reads(owner, init)
            elsewhere = read_elsewhere(path, owner) if reads.modes else set()
            for (name, mode), options in reads.read.items():
                if name != mode and options and options < reads.modes[mode] and name not in reads.rejected | elsewhere:
                    found[f"{path.relative_to(ROOT)}:{owner.name}.{name}"] = " ".join([mode, *sorted(options)])
    return found
