"""Catalogue of methods, with papers, configurations, requirements and claims.

The catalogue is read from the source files without importing them. A method is a class in lightning_modules that
derives from MethodModule or LightningModule. The docstring of the class, of its file or of its folder cites the paper
in the form

    Source: Authors, Title, VENUE YEAR, arXiv ID.

The configurations of a method are the YAML files that name its class under `model`. The requirements of a configuration
are in lines `# needs: ...` of the comment at the top.
"""

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.config_files import BASE_LINE, PROJECT, settings_of, text_of

BASES = ("MethodModule", "LightningModule")
BASELINES = "baselines"
"""Field of the methods with which several papers are compared."""
NEEDS = re.compile(r"#\s*needs:\s*(.+)", re.IGNORECASE)
EXAMPLES = re.compile(r"^Examples?:\n((?: +.*\n?|\n)+)", re.MULTILINE)
YEAR = re.compile(r"\b(19|20)\d\d\b")
ARXIV = re.compile(r"\barXiv[:\s]\s*(?P<id>\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?")


@dataclass(frozen=True)
class Paper:
    """Parts of the citation in a `Source:` paragraph. Missing parts are empty."""

    authors: str = ""
    title: str = ""
    venue: str = ""
    arxiv: str = ""

    def __str__(self) -> str:
        parts = (self.title, self.venue, f"arXiv {self.arxiv}" if self.arxiv else "")
        return ", ".join(part for part in parts if part) or "-"


@dataclass(frozen=True)
class Config:
    """A YAML file that trains a method.

    Args:
        path: path of the file, relative to the project.
        about: description of the file: the first sentence of the comment at its top.
        needs: required data, weights and hardware, from the comment at the top of the file.
    """

    path: Path
    about: str
    needs: str


@dataclass(frozen=True)
class Method:
    """A method: a LightningModule class, its paper and its configurations.

    Args:
        name: name of the class.
        field: name of the folder in lightning_modules that contains the method.
        module: dotted module name of the method's file.
        class_path: class path that configurations use.
        docstring: docstring that cites the paper: the docstring of the class, of its file or of its folder.
        paper: citation of the paper.
        configs: configurations of the method.
        example: Python session of the section `Examples:` in the docstring of the class. It is empty without one.
    """

    name: str
    field: str
    module: str
    class_path: str
    docstring: str
    paper: Paper
    configs: list[Config]
    example: str = ""

    @property
    def folder(self) -> str:
        """Name of the method's file or folder, for example `elr`."""
        return self.module.split(".")[2]

    @property
    def page(self) -> str:
        """Section of the method in docs/."""
        return f"{self.field}.md#{self.folder}"

    @property
    def names(self) -> set[str]:
        """Lower-case names by which the method can be selected on the command line."""
        demos = (config.path.parent.name for config in self.configs if config.path.stem == "demo")
        return {self.name.lower(), self.folder, *demos}


