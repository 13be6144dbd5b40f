"""BibTeX of what a run uses: its method, networks, data, metrics and libraries.

The references are those of the `Source:` paragraphs of docstrings, which are read without importing anything. Nothing
is added to them: `et al.` becomes `and others`.
"""

import ast
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from experiments.catalogue import YEAR, Paper, parse_source
from experiments.config_files import PROJECT, dump_yaml, mapping_of, settings_of
from experiments.listing import run_directories
from experiments.paper.formats import escape_latex

CLASS_PATH = re.compile(r"(?<![\w.])(?:lightning_modules|datamodules|callbacks)(?:\.\w+)+")
NAME = r"(?:(?:van|der|den|de|von|la|le|Van|Le|Di) )*(?:[A-Z]\. ?)*[A-Z][\w'-]*"
JOURNAL = re.compile(r"Journal|Transactions|JMLR|TPAMI|TGRS|TASLP|JAIR|JMIV|Biometrika|Neural Computation")
LIBRARIES = {
    "torch": "Paszke et al., PyTorch: An Imperative Style, High-Performance Deep Learning Library, NeurIPS 2019, arXiv "
    "1912.01703",
    "lightning": "Falcon et al., PyTorch Lightning, 2019",
    "torchmetrics": "Detlefsen et al., TorchMetrics - Measuring Reproducibility in PyTorch, Journal of Open Source "
    "Software 2022",
    "timm": "Wightman, PyTorch Image Models, 2019",
    "diffusers": "von Platen et al., Diffusers: State-of-the-art diffusion models, 2022",
    "transformers": "Wolf et al., Transformers: State-of-the-Art Natural Language Processing, EMNLP 2020, arXiv "
    "1910.03771",
    "peft": "Mangrulkar et al., PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods, 2022",
}
"""References that the libraries ask for. The first three are part of every run."""


def cite(paths: Iterable[Path]) -> str:
    """Return the BibTeX of all that runs or configurations use. Each reference occurs once.

    Args:
        paths: run directories, folders of runs, or configuration files.
    """
    used: dict[str, None] = {}
    models: dict[str, None] = {}
    for settings in (each for path in paths for each in _settings(path)):
        found = re.search(CLASS_PATH, dump_yaml(settings.get("model")) if "model" in settings else "")
        models |= dict.fromkeys([found[0]] if found else [])
        used |= dict.fromkeys(CLASS_PATH.findall(dump_yaml(settings)))
    entries, texts = Entries(), []
    libraries = dict.fromkeys(("torch", "lightning", "torchmetrics"))
    for class_path in [*models, *(each for each in used if each not in models)]:
        paper, sources = find_source(class_path)
        libraries |= dict.fromkeys(name for name in LIBRARIES if any(_imports(name, text) for text in sources))
        if paper:
            texts += entries.add(paper, class_path)
        elif class_path in models:
            texts.append(f"% {class_path} cites no paper\n")
    texts.append(_own_entry())
    for name in (name for name in LIBRARIES if name in libraries):
        paper = parse_source(f"Source: {LIBRARIES[name]}.")
        assert paper is not None
        texts += entries.add(paper, name)
    return "\n".join(texts)


def _settings(path: Path) -> Iterator[Mapping[str, object]]:
    """Yield the settings of a configuration file, of a run, or of all runs below a folder."""
    if not path.is_dir():
        flat = settings_of(path)
        yield {"model": {key: value for key, value in flat.items() if key.startswith("model")}, **flat}
        return
    runs = list(run_directories(path))
    if not runs:
        raise FileNotFoundError(f"there is no run in {path}; give a run directory, a folder of runs or a configuration")
    for run in runs:
        yield mapping_of(run / "config.yaml")


def _imports(name: str, source: str) -> bool:
    return re.search(rf"^\s*(?:from|import) {name}\b", source, re.MULTILINE) is not None


