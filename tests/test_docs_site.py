"""The documentation site has a page for each method, configuration folder and package, and its links resolve."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown import Markdown
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files, get_files

from docs.equations import typeset
from docs.hooks import Notation
from experiments.catalogue import find_methods
from tests.command import ROOT, environment


@pytest.fixture(scope="module")
def config() -> MkDocsConfig:
    return load_config(str(ROOT / "mkdocs.yml"))


@pytest.fixture(scope="module")
def files(config: MkDocsConfig) -> Files:
    return config.plugins.on_files(get_files(config), config=config)


def test_every_method_configuration_and_package_has_its_place(files: Files) -> None:
    for method in find_methods():
        assert f"[`{method.class_path}`][{method.class_path}]" in text(files, f"{method.field}/{method.folder}.md")
    for path in (ROOT / "configs").glob("*/*.yaml"):
        assert f"## {path.name} {{ #{path.stem} }}\n" in text(files, f"configs/{path.parent.name}.md")
    for package in ("lightning_modules", "datamodules", "callbacks", "experiments"):
        shown = "".join(text(files, each) for each in files.src_uris if re.match(f"api/{package}/.*md$", each))
        named = set(re.findall(r"^::: (\S+)$", shown, re.MULTILINE))
        modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("[!_]*.py")]
        assert named >= {".".join(module.parts) for module in modules}


def test_every_page_is_in_the_navigation_and_other_files_are_those_of_docs(files: Files, config: MkDocsConfig) -> None:
    assert {file.src_uri for file in files.documentation_pages()} == set(pages_of(config.nav))
    pictures = {f"images/{path.name}" for path in ROOT.glob("docs/images/*")}
    assert pictures <= set(files.src_uris)


def test_baselines_are_the_last_of_the_methods(config: MkDocsConfig) -> None:
    [methods] = [part["Methods"] for part in config.nav or [] if "Methods" in part]
    titles = [title for part in methods[1:] for title in part]
    assert titles[-1] == "Baselines"
    assert titles[:-1] == sorted(titles[:-1])


def test_links_of_the_repository_lead_to_pages_of_the_site(files: Files) -> None:
    shown = text(files, "noisy_labels/elr.md")
    assert "[configs/elr/demo.yaml](../configs/elr.md#demo)" in shown
    assert "](../images/elr.png)" in shown
    assert "](../noisy_labels/elr.md)" in text(files, "methods/index.md")
    assert "](noisy_labels/elr.md)" in text(files, "choose.md")
    assert "](index.md#many-gpus)" in text(files, "clusters.md")
    assert "[ELR](../noisy_labels/elr.md)" in text(files, "configs/elr.md")


def test_tests_that_guides_name_exist() -> None:
    named = {
        name for page in (ROOT / "docs").glob("*.md") for name in re.findall(r"`(tests/[\w/]+\.py)", page.read_text())
    }
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def plain(equation: str) -> str:
    """Return the MathML of an equation in short: groups in braces, and no tags around letters, numbers and signs."""
    found = typeset(equation)
    assert found is not None
    for tag, sign in (("<mrow>", "{"), ("</mrow>", "}"), (' accent="true"', ""), ("&nbsp;", " ")):
        found = found.replace(tag, sign)
    return re.sub("</?m(?:i|n|o|tr|td|text|table|ath|space)[ >/][^<>]*>|</?m(?:i|n|o|tr|td|text|table|ath)>", "", found)


@pytest.mark.parametrize(
    ("equation", "shown"),
    [
        ("x_{t+1} <- x^ + 1", "<msub>{x}{t+1}</msub>←<mover>{x}^</mover>+1"),
        ("L = (1/B) sum_i p", "L=<mfrac>{1}{B}</mfrac><munder>{∑}{i}</munder>p"),
        ("x = a b / c + d", "x=<mfrac>{ab}{c}</mfrac>+d"),
        ("x = (a + b) / (2 c)", "x=<mfrac>{a+b}{2c}</mfrac>"),
        ("x = a / b c", "x=a/bc"),
        ("x = log a / b", "x=loga/b"),
        ("<t, p> <= |x|^2", "{⟨{t,p}⟩}≤<msup>{{|{x}|}}{2}</msup>"),
        ("z = KL(p || q)", "z=KL{({p‖q})}"),
        ("s = sqrt(abar_t)", "s=<msqrt><msub>{<mover>{a}¯</mover>}{t}</msub></msqrt>"),
        ("i in J if y' = S", "i∈J if y\N{PRIME}=S"),
        ("grad L = x,    y = 2", "∇L=x,y=2"),
    ],
)
def test_equations_are_typeset(equation: str, shown: str) -> None:
    assert plain(equation) == shown


@pytest.mark.parametrize(
    "block",
    [
        "1. w is set to the stored iterate with the smallest norm;",
        "fit(model, lr=0.1)",
        "run = build(parse(arguments))\nprint(run.model)",
        "x = (a + b",
        "python train.py fit --config configs/elr/demo.yaml",
        "see `typeset`: x = 1",
    ],
)
def test_what_is_not_clearly_an_equation_remains_code(block: str) -> None:
    assert typeset(block) is None


def test_most_equations_of_methods_are_typeset() -> None:
    blocks = [each for method in find_methods() for each in re.findall(r"\n\n((?:    .+\n?)+)", method.docstring)]
    assert len(blocks) > 80
    assert sum(typeset(each) is not None for each in blocks) > 0.85 * len(blocks)
    extensions = [Notation(), "pymdownx.highlight", "pymdownx.superfences"]
    shown = Markdown(extensions=extensions).convert("Text:\n\n    L = a\n\nText.\n\n    code\n")
    assert '<div class="equation"><math display="block">' in shown
    assert "<code>code" in shown


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("noisy_labels/elr", "ELR"),
        ("diffusion/red_diff", "RED-diff"),
        ("restoration/sgmse", "SGMSE+"),
        ("efficiency/nm_sparsity", "N:M"),
        ("efficiency/wta_crs", "WTA-CRS"),
        ("robustness/denoised_smoothing", "DDS"),
        ("baselines/noise2void", "N2V"),
    ],
)
def test_the_search_finds_a_method_by_its_abbreviation(page: str, names: str, files: Files) -> None:
    [tags] = re.findall(r"^tags: (.*)$", text(files, f"{page}.md"), re.MULTILINE)
    assert set(names.split("-")) <= set(json.loads(tags))


def test_the_search_lists_a_method_before_one_that_extends_it(files: Files) -> None:
    boosts = [re.findall(r"boost: (\d)", text(files, f"noisy_labels/{page}.md")) for page in ("elr", "elr_plus")]
    assert boosts == [["2"], ["1"]]


def text(files: Files, page: str) -> str:
    assert page in files.src_uris, f"docs/ has no text for {page}: run `python train.py pages` after adding a method"
    return files.src_uris[page].content_string


def pages_of(nav: object) -> list[str]:
    """List the pages of a navigation: nested lists of file names and of titles with pages."""
    if isinstance(nav, str):
        return [nav]
    parts = nav if isinstance(nav, list) else [*nav.values()] if isinstance(nav, dict) else []
    return [page for part in parts for page in pages_of(part)]


class Page(HTMLParser):
    """Collects a page's links, anchors and viewport; `loaded` lists the resources that a browser loads itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors = {""}
        self.fits_a_phone = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if anchor := named.get("id"):
            self.anchors.add(anchor)
        for name in ("href", "src"):
            if (target := named.get(name)) and named.get("rel") != "canonical":
                (self.links if tag == "a" else self.loaded).add(target)
        if tag == "meta" and named.get("name") == "viewport":
            self.fits_a_phone = "width=device-width" in (named.get("content") or "")


@pytest.mark.nightly
def test_every_link_of_the_built_site_resolves_and_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 200
    for path, page in pages.items():
        assert page.fits_a_phone, path
        assert not {each for each in page.loaded if urlsplit(each).netloc}, path
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data") or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path not in ("", ".") else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            anchor = unquote(parts.fragment)
            assert target not in pages or anchor in pages[target].anchors, f"{path.relative_to(site)}: {link}"
