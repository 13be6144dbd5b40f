"""Turn README, method sections, configurations, notebooks and packages into pages of the site (`make docs`).

MkDocs calls `on_config`, then `on_files`. A page of docs/ with sections `## <a id="elr"></a>ELR` is split into a page
per section, so that each method has its own page. Relative links between files of the repository are replaced by links
between these pages.
"""

import ast
import itertools
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import HtmlInlineProcessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.equations import typeset

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("lightning_modules", "datamodules", "callbacks", "experiments")
AT_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FIRST = ("own.md", "choose_a_denoiser.md", "python.md", "runs.md", "sweeps.md", "clusters.md", "export.md")
"""The first of the guides."""
RESULTS = ("leaderboards.md", "abstracts.md", "reproduced.md", "denoisers.md", "speech.md", "benchmarks.md", "gpu.md")
ALSO = {
    "deep_image_prior": "DIP",
    "golden_noise": "NPNet",
    "mbbo": "SVRB MSVR bilevel",
    "negvsr": "Neg-VSR",
    "nm_sparsity": "N:M N M MDGF SDGF",
    "noise2noise": "N2N",
    "noise2self": "N2S",
    "noise2void": "N2V",
    "optimistic_omd": "OMD",
    "pigdm": "ΠGDM",
    "scale_mixture_nngp": "NNGP",
    "score_sde": "NCSN++ VE VP",
}
"""Abbreviations that neither the name of a class, nor a summary, nor a title contains."""
SECTION = re.compile(r'^## <a id="(\w+)"></a>(.+)\n', re.MULTILINE)
CLASS_PATH = re.compile(rf"(?<![\w.])(?:{'|'.join(PACKAGES)})(?:\.\w+)*\.[A-Za-z]\w*")
LINK = re.compile(r"\]\((?!\w+:|/)([^)#\s]*)(#[^)\s]*)?\)")
TAGS = "a|b|br|code|details|div|em|i|img|kbd|p|picture|source|span|strong|sub|summary|sup|table|tbody|td|th|thead|tr"


class Notation(Extension):
    """Typesets equations, and leaves `<w, x>` and `<name>` in prose as text: only names of HTML tags begin a tag."""

    def extendMarkdown(self, md: Markdown) -> None:
        tag = rf"(</?(?:{TAGS})(?:\s[^<>]*)?/?>|<!--(?:(?!-->).)*-->)"
        md.inlinePatterns.register(HtmlInlineProcessor(tag, md), "html", 90)
        md.parser.blockprocessors.register(Equations(md.parser), "equations", 85)  # before code blocks, which are 80