def parse_source(docstring: str) -> Paper | None:
    """Parse the paragraph that begins with `Source:`, or return None if there is no such paragraph."""
    match = re.search(r"^Source:\s*(.+?)(\n\s*\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if not match:
        return None
    text = re.split(r"(?<=\d{4}); ", " ".join(match[1].split()))[0]  # only the first of several papers
    arxiv = ARXIV.search(text)
    reference = text[: arxiv.start()] if arxiv else text
    segments = [segment.strip(" ;") for segment in reference.rstrip(" ,.;").split(", ")]
    dated = [i for i, segment in enumerate(segments) if i >= 2 and YEAR.search(segment)]
    venue = ""
    if dated:
        venue = segments[dated[-1]]
        venue = venue[: list(YEAR.finditer(venue))[-1].end()]
        del segments[dated[-1] :]
        if YEAR.fullmatch(venue) and len(segments) - _count_authors(segments) > 1:
            venue = f"{segments.pop()} {venue}"
    authors = _count_authors(segments)
    title = ", ".join(segments[authors:]).strip("\"'“” ")
    return Paper(", ".join(segments[:authors]), title, venue, arxiv["id"] if arxiv else "")


def _count_authors(segments: Sequence[str]) -> int:
    """Count the segments that contain authors.

    The authors end with the first segment that has `and` or `et al.`, or before the first segment with a long name.
    """
    for i, segment in enumerate(segments[:-1]):
        names = re.split(r"\band\b|\bet al\b\.?", segment)
        if any(len(name.split()) > 4 for name in names):
            return max(i, 1)
        if len(names) > 1:
            return i + 1
    last_is_long = len(segments[-1].split()) > 4
    return len(segments) - 1 if last_is_long else min(1, len(segments) - 1)


def find_methods(project: Path = PROJECT) -> list[Method]:
    """Find all methods in `lightning_modules/<field>`, sorted by field, file and line. Baselines are last."""
    configs: dict[str, list[Config]] = {}
    for config, class_path in _configs(project):
        configs.setdefault(class_path, []).append(config)
    methods = []
    root = project / "lightning_modules"
    for file in sorted(root.glob("*/**/*.py"), key=lambda file: (file.is_relative_to(root / BASELINES), file)):
        text = file.read_text(encoding="utf-8")
        if not any(base in text for base in BASES):
            continue
        tree = ast.parse(text, filename=str(file))
        module = ".".join(file.relative_to(project).with_suffix("").parts).removesuffix(".__init__")
        outside = [ast.get_docstring(tree) or ""]
        if file.parent.parent != root and file.name != "__init__.py":
            package = file.with_name("__init__.py").read_text(encoding="utf-8")
            outside.append(ast.get_docstring(ast.parse(package)) or "")
        for node in _lightning_modules(tree):
            documented = [ast.get_docstring(node) or "", *outside]
            docstring = next((each for each in documented if parse_source(each)), outside[-1])
            paths = _class_paths(module, node.name)
            own = [config for path in paths for config in configs.get(path, [])]
            field = file.relative_to(root).parts[0]
            exported = ".".join([*module.split(".")[:3], node.name])
            session = EXAMPLES.search(documented[0])
            example = textwrap.dedent(session[1]).strip() if session else ""
            paper = parse_source(docstring) or Paper()
            methods.append(Method(node.name, field, module, exported, docstring, paper, own, example))
    return methods


def _class_paths(module: str, name: str) -> list[str]:
    """List the class paths of a class: through its file, and through the packages that contain the file."""
    parts = module.split(".")
    return [".".join([*parts[:length], name]) for length in range(len(parts), 1, -1)]


def _lightning_modules(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Yield the classes in a file that derive from one of `BASES`, directly or through an earlier class in the file."""
    known = set(BASES)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
            names = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in bases}
            if names & known:
                known.add(node.name)
                yield node


def _configs(project: Path) -> Iterator[tuple[Config, str]]:
    """Yield each configuration that has a class under `model`, with the class path."""
    for file in sorted((project / "configs").rglob("*.yaml")):
        text = text_of(file)
        if (
            file.name == "claim.yaml"
            or file.parent.name == "leaderboards"
            or not ("class_path" in text or BASE_LINE.search(text))
        ):
            continue
        class_path = settings_of(file).get("model.class_path")
        if isinstance(class_path, str):
            yield Config(file.relative_to(project), _about(text), needs(text)), class_path


def needs(text: str) -> str:
    """Join the lines `# needs: ...` in the comment at the top of a configuration."""
    return "; ".join(match[1] for line in _comment(text) if (match := NEEDS.fullmatch(line)))


def _about(text: str) -> str:
    """Return the first sentence of the comment at the top of a configuration, without indented commands."""
    lines = itertools.takewhile(lambda line: not (line.startswith("#   ") or NEEDS.fullmatch(line)), _comment(text))
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(line.removeprefix("#").strip() for line in lines))[0]


def _comment(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines() if line.strip())
    return list(itertools.takewhile(lambda line: line.startswith("#"), lines))


def field_title(field: str) -> str:
    return field.replace("_", " ").capitalize()


def one_line(methods: Sequence[Method]) -> Iterator[str]:
    """Yield one line for each method, with its name, field and paper."""
    name, field = (max(map(len, column)) for column in zip(*((m.name, m.field) for m in methods), strict=True))
    for method in methods:
        yield f"{method.name:{name}}  {method.field:{field}}  {method.paper}"


def describe_method(method: Method, claims: Sequence[str]) -> Iterator[str]:
    """Yield the lines that describe a method: class path, paper, first equation, configurations and claims."""
    yield method.class_path
    yield f"  {method.paper}" + (f", by {method.paper.authors}" if method.paper.authors else "")
    yield ""
    yield textwrap.indent(first_equation(method.docstring), "  ")
    for config in method.configs:
        yield f"\n  {config.path}\n    {config.about}\n    needs: {config.needs or '-'}"
    for claim in claims:
        yield f"\n  claim: {claim}"
    yield ""


def first_equation(docstring: str) -> str:
    """Cut a docstring after its first equation, which is an indented paragraph.

    If there is no equation, cut it after the first paragraph.
    """
    paragraphs = docstring.split("\n\n")
    equation = next((i for i, paragraph in enumerate(paragraphs) if paragraph.startswith("    ")), 0)
    return "\n\n".join(paragraphs[: equation + 1]).rstrip(",;: \n")


def claims_of(method: Method, project: Path) -> list[str]:
    """List the claims about a method, each with its name, sentence, metric and margin."""
    from experiments.claims.statements import load_claims

    paths, found = [config.path for config in method.configs], []
    for folder in dict.fromkeys(path.parent for path in paths):
        file = project / folder / "claim.yaml"
        for claim in load_claims(file) if file.is_file() else []:
            if claim.method.config.relative_to(project) in paths:
                other = f"{claim.baseline}'s" if claim.baseline else f"{claim.published:g}, which is published,"
                than = f"{claim.direction} than {other.replace(f'{project / folder}/', '')}"
                found.append(f"{claim.name}: {claim.paper} ({claim.metric} {than} by {claim.margin:g})")
    return found
