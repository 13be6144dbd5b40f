"""The committed pages are those that the generator makes from the committed data."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from experiments import commands, pages, pictures
from experiments.pages import with_section
from tests.command import ROOT

DOCS = ROOT / "docs"
MARKERS = [f"<!-- {name}:{end} -->\n" for name in ("gallery",) for end in ("begin", "end")]


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    return pages.generate_pages()


def test_the_committed_pages_are_generated(generated: dict[Path, str]) -> None:
    for path, text in generated.items():
        assert path.read_text() == text, f"{path.name} is not what `python train.py pages` writes: run it"


def test_the_verdict_of_a_method_counts_every_claim(generated: dict[Path, str]) -> None:
    """A claim that was not borne out is one of those that do not hold, so that the two numbers never contradict."""
    rows = [line.split(" | ") for line in generated[DOCS / "methods.md"].splitlines() if "](" in line]
    with (DOCS / "claims.csv").open(encoding="utf-8", newline="") as file:
        claims = [row for row in csv.DictReader(file) if row["method"].startswith("configs/cbsn/")]
    held = sum(row["verdict"] == "holds" for row in claims)
    assert 0 < held < len(claims)
    assert [row[-1] for row in rows if "[CBSN]" in row[0]] == [f"{held} of {len(claims)} claims hold |"]
    assert "baselines.md" not in "".join(row[0] for row in rows[:45])


def test_a_method_begins_with_its_picture_and_what_it_is_for_and_its_configurations_are_folded(
    generated: dict[Path, str],
) -> None:
    section = generated[DOCS / "noisy_labels.md"].split('<a id="elr"></a>ELR')[1].split("\n## ")[0]
    order = [
        "![ELR](images/elr.png)",
        "\nEarly-learning regularisation",
        "\n- `lightning_modules.noisy_labels.elr.ELR`: ",
        "\n- For: Train a classifier on noisy labels. ",
        "\n- Needs on bundled or synthetic data: nothing (bundled data), CPU\n",
        "\n- Verdict: 2 of 2 claims hold",
        "\n    t_i <- beta t_i",
        " on bundled or synthetic data</summary>",
        "[configs/elr/demo.yaml]",
        " on the paper's data</summary>",
        "[configs/elr/cifar10.yaml]",
        "| claim | ",
    ]
    places = [section.index(each) for each in order]
    assert places == sorted(places)


def test_papers_come_first_in_the_table_and_on_the_pages(generated: dict[Path, str]) -> None:
    first, second = generated[DOCS / "methods.md"].split("\n## ")[1:]
    assert first.startswith("The 45 papers\n")
    assert first.count("](http") == 45
    assert all(f"[{name}]" in second for name in ("DPS", "Marigold", "CrossEntropy"))
    page = generated[DOCS / "denoising.md"]
    assert page.index('id="cbsn"') < page.index('id="sdap"') < page.index('id="ap_bsn"')


def test_the_example_of_a_class_is_on_its_page(tmp_path: Path) -> None:
    with_a_figure(tmp_path, file="table.png")
    module = tmp_path / "lightning_modules/noisy_labels/elr.py"
    args = "\n    Args:\n        network:"
    assert args in module.read_text()
    example = "\n    Examples:\n        >>> 1 + 1\n        2\n"
    module.write_text(
        re.sub(r"\n    Examples?:\n(?:        .*\n)+", "", module.read_text()).replace(args, example + args, 1)
    )
    (tmp_path / "docs/problems.csv").write_text("problem,data,cost,claim\n")
    (tmp_path / "README.md").write_text("".join(MARKERS))
    shown = pages.generate_pages(tmp_path)[tmp_path / "docs/noisy_labels.md"]
    assert "\nExample:\n\n```python\n>>> 1 + 1\n2\n```\n" in shown


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


def test_every_claim_that_was_measured_is_shown(generated: dict[Path, str]) -> None:
    shown = "".join(generated.values())
    claims = pages.read_csv(DOCS / "claims.csv")
    assert len(claims) >= 21
    for row in claims:
        assert f"| {row['claim']} | " in shown


def test_a_picture_is_made_smaller_until_it_is_small_enough(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1500, 300)).save(tmp_path / "large.png")
    pictures.shrink(tmp_path / "large.png", tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as small:
        assert small.width < 1000
    assert (tmp_path / "small.png").stat().st_size <= pictures.MAX_BYTES


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


@pytest.mark.parametrize("lines", [{}, {"one": "method", "other": {"config": "demo.yaml", "model.strength": 1}}])
def test_a_picture_can_be_that_of_a_comparison(
    lines: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "--seeds 0 --vary model.beta=0.1,0.9 -- --trainer.max_epochs 4"
    with_a_figure(tmp_path, file="table.png", compare=asked, **({"lines": lines} if lines else {}))
    asked_for = []

    def compares(command: list[str], check: bool) -> None:
        asked_for.append(command[2:])
        (run := Path(command[command.index("--output") + 1])).mkdir(parents=True)
        Image.new("RGB", (20, 10), "green").save(run / "table.png")

    monkeypatch.setattr(subprocess, "run", compares)
    monkeypatch.setattr(pictures, "_draw", lambda picture, arguments, run: run / "table.png")
    pages.make_pictures(tmp_path / "runs", project=tmp_path)
    parsed = commands.parse("compare", asked_for[0][1:])
    assert {each.config.resolve() for each in parsed.configs} == {(tmp_path / "configs/elr/demo.yaml").resolve()}
    assert [each.overrides for each in parsed.configs] == [(), ("--model.strength", "1")][: len(lines) or 1]
    assert (parsed.output, parsed.seeds) == (tmp_path / "runs/elr/demo", [0])
    assert parsed.overrides == ["--trainer.max_epochs", "4"]
    (tmp_path / "docs/problems.csv").write_text("problem,data,cost,claim\n")
    (tmp_path / "README.md").write_text("".join(MARKERS))
    shown = pages.generate_pages(tmp_path)[tmp_path / "docs/noisy_labels.md"]
    other = "'configs/elr/demo.yaml --model.strength 1' " if lines else ""
    assert f"`table.png` of `python train.py compare configs/elr/demo.yaml {other}{asked}`." in shown


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