class Equations(BlockProcessor):
    """Typesets an indented block that is clearly an equation; any other one remains code."""

    def test(self, parent: Element, block: str) -> bool:
        return block.startswith(" " * self.tab_length)

    def run(self, parent: Element, blocks: list[str]) -> bool:
        block, rest = self.detab(blocks[0])
        shown = None if rest else typeset(block)
        if shown:
            blocks.pop(0)
            SubElement(parent, "p").text = self.parser.md.htmlStash.store(f'<div class="equation">{shown}</div>')
        return bool(shown)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the Markdown extension."""
    config.markdown_extensions.append(Notation())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and arrange the navigation."""
    written = AT_ROOT | {f"docs/{path.name}": path.name for path in sorted(ROOT.glob("docs/*.md"))}
    written |= {
        f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in sorted(ROOT.glob("notebooks/*.ipynb"))
    }
    texts = {origin: _text(ROOT / origin) for origin in written}
    fields = [origin for origin, text in texts.items() if SECTION.search(text)]
    fields.sort(key=lambda origin: (origin == "docs/baselines.md", origin))
    written |= {origin: f"{Path(origin).stem}/index.md" for origin in ("docs/methods.md", *fields)}
    parts = {origin: dict(_split(origin, texts[origin])) for origin in fields}
    moved = {f"{origin}#{Path(page).stem}": page for origin in fields for page in parts[origin]} | written
    pages, methods_of = {}, defaultdict(list)
    for origin, text in texts.items():
        for page, part in parts.get(origin, {written[origin]: text}).items():
            pages[page] = _relinked(part, origin, page, moved)
            for folder in dict.fromkeys(re.findall(r"\(\.\./configs/(\w+)/", part)) if origin in fields else ():
                methods_of[folder].append(f"[{_title(part)}](../{page})")
    configurations, packages = dict(_configurations(methods_of)), dict(_packages())
    for path in ROOT.glob("docs/*.md"):
        files.remove(files.src_uris[path.name])
    methods = {page for origin in fields for page in parts[origin] if not page.endswith("/index.md")}
    for page, text in (pages | configurations | packages).items():
        tags = _abbreviations(page, text) if page in methods else []
        extends = any(page.startswith(f"{other.removesuffix('.md')}_") for other in methods)  # ELR+ after ELR
        files.append(File.generated(config, page, content=_meta(page, text, tags, extends) + text))
    for folder, picture in _pictures():
        files.append(File.generated(config, f"{folder}/{picture}", abs_src_path=str(ROOT / "docs" / picture)))
    placed = {"choose.md", "gallery.md", *FIRST, *RESULTS, *AT_ROOT.values()}
    guides = [*FIRST, *(page for page in written.values() if page not in placed and not page.endswith("/index.md"))]
    config.nav = [
        {"Home": "index.md"},
        {"Choose": "choose.md"},
        {"Methods": ["methods/index.md", *({_title(texts[origin]): [*parts[origin]]} for origin in fields)]},
        {"Gallery": "gallery.md"},
        {"Guides": guides},
        {"Results": [page for page in RESULTS if page in pages]},
        {"Configurations": _named("configs", configurations)},
        {"API": ["api/index.md", *({package: _named(f"api/{package}", packages)} for package in PACKAGES)]},
        {"Development": ["contributing.md", "changelog.md"]},
    ]
    return files


def _text(path: Path) -> str:
    """Read a Markdown file, or a notebook as Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"]]
    shown = [source if kind == "markdown" else f"```python\n{source}\n```" for source, kind in cells]
    return "\n\n".join([*shown, f"This page is the notebook `notebooks/{path.name}`.\n"])


def _meta(page: str, text: str, tags: Sequence[str], extends: bool) -> str:
    """Hide the table of contents of pages without sections, and the navigation of lone pages; rank the API last.

    The search finds a page by its tags before all others. They are not shown. A method that extends another one comes
    after it.
    """
    hidden = ["toc"] * ("\n## " not in text) + ["navigation"] * (page in ("index.md", "choose.md", "gallery.md"))
    boost = 0.5 if page.startswith(("api/", "changelog")) else 1 if page.startswith("configs/") else 2 - extends
    return f"---\nhide: {hidden}\nsearch: {{boost: {boost}}}\ntags: {json.dumps(tags)}\n---\n"


def _abbreviations(page: str, text: str) -> list[str]:
    """List the names by which people look for a method and that are not its heading: in summary, title and `ALSO`.

    In a summary or title, these are a word before a colon, words in brackets, and a hyphenated word with capitals at
    the beginning. The search splits words at hyphens.
    """
    folder, found = Path(page).stem, []
    for sentence in (_about(text.partition("\n")[2]), *re.findall(r"\*(.+?)\*", text)):
        found += re.findall(r"^([\w+-]+)(?=:)|\(([\w+-]*[A-Z][\w+-]*)\)|^([A-Z]+-\w+)", sentence)
    names = [*filter(None, itertools.chain(*found)), *ALSO.get(folder, "").split()]
    return list(dict.fromkeys(part for name in names for part in name.split("-")))


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _split(origin: str, text: str) -> Iterator[tuple[str, str]]:
    """Split a field's page: yield a page that lists the field's methods, then one page for each method."""
    before, *parts = SECTION.split(text)
    field, sections = Path(origin).stem, list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
    listed = "".join(f"- [{name}](#{anchor}): {_about(section)}\n" for anchor, name, section in sections)
    yield f"{field}/index.md", before + listed
    for anchor, name, section in sections:
        linked = re.sub(r"^- `([\w.]+)`", r"- [`\1`][\1]", section, flags=re.MULTILINE)
        yield f"{field}/{anchor}.md", f"# {name}\n{linked}"


def _about(section: str) -> str:
    """Return the first paragraph of a section after its picture."""
    paragraphs = section.strip().split("\n\n")
    return next((" ".join(each.split()) for each in paragraphs if not each.startswith("![")), "")


def _relinked(text: str, origin: str, page: str, moved: Mapping[str, str]) -> str:
    """Replace relative links to files of the repository by links to the pages of the site."""

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        place = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target)) if target else origin
        if place + anchor in moved:
            place, anchor = moved[place + anchor], ""
        elif place in moved:
            place = moved[place]
        elif configuration := re.fullmatch(r"configs/(?:(\w+)/)?(\w+)\.yaml", place):
            folder, name = configuration.groups()
            place, anchor = f"configs/{folder or name}.md", f"#{name}"
        else:
            place = place.removeprefix("docs/")
        return f"]({posixpath.relpath(place, posixpath.dirname(page))}{anchor})"

    return LINK.sub(link, text)


def _configurations(methods_of: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Yield a list of all configurations, and a page per folder."""
    files = sorted((ROOT / "configs").rglob("*.yaml"), key=lambda path: (path.parent, path))
    listed, pages = "# Configurations\n\n| folder | configurations |\n| --- | --- |\n", {}
    for folder, group in itertools.groupby(files, key=lambda path: path.parent):
        own = list(group)
        name = "defaults" if folder == ROOT / "configs" else folder.name
        method = f"Methods: {', '.join(methods_of[name])}\n\n" if name in methods_of else ""
        pages[f"configs/{name}.md"] = f"# {folder.relative_to(ROOT).as_posix()}\n\n{method}" + "\n".join(
            map(_configuration, own)
        )
        listed += f"| [{name}]({name}.md) | {', '.join(f'[{path.stem}]({name}.md#{path.stem})' for path in own)} |\n"
    yield "configs/index.md", listed
    yield from pages.items()


