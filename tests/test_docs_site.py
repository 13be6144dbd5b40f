"""The documentation site has a page for each method, configuration folder and package, and its links resolve."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files, get_files

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
    assert "](noisy_labels/elr.md)" in text(files, "index.md")
    assert "](index.md#many-gpus)" in text(files, "clusters.md")
    assert "[ELR](../noisy_labels/elr.md)" in text(files, "configs/elr.md")


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