@cache
def find_source(class_path: str, project: Path = PROJECT) -> tuple[Paper | None, tuple[str, ...]]:
    """Find the reference of a class or function, and the source files that define it.

    The reference is in its docstring, in that of its file, or for a method with a folder, in that of the folder.
    """
    *parts, name = class_path.split(".")
    place = project.joinpath(*parts)
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    sources = {file: file.read_text(encoding="utf-8") for file in files if file.is_file()}
    defining = re.compile(rf"^(?:class|def) {name}\b", re.MULTILINE)
    for file, text in sources.items():
        if defining.search(text):
            tree = ast.parse(text)
            nodes = [
                each for each in tree.body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == name
            ]
            docstrings = [ast.get_docstring(each) or "" for each in (*nodes, tree)]
            if parts[0] == "lightning_modules" and len(file.relative_to(project).parts) > 3:
                package = file.with_name("__init__.py").read_text(encoding="utf-8")
                docstrings.append(ast.get_docstring(ast.parse(package)) or "")
            own = tuple(sources.values()) if len(parts) > 2 else (text,)
            return next(filter(None, map(parse_source, docstrings)), None), own
    return None, ()


class Entries:
    """BibTeX entries with unique keys. A paper that is added twice has one entry."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.papers: set[str] = set()

    def add(self, paper: Paper, of: str) -> list[str]:
        """Return the entry of a paper, or nothing if it has one already. A comment says what it is the paper of.

        If the parts of a reference cannot be told apart, there is only a comment.
        """
        identity = paper.arxiv or paper.title.lower()
        if identity in self.papers:
            return []
        authors = _authors(paper.authors)
        if not authors or not paper.title:
            about = ", ".join(filter(None, (paper.authors, str(paper))))
            return [f"% {of}: {about}\n"]
        self.papers.add(identity)
        year = _year(paper)
        word = next((each for each in re.findall(r"[a-z0-9]+", _ascii(paper.title).lower()) if len(each) > 3), "")
        stem = re.sub(r"[^a-z]", "", _ascii(authors[0].split()[-1]).lower()) + year + word
        key = next(key for key in (stem, *(f"{stem}{i}" for i in range(2, 100))) if key not in self.keys)
        self.keys.add(key)
        kind, name = "misc", ""
        if venue := paper.venue.removesuffix(year).strip() if year else paper.venue:
            kind, name = ("article", "journal") if JOURNAL.search(venue) else ("inproceedings", "booktitle")
        fields = {"author": " and ".join(authors), "title": f"{{{escape_latex(paper.title)}}}"}
        fields |= {name: escape_latex(venue)} if name else {}
        fields |= {"year": year} if year else {}
        fields |= {"eprint": paper.arxiv, "archivePrefix": "arXiv"} if paper.arxiv else {}
        return [f"% {of}\n{_entry(kind, key, fields)}"]


def _authors(text: str) -> list[str]:
    """Split authors. The result is empty if something is not a name."""
    names = re.split(r",? and |, ", re.sub(r" et al\.?$", "", text))
    if not all(re.fullmatch(f"{NAME}(?: Team)?", each) for each in names):
        return []
    return [f"{{{each}}}" if each.endswith(" Team") else each for each in names] + ["others"] * text.endswith("et al.")


def _year(paper: Paper) -> str:
    """Return the year of publication or, without one, the year in the arXiv number."""
    if years := [match[0] for match in YEAR.finditer(paper.venue)]:
        return years[-1]
    number = paper.arxiv.rpartition("/")[2][:2]
    return ("19" if number > "90" else "20") + number if number else ""


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{lines}}}\n"


def _own_entry() -> str:
    """Return the entry of this project: that of CITATION.cff, which an installed package does not have."""
    file = PROJECT / "CITATION.cff"
    own = mapping_of(file) if file.is_file() else {"authors": [{"name": "The noiseworks developers"}]}
    version = own.get("version") or metadata.version("noiseworks")
    authors = " and ".join(f"{{{each['name']}}}" for each in own["authors"])
    fields = {"author": authors, "title": "{noiseworks}", "howpublished": "Software", "note": f"Version {version}"}
    return f"% this project\n{_entry('misc', 'noiseworks', fields)}"
