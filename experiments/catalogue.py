"""Lists every method: its paper, its configs and what they need.

    python train.py methods --field noisy_labels

All of it is read from where it is written, and nothing is imported: a method is a class under lightning_modules that
derives from LightningModule; its paper stands in the docstring of the class or of its file, in a paragraph

    Source: Authors, Title, VENUE YEAR, arXiv ID.

its configs are the YAML files that name the class under `model`; what a config needs stands in the comment at its top,
in lines `# needs: ...`.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.arguments import ArgumentParser
from experiments.config_files import BASE_LINE, settings_of, text_of
from experiments.results import markdown, table, terminal

PROJECT = Path(__file__).resolve().parents[1]
YEAR = re.compile(r"\b(19|20)\d\d\b")
ARXIV = re.compile(r"\barXiv[:\s]\s*(?P<id>\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?")


@dataclass(frozen=True)
class Paper:
    """What a `Source:` paragraph says; what it does not say is empty."""

    authors: str = ""
    title: str = ""
    venue: str = ""
    arxiv: str = ""

    def __str__(self) -> str:
        parts = (self.title, self.venue, f"arXiv {self.arxiv}" if self.arxiv else "")
        return ", ".join(part for part in parts if part) or "-"


@dataclass(frozen=True)
class Config:
    """A YAML file that trains a method; the path is relative to the project."""

    path: Path
    needs: str


@dataclass(frozen=True)
class Method:
    """A class that trains something.

    Args:
        name: of the class.
        field: folder of lightning_modules in which it lies.
        module: dotted name of its file.
        paper: where it comes from.
        configs: what runs it.
    """

    name: str
    field: str
    module: str
    paper: Paper
    configs: list[Config]


def parse_source(docstring: str) -> Paper | None:
    """Reads the paragraph that begins with `Source:`; None if there is none."""
    match = re.search(r"^Source:\s*(.+?)(\n\s*\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if not match:
        return None
    text = " ".join(match[1].split())
    arxiv = ARXIV.search(text)
    reference = text[: arxiv.start()] if arxiv else text
    segments = [segment.strip(" ;") for segment in reference.rstrip(" ,.;").split(", ")]
    dated = [i for i, segment in enumerate(segments) if i >= 2 and YEAR.search(segment)]
    venue = ""
    if dated:
        venue = segments[dated[-1]]
        venue = venue[: list(YEAR.finditer(venue))[-1].end()]
        del segments[dated[-1] :]
        if YEAR.fullmatch(venue) and len(segments) > 2:
            venue = f"{segments.pop()} {venue}"
    authors = _count_authors(segments)
    title = ", ".join(segments[authors:]).strip("\"'“” ")
    return Paper(", ".join(segments[:authors]), title, venue, arxiv["id"] if arxiv else "")


def _count_authors(segments: Sequence[str]) -> int:
    """How many of the parts between commas are authors: up to one with `and` or `et al.`, or to the first long one."""
    for i, segment in enumerate(segments[:-1]):
        names = re.split(r"\band\b|\bet al\b\.?", segment)
        if any(len(name.split()) > 4 for name in names):
            return max(i, 1)
        if len(names) > 1:
            return i + 1
    last_is_long = len(segments[-1].split()) > 4
    return len(segments) - 1 if last_is_long else min(1, len(segments) - 1)


def find_methods(project: Path = PROJECT) -> list[Method]:
    """The methods in the files under `lightning_modules/<field>`, in the order of fields, files and lines."""
    configs: dict[str, list[Config]] = {}
    for config, class_path in _configs(project):
        configs.setdefault(class_path, []).append(config)
    methods = []
    root = project / "lightning_modules"
    for file in sorted(root.glob("*/**/*.py")):
        text = file.read_text(encoding="utf-8")
        if "LightningModule" not in text:
            continue
        tree = ast.parse(text, filename=str(file))
        module = ".".join(file.relative_to(project).with_suffix("").parts).removesuffix(".__init__")
        source = parse_source(ast.get_docstring(tree) or "")
        for node in _lightning_modules(tree):
            paper = parse_source(ast.get_docstring(node) or "") or source or Paper()
            own = [config for path in _class_paths(module, node.name) for config in configs.get(path, [])]
            methods.append(Method(node.name, file.relative_to(root).parts[0], module, paper, own))
    return methods


def _class_paths(module: str, name: str) -> list[str]:
    """The names under which a config may refer to a class: in its file, or in a package above it."""
    parts = module.split(".")
    return [".".join([*parts[:length], name]) for length in range(len(parts), 1, -1)]


def _lightning_modules(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Classes that derive from LightningModule, directly or through one above them in the file."""
    known = {"LightningModule"}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
            names = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in bases}
            if names & known:
                known.add(node.name)
                yield node


def _configs(project: Path) -> Iterator[tuple[Config, str]]:
    """The configs that name a class under `model`, with the name."""
    for file in sorted((project / "configs").rglob("*.yaml")):
        text = text_of(file)
        if file.name == "claim.yaml" or not ("class_path" in text or BASE_LINE.search(text)):
            continue
        class_path = settings_of(file).get("model.class_path")
        if isinstance(class_path, str):
            yield Config(file.relative_to(project), needs(text)), class_path


def needs(text: str) -> str:
    """What the lines `# needs: ...` in the comment at the top of a config say."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        match = re.fullmatch(r"#\s*needs:\s*(.+)", line.strip(), re.IGNORECASE)
        if match:
            found.append(match[1])
    return "; ".join(found)


def rows(methods: Sequence[Method]) -> list[list[str]]:
    """The table's rows: method, field, paper, configs, needs. A line for each config within its cells."""
    return [
        [
            method.name,
            method.field,
            str(method.paper),
            "\n".join(str(config.path) for config in method.configs) or "-",
            "\n".join(dict.fromkeys(_needs_of(method))) or "-",
        ]
        for method in methods
    ]


def _needs_of(method: Method) -> Iterator[str]:
    """Needs, each with the configs that share it unless all do."""
    groups: dict[str, list[str]] = {}
    for config in method.configs:
        groups.setdefault(config.needs or "-", []).append(config.path.stem)
    for text, stems in groups.items():
        yield text if len(groups) == 1 else f"{', '.join(stems)}: {text}"


def main(argv: Sequence[str], project: Path = PROJECT) -> int:
    """The subcommand.

    Args:
        argv: what follows `train.py methods`.
        project: the folder that holds lightning_modules and configs.

    Returns:
        Exit status: 0, or 2 for bad input.
    """
    try:
        parser = ArgumentParser("train.py methods", __doc__)
        parser.add_argument("--field", help="only this folder of lightning_modules")
        parser.add_argument("--markdown", action="store_true", help="a Markdown table")
        arguments = parser.parse_args(argv)
        methods = find_methods(project)
        fields = sorted({method.field for method in methods})
        if arguments.field and arguments.field not in fields:
            raise ValueError(f"--field must be one of {', '.join(fields)}, got {arguments.field}")
    except (ValueError, OSError, SyntaxError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = rows([method for method in methods if arguments.field in (None, method.field)])
    header = ["method", "field", "paper", "configs", "needs"]
    if arguments.markdown:
        print(markdown(header, [[cell.replace("\n", "<br>") for cell in row] for row in chosen]), end="")
    else:
        terminal().print(table(f"{len(chosen)} methods", header, chosen))
    return 0
