import math
from pathlib import Path

import pytest

from experiments import commands
from experiments.results import (
    Result,
    arrow,
    markdown,
    mean_and_std,
    repeats_tested,
    summarise,
    validation_metric,
)
from tests.experiments.conftest import Config


def test_damaged_results_are_named(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out")]
    assert commands.run("compare", arguments, fit) == 0
    damaged = tmp_path / "out/a/seed_0/test_metrics.csv"
    damaged.write_text("metric,value\ntest/accuracy,0.9x\n")
    assert commands.run("compare", arguments, fit) == 2
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


def test_values_that_are_not_finite_are_counted() -> None:
    found = [Result("a", "m", seed, value) for seed, value in enumerate((1.0, math.inf, 3.0, math.nan))]
    [summary] = summarise(found)
    assert (summary.mean, summary.seeds, summary.not_finite) == (2.0, 2, 2)
    assert str(summary) == "2.0 ± 1.4 (2 of 4 not finite)"
    assert str(summarise(found[1:2])[0]) == "nan"


def test_markdown_cells_cannot_break_the_table() -> None:
    assert markdown(["a"], [["x | y\nz"]]) == "| a |\n| --- |\n| x \\| y z |\n"


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("test/accuracy", " ↑"),
        ("test/robust_accuracy_pgd_linf_0.2", " ↑"),
        ("test/accuracy_by_distance", " ↑"),
        ("test/cross_entropy", " ↓"),
        ("test/edit_psnr", ""),  # the better direction depends on the task: protection degrades edits
    ],
)
def test_an_arrow_says_which_direction_is_better(metric: str, better: str) -> None:
    assert arrow(metric) == better


def test_one_validation_metric_is_shown() -> None:
    names = ["epoch", "train/loss", "val/cross_entropy", "val/accuracy_step", "val/accuracy/3", "val/dice", "val/miou"]
    assert validation_metric(names, None) == "val/dice"
    assert validation_metric(names, "val/miou") == "val/miou"
    assert validation_metric(names, "val/absent") == "val/dice"
    assert validation_metric(names[:5], None) == "val/cross_entropy"
    assert validation_metric(names[:2], None) is None


def test_a_best_epoch_is_repeated_only_where_its_value_is_the_tested_one() -> None:
    tested = {"test/accuracy": 0.8, "best_epoch/test/accuracy": 0.9, "best_epoch/test/loss": 0.8}
    assert not any(repeats_tested(name, tested) for name in tested)
    assert repeats_tested("best_epoch/test/accuracy", {**tested, "test/accuracy": 0.9})