def _configuration(path: Path) -> str:
    """Write a configuration: the comment at its top as text, its YAML, and links to the classes that it names."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    said = (line.removeprefix("#").removeprefix(" ") for line in comment)
    text = ""
    for indented, group in itertools.groupby(said, key=lambda line: line.startswith("  ")):
        block = "\n".join(group)
        text += f"```text\n{block}\n```\n\n" if indented else re.sub(r"^needs:", "\nNeeds:", block, flags=re.M) + "\n\n"
    body = "\n".join(lines[len(comment) :])
    classes = ", ".join(f"[`{each.rpartition('.')[2]}`][{each}]" for each in dict.fromkeys(CLASS_PATH.findall(body)))
    return f"## {path.name} {{ #{path.stem} }}\n\n{text}```yaml\n{body}\n```\n" + (
        f"\nClasses: {classes}\n" if classes else ""
    )


def _packages() -> Iterator[tuple[str, str]]:
    """Yield a list of all packages, and a page per folder of a package, with the public names of all its files."""
    listed, pages = "# API\n", {}
    for package in PACKAGES:
        listed += f"\n## {package}\n\n"
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            dotted = ".".join(folder.relative_to(ROOT).parts)
            page = f"# {dotted}\n\n::: {dotted}\n    options: {{members: false}}\n"
            for path in sorted(folder.glob("[!_]*.py")):
                page += f"\n## {path.stem} {{ #{dotted}.{path.stem} }}\n\n::: {dotted}.{path.stem}\n"
            name = f"{package}/{dotted.removeprefix(package).removeprefix('.') or 'index'}.md"
            pages[f"api/{name}"] = page
            about = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
            listed += f"- [{dotted}]({name}): {about.partition(chr(10) * 2)[0]}".rstrip(": ") + "\n"
    yield "api/index.md", listed
    yield from pages.items()


def _pictures() -> Iterator[tuple[str, str]]:
    """For each picture that a docstring links, yield the folder of its API page and the picture's path in docs/."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for picture in re.findall(r"\]\((images/[\w.]+)\)", path.read_text(encoding="utf-8")):
                yield f"api/{package}", picture


def _named(folder: str, pages: Mapping[str, str]) -> list[Any]:
    """Name the pages of a folder in the navigation after their files."""
    names = [name for name in pages if name.startswith(f"{folder}/")]
    return [name if name.endswith("/index.md") else {Path(name).stem: name} for name in names]
