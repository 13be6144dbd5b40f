"""Figures show the numbers of the table, and mark missing values."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.results import Result
from experiments.run_request import load_experiments
from experiments.sweeps import figures
from experiments.sweeps.variations import variation, vary_experiments
from tests.experiments.conftest import Config


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the panels of the figures that a test draws."""
    found: list[Any] = []

    def keep(*arguments: Any, **more: Any) -> Any:
        figure, axes = panels(*arguments, **more)
        found.extend(axes)
        return figure, axes

    panels = figures.panels
    monkeypatch.setattr(figures, "panels", keep)
    return found


def results(experiments: Any, value: Any) -> list[Result]:
    """Create results of two seeds: the first has `value` of the settings, the second 2 more; NaN means divergence."""
    return [
        Result(each.title, "test/risk", seed, v := value(**dict(each.setting)) + 2 * seed, bool(math.isnan(v)))
        for each in experiments
        for seed in (0, 1)
    ]


def test_a_heat_map_has_the_mean_of_each_combination_in_ascending_order(
    config: Config, drawn: list[Any], tmp_path: Path
) -> None:
    keys = [variation("model.a=10,2,1"), variation("model.b=x,y")]
    experiments = vary_experiments(load_experiments([config("c", a=1, b="x")]), keys)
    risk = {("1", "x"): 1.0, ("2", "x"): 2.0, ("10", "x"): 3.0, ("1", "y"): 4.0, ("2", "y"): math.inf}
    figures.draw_heat_maps(
        results(experiments, lambda a, b: risk.get((a, b), math.nan)), experiments, tmp_path / "map.png"
    )
    ax = drawn[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2", "10"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]
    values = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(values, [[2.0, 5.0], [3.0, math.nan], [4.0, math.nan]])
    assert [text.get_text() for text in ax.texts] == ["2", "5", "3", "▲", "4", "x"]
    assert ax.images[0].norm(4.0) == pytest.approx(2 / 3)


def test_the_best_config_of_each_combination_is_shown_where_all_have_a_value(
    config: Config, drawn: list[Any], tmp_path: Path
) -> None:
    keys = [variation("model.a=1,2"), variation("model.b=1,2")]
    experiments = vary_experiments(load_experiments([config("c", a=1, b=1), config("d", a=1, b=1)]), keys)
    risk = {"c": [[1.0, 5.0], [2.0, 9.0]], "d": [[2.0, 4.0], [math.nan, 8.0]]}
    found = [
        Result(each.title, "test/error", 0, risk[each.label][int(a) - 1][int(b) - 1])
        for each in experiments
        for a, b in [(dict(each.setting)["a"], dict(each.setting)["b"])]
    ]
    figures.draw_heat_maps(found, experiments, tmp_path / "map.png")
    best = drawn[2]
    assert best.get_title(loc="left") == "best test/error"
    assert best.images[0].get_array().tolist() == [[0, 1], [None, 1]]
    assert [text.get_text() for text in best.get_legend().get_texts()] == ["c", "d"]


def test_lines_have_the_numbers_of_a_key_as_axis_and_crosses_where_seeds_diverged(
    config: Config, drawn: list[Any], tmp_path: Path
) -> None:
    paths = [config("c", rate=1), config("d", rate=1)]
    experiments = vary_experiments(load_experiments(paths), [variation("model.rate=10,0.1,1e-3")])
    found = results(experiments, lambda rate: float(rate))
    lost = next(i for i, each in enumerate(found) if each.config == "d rate 10")
    found[lost] = Result("d rate 10", "test/risk", 0, math.nan, True)
    figures.draw_lines(found, experiments, tmp_path / "lines.png")
    ax = drawn[0]
    assert ax.get_xscale() == "log"
    c, d = (each.lines[0].get_xydata() for each in ax.containers)
    np.testing.assert_allclose(c, [[0.001, 1.001], [0.1, 1.1], [10, 11]])
    np.testing.assert_allclose(d, [[0.001, 1.001], [0.1, 1.1], [10, 12]])
    [cross] = [line for line in ax.lines if line.get_marker() == "x"]
    assert cross.get_xdata() == [10]
    assert [text.get_text() for text in ax.texts] == ["1/2"]
