from pathlib import Path

import pytest
from matplotlib.colors import rgb_to_hsv, to_hex, to_rgb
from matplotlib.figure import Figure

from experiments.figures import colours_of, draw_curves, legend_above, panels, shared_curves
from experiments.results import read_curves
from experiments.sweeps.figures import _connect


def test_lines_connect_the_values_of_a_key_alone() -> None:
    columns = ["cifar10 rate 0.2", "cifar10 rate 0.4", "cifar10_asymmetric", "cifar100 rate 0.2", "cifar100"]
    assert _connect(columns, [0, 1, 2, 3, 4]) == [[0, 1], [2], [3], [4]]
    assert _connect(["rate 0.2", "rate 0.4", "rate 0.8"], [0, 2]) == [[0, 2]]


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


def test_a_colour_means_a_method_and_its_lightness_a_setting() -> None:
    """The later a setting, the darker its colour.

    If there is only one method, its settings get a separate colour scale, instead of the hues of methods.
    """
    two = colours_of({"a 1": "a", "b 1": "b", "a 2": "a", "b 2": "b"})
    hues = {name: round(rgb_to_hsv(to_rgb(each))[0], 2) for name, each in two.items()}
    assert hues["a 1"] == hues["a 2"] != hues["b 1"] == hues["b 2"]
    assert rgb_to_hsv(to_rgb(two["a 1"]))[2] > rgb_to_hsv(to_rgb(two["a 2"]))[2]
    assert len({to_hex(each) for each in two.values()}) == 4
    methods = colours_of({"a": "a", "b": "b"})
    assert methods == {"a": "C0", "b": "C1"}
    settings = colours_of({f"rate {each}": "" for each in range(5)})
    assert len({to_hex(each) for each in settings.values()}) == 5
    assert not {to_hex(each) for each in settings.values()} & {to_hex(f"C{each}") for each in range(10)}


@pytest.mark.parametrize(("names", "width"), [(["ELR demo", "CE demo"], 6.0), (4 * ["NMSparsity demo_mlp_sdgf"], 4.8)])
def test_a_legend_lies_within_its_figure(names: list[str], width: float) -> None:
    figure, [ax] = panels(1, width=width - 0.6, height=3)
    for name in names:
        ax.plot([0, 1], [0, 1], label=name)
    legend_above(figure, ax)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
