"""Pictures that compare runs: the settings of figures, and the numbers of the drawn lines."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments import pictures
from experiments.catalogue import find_methods
from experiments.claims.arms import Arm
from experiments.pages import sections
from experiments.pictures import Picture, pictures_of_methods
from tests.command import ROOT


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the saved figures."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: found.append(self))
    return found


def every_picture() -> list[Picture]:
    return [each for _, _, own in sections(find_methods(ROOT)) for each in pictures_of_methods(own, ROOT)]


def test_every_picture_says_in_a_sentence_what_to_see_and_has_at_most_five_lines() -> None:
    found = every_picture()
    assert len(found) > 40
    for picture in found:
        assert picture.see.endswith("."), f"{picture.name} lacks the sentence of its picture"
        assert len(picture.see) < 330, picture.name
        assert len(picture.lines) <= 5, picture.name
        if picture.source.endswith(".csv"):
            assert picture.axes, f"{picture.name} names no axes"
        assert not [words for words in picture.axes.values() if "_" in words or "/" in words], picture.name


def test_a_wrong_figure_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("model: {}")
    figure = {"image": "a", "file": "b", "sea": "c"}
    with pytest.raises(ValueError, match=r"claim 1: figure has the unknown key sea; did you mean see\?"):
        pictures._picture({"method": "demo.yaml", "figure": figure}, Path(), "claim 1", tmp_path)


NAMES = ("own", "other")


def picture(source: str, **settings: Any) -> Picture:
    return Picture("x", (Arm(Path("configs/x/demo.yaml")),), source, **settings)


def test_rows_are_selected_and_a_log_scale_is_named(tmp_path: Path, drawn: list[Figure]) -> None:
    file = tmp_path / "accuracy.csv"
    file.write_text("round,nodes,loss\n1,mean,.5\n1,worst,.1\n2,mean,.7\n2,worst,.2\n")
    asked = picture("accuracy.csv", axes={"round": "round", "loss": "loss (log scale)"}, rows={"nodes": "mean"})
    pictures._draw_tables({"": [file]}, asked, tmp_path / "x.png")
    [ax] = drawn[0].axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.7]]
    assert (ax.get_yscale(), ax.get_title(loc="left")) == ("log", "loss")
    assert not drawn[0].legends


def test_certified_accuracy_is_the_share_of_right_images_at_least_as_far(tmp_path: Path) -> None:
    file = tmp_path / "certification.csv"
    file.write_text("idx,label,predict,radius,correct\n0,1,1,0.5,1\n1,1,2,0.9,0\n2,3,3,1.0,1\n3,3,-1,0.0,0\n")
    table = pictures._certify(file)
    for radius, share in ((0.0, 0.5), (0.4, 0.5), (0.6, 0.25), (0.95, 0.25), (1.04, 0.0)):
        assert table["certified accuracy"][(table["radius"] - radius).abs().argmin()] == share


def test_tested_configurations_are_put_together(tmp_path: Path) -> None:
    """Both runs are already in the folder, so none is started."""
    asked = Picture(
        "x",
        tuple(Arm(Path(f"configs/x/{name}.yaml"), ("--model.path", "DATA/a.pt"), "x", "test") for name in NAMES),
        "figures/images.png",
        lines=("method", "baseline"),
    )
    command = "python train.py test --config configs/x/{}.yaml --model.path DATA/a.pt"
    assert asked.command == f"{command.format('own')} && {command.format('other')}"
    for name, colour in zip(NAMES, ("red", "blue"), strict=True):
        (tmp_path / f"runs/x/{name},x" / "figures").mkdir(parents=True)
        (tmp_path / f"runs/x/{name},x" / "test_metrics.csv").touch()
        Image.new("RGB", (20, 80), colour).save(tmp_path / f"runs/x/{name},x" / "figures/images.png")
    (tmp_path / "docs/images").mkdir(parents=True)
    pictures.make_picture(asked, tmp_path / "runs", tmp_path)
    with Image.open(tmp_path / "docs/images/x.png") as made:
        together = made.convert("RGB")
    assert together.size == (40, 80 + 32)
    assert together.getpixel((10, 100)) == (255, 0, 0)
    assert together.getpixel((30, 100)) == (0, 0, 255)
