from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.figures import draw_curves, shared_curves
from experiments.results import read_curves


def test_shared_curves_leave_out_steps_classes_and_what_one_config_lacks(tmp_path: Path) -> None:
    names = ["val/accuracy", "train/loss_epoch", "train/loss_step", "train/memorized", "train/fit_given/3", "lr-SGD"]
    path = tmp_path / "metrics.csv"
    path.write_text(",".join(["epoch", "step", *names]) + "\n0,9,,,1,,,\n0,9,.5,.6,,.1,.2,.3\n1,19,.7,.4,,,.2,.3\n")
    curves = read_curves(path)
    assert curves["val/accuracy"] == {0: 0.5, 1: 0.7}
    assert curves["train/memorized"] == {0: 0.1}
    assert shared_curves({"a": [curves]}) == ["val/accuracy", "train/memorized", "train/loss_epoch"]
    without = {name: column for name, column in curves.items() if name != "train/memorized"}
    assert shared_curves({"a": [curves], "b": [without]}) == ["val/accuracy", "train/loss_epoch"]


def test_curves_are_of_the_metrics_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("epoch,step,val/accuracy,train/fit_true,train/memorized\n0,9,.5,.6,.1\n1,19,.7,.8,.2\n")
    titles: list[list[str]] = []
    draw = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **options: (
            titles.append([ax.get_title(loc="left") for ax in self.axes if ax.get_visible()]),
            draw(self, *args, **options),
        )[1],
    )
    asked = ["test/accuracy", "train/memorized", "train/fit_true"]
    assert draw_curves({"a": [table]}, tmp_path / "a.png", asked)
    assert draw_curves({"a": [table]}, tmp_path / "b.png", ["test/accuracy"])
    words = ["share of the false labels memorised", "accuracy on the true training labels"]
    assert titles == [words, ["val/accuracy", *reversed(words)]]
