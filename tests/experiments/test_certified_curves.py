"""The subcommand that compares logs of certificates."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train
from experiments.certified_curves import main, overlay
from lightning_modules.robustness.smoothing import accuracy_with_high_probability


def certified(directory: Path, radius: list[float], alpha: float | None = None) -> Path:
    """A run directory with a log; all predictions but the last are right."""
    directory.mkdir()
    predict = [1] * (len(radius) - 1) + [2]
    frame = pd.DataFrame({"idx": range(len(radius)), "label": 1, "predict": predict, "radius": radius})
    frame.to_csv(directory / "certification.csv", index=False)
    if alpha is not None:
        (directory / "certification_settings.json").write_text(json.dumps({"alpha": alpha}))
    return directory


def published(path: Path) -> Path:
    """A log as other projects write it."""
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t1.01\t1\t15.9\n20\t8\t-1\t0.0\t1\t15.2\n")
    return path


def test_the_envelope_is_the_best_log_at_each_radius(tmp_path: Path) -> None:
    logs = [
        certified(tmp_path / "sigma_0.25", [0.9, 0.8, 0.1]),
        certified(tmp_path / "sigma_0.50", [1.8, 0.0, 0.0]),
    ]
    table = overlay(logs, tmp_path / "out", grid=0.5)
    assert set(table["log"]) == {"sigma_0.25", "sigma_0.50", "envelope"}
    best = table[table["log"] == "envelope"].set_index("radius")["certified_accuracy"]
    np.testing.assert_allclose(best, [2 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert list(best.index) == [0.0, 0.5, 1.0, 1.5]
    assert (tmp_path / "out" / "certified_accuracy.png").stat().st_size > 1000
    assert len(pd.read_csv(tmp_path / "out" / "certified_accuracy.csv")) == 12


def test_each_log_is_bounded_at_its_own_alpha(tmp_path: Path) -> None:
    """That of its run directory, also for a log that is named itself; the argument is for others."""
    own = certified(tmp_path / "own", [0.9, 0.8, 0.1, 0.3], alpha=0.2)
    without, other = certified(tmp_path / "without", [0.5, 0.5, 0.5]), published(tmp_path / "other.tsv")
    table = overlay([own, without, other], tmp_path / "out", alpha=0.1)
    at_zero = table[(table["radius"] == 0) & (table["log"] != "envelope")]
    expected = [
        accuracy_with_high_probability(share, alpha, count)
        for share, alpha, count in ((3 / 4, 0.2, 4), (2 / 3, 0.1, 3), (1 / 2, 0.1, 2))
    ]
    np.testing.assert_allclose(at_zero["with_high_probability"], expected)
    beside = overlay([own / "certification.csv"], tmp_path / "beside")
    assert beside["with_high_probability"][0] == expected[0]


def test_the_working_directory_is_a_log_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(certified(tmp_path / "run", [0.9, 0.1]))
    assert set(overlay([Path(".")], tmp_path / "out")["log"]) == {"run"}


def test_it_writes_below_runs_where_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = [str(certified(tmp_path / "run", [0.9, 0.1])), str(published(tmp_path / "official.tsv"))]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train.main(["certified_curves", *logs]) == 0
    printed = capsys.readouterr().out
    assert "envelope" in printed
    assert "official" in printed
    assert "runs/certified_curves/certified_accuracy.csv" in printed
    written = sorted(str(path.relative_to(tmp_path / "here")) for path in Path.cwd().rglob("*") if path.is_file())
    assert written == [f"runs/certified_curves/certified_accuracy.{end}" for end in ("csv", "png")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["official.tsv", "--grid", "0"], "grid must be positive, got 0"),
        (["official.tsv", "--grid", "-1"], "grid must be positive, got -1"),
        (["official.tsv", "--grid", "nan"], "grid must be positive, got nan"),
        (["official.tsv", "--alpha", "2"], r"alpha must be in (0, 1), got 2"),
        (["official.tsv", "--alpha", "0"], r"alpha must be in (0, 1), got 0"),
        (["official.tsv", "--grid", "fine"], "argument --grid: invalid float value: 'fine'"),
        (["official.tsv", "--radii", "1"], "unrecognized arguments: --radii 1"),
        ([], "the following arguments are required: logs"),
        (["nothing.tsv"], "there is no log"),
        (["."], "not complete"),
    ],
)
def test_bad_input_is_said_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    published(tmp_path / "official.tsv")
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["official.tsv"]
