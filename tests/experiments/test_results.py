import math
from pathlib import Path

import pytest

from experiments import compare
from experiments.results import Summary, markdown, mean_and_std
from tests.experiments.conftest import Config


def test_damaged_results_are_named(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out")]
    assert compare.main(arguments, fit) == 0
    damaged = tmp_path / "out/a/seed_0/test_metrics.csv"
    damaged.write_text("metric,value\ntest/accuracy,0.9x\n")
    assert compare.main(arguments, fit) == 1
    assert f"{damaged} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.93123, 0.00412, "0.9312 ± 0.0041"),
        (28.6149, 0.1234, "28.61 ± 0.12"),
        (123456.0, 3210.0, "123456 ± 3210"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.93123, math.nan, "0.9312"),
        (1.5e-9, 2.5e-10, "1.5e-09 ± 2.5e-10"),
        (math.nan, math.nan, "nan"),
    ],
)
def test_the_deviation_decides_the_digits(mean: float, std: float, text: str) -> None:
    assert mean_and_std(mean, std) == text


def test_the_longer_list_goes_down_and_gaps_are_shown() -> None:
    few = [Summary("a", "m", 1.0, 0.1, 2), Summary("a", "n", 2.0, 0.1, 2), Summary("b", "n", 3.0, 0.1, 2)]
    assert compare.grid(few) == (["metric", "a", "b"], [["m", "1.00 ± 0.10", "-"], ["n", "2.00 ± 0.10", "3.00 ± 0.10"]])
    many = [Summary(name, "m", 1.0, 0.1, 2) for name in "abc"]
    assert compare.grid(many)[0] == ["config", "m"]
    assert [row[0] for row in compare.grid(many)[1]] == ["a", "b", "c"]


def test_markdown_cells_cannot_break_the_table() -> None:
    assert markdown(["a"], [["x | y\nz"]]) == "| a |\n| --- |\n| x \\| y z |\n"
