import math
from pathlib import Path

import pytest

from experiments import commands
from experiments.commands.compare import averages, parts_of
from experiments.results import Result
from experiments.run_request import Experiment
from tests.experiments.conftest import Config, table

SETTINGS = ("0.3", "1.0")
EXPERIMENTS = [
    Experiment(f"{name}/ratio={ratio}", Path(f"{name}.yaml"), (), name, setting=(("ratio", ratio),))
    for name in ("rte", "stsb", "other")
    for ratio in SETTINGS
]


def results(name: str, ratio: str, seed: int, **values: float) -> list[Result]:
    return [Result(f"{name} ratio {ratio}", f"test/{metric}", seed, value) for metric, value in values.items()]


def test_the_metrics_of_a_configuration_are_averaged_first_and_seeds_that_lack_one_are_left_out() -> None:
    found = [
        *results("rte", "0.3", 0, accuracy=0.5, f1=9),
        *results("rte", "0.3", 1, accuracy=0.7),
        *results("stsb", "0.3", 0, pearson=0.8, spearman=0.6),
        *results("rte", "1.0", 0, accuracy=0.9),
        *results("stsb", "1.0", 0, pearson=1.0, spearman=math.nan),
        *results("other", "0.3", 0, accuracy=7),
    ]
    parts = parts_of(["rte:accuracy", "stsb:pearson+spearman"], EXPERIMENTS)
    narrow, wide = averages(found, EXPERIMENTS, parts)
    assert narrow == Result("ratio 0.3", "average", 0, pytest.approx((0.5 + 0.7) / 2))  # type: ignore[arg-type]
    assert (wide.config, math.isnan(wide.value)) == ("ratio 1.0", True)
    assert averages(found, EXPERIMENTS, {}) == []
    with pytest.raises(ValueError, match=r"--average: rte/ratio=0.3 has no test/wer; it has test/accuracy, test/f1"):
        averages(found, EXPERIMENTS, {"rte": ["wer"]})


@pytest.mark.parametrize("texts", [["rte"], ["wnli:f1"], ["rte:f1", "rte:accuracy"], ["rte:f1+"]])
def test_what_is_not_compared_is_named(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"--average \S+ must be CONFIG:METRIC .* of rte, stsb, other"):
        parts_of(texts, EXPERIMENTS)


@pytest.mark.usefixtures("no_pictures")
def test_one_command_gives_the_average(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(config("a", start=0.9)), str(config("b", start=0.5))]
    shown = ["--average", "a:accuracy", "b:accuracy"]
    assert commands.run("compare", [*paths, "--seeds", "0", "--output", str(tmp_path / "out"), *shown], fit) == 0
    [row] = table(tmp_path / "out/average.csv")
    assert (float(row["mean"]), row["setting"], row["seeds"]) == (pytest.approx(0.7), "", "1")
    assert "average of configs" in capsys.readouterr().out
