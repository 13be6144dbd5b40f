"""The committed pages are those that the generator makes from the committed data."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from experiments import pages, pictures
from experiments.pages import with_section
from tests.command import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    return pages.generate_pages()


def test_the_committed_pages_are_generated(generated: dict[Path, str]) -> None:
    for path, text in generated.items():
        assert path.read_text() == text, f"{path.name} is not what `python train.py pages` writes: run it"


def anchors(page: Path) -> set[str]:
    """Collect a page's link targets: ids, and headings as GitHub writes them, `many-gpus` for `## Many GPUs`."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    named = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    return {*re.findall(r'id="([^"]+)"', text), *named}


def test_every_link_of_a_page_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_pictures_are_small_and_shown(generated: dict[Path, str]) -> None:
    shown = "".join(generated.values()) + "".join(
        (DOCS / name).read_text() for name in ("data.md", "runs.md", "sweeps.md")
    )
    for picture in DOCS.glob("images/*"):
        assert picture.stat().st_size <= pictures.MAX_BYTES, picture.name
        assert f"images/{picture.name})" in shown


def with_a_figure(folder: Path, **figure: object) -> None:
    """Copy ELR into a project, with one figure that has only the given keys."""
    for name in ("configs/elr", "lightning_modules/noisy_labels", "docs/images"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "lightning_modules/noisy_labels/elr.py", folder / "lightning_modules/noisy_labels")
    shutil.copy(ROOT / "configs/elr/demo.yaml", folder / "configs/elr/demo.yaml")
    entry = {"method": "demo.yaml", "figure": {"image": "elr", "see": "One.", **figure}}
    (folder / "configs/elr/claim.yaml").write_text(yaml.safe_dump([entry], sort_keys=False))


def test_pictures_come_from_the_runs_that_figures_name(tmp_path: Path) -> None:
    with_a_figure(tmp_path, file="figures/early_learning.png")
    run = tmp_path / "runs/elr/demo"
    (run / "figures").mkdir(parents=True)
    (run / "test_metrics.csv").write_text("")
    Image.new("RGB", (2000, 50), "green").save(run / "figures/early_learning.png")
    pages.make_pictures(tmp_path / "runs", project=tmp_path)
    with Image.open(tmp_path / "docs/images/elr.png") as picture:
        assert picture.size == (1000, 25)
    with pytest.raises(ValueError, match="no figure has the name none"):
        pages.make_pictures(tmp_path / "runs", ["none"], project=tmp_path)


@pytest.mark.parametrize("text", ["", "# Title\n", "<!-- a:end -->\n<!-- a:begin -->\n", "<!-- a:begin -->\n" * 2])
def test_a_file_without_markers_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match="must contain the lines <!-- a:begin --> and <!-- a:end --> once each"):
        with_section(tmp_path / "README.md", "a", "new\n")
    with pytest.raises(FileNotFoundError):
        with_section(tmp_path / "none.md", "a", "new\n")
    (tmp_path / "README.md").write_text("# Title\n<!-- a:begin -->\nold\n<!-- a:end -->\nThe end.\n")
    changed = with_section(tmp_path / "README.md", "a", "new\n")
    assert changed == "# Title\n<!-- a:begin -->\nnew\n<!-- a:end -->\nThe end.\n"
