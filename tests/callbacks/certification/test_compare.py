"""The subcommand that compares the certification logs of runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import train
from callbacks.certification.compare import overlay
from datamodules.files.whole_files import owned_path
from lightning_modules.robustness.certificates.statistics import accuracy_with_high_probability


def certified(directory: Path, radius: list[float], first: int = 0, label: int = 1, **settings: Any) -> Path:
    """Write a run directory with a log in which all predictions except the last are right."""
    directory.mkdir()
    idx, predict = range(first, first + len(radius)), [label] * (len(radius) - 1) + [label + 1]
    frame = pd.DataFrame({"idx": idx, "label": label, "predict": predict, "radius": radius, "outcome": "complete"})
    frame.to_csv(directory / "certification.csv", index=False)
    if settings:
        (directory / "certification_settings.json").write_text(json.dumps({"alpha": 0.001, **settings}))
    return directory


def published(path: Path) -> Path:
    """Write a log in the format of other projects."""
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


@pytest.mark.parametrize(("furthest", "steps"), [(0.3, 4), (0.7, 8), (0.299, 3), (0.0, 1)])
def test_the_table_goes_on_to_the_last_radius_of_its_grid(tmp_path: Path, furthest: float, steps: int) -> None:
    table = overlay([certified(tmp_path / "run", [furthest, furthest])], tmp_path / "out", grid=0.1)
    assert table["radius"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7][:steps]
    assert table["certified_accuracy"].tolist() == [0.5] * steps


def test_each_log_is_bounded_at_its_own_alpha(tmp_path: Path) -> None:
    """A log in a run directory has that run's alpha, even if only the file is given; `alpha` applies to other logs."""
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
    logs = [str(certified(tmp_path / "run", [0.9, 0.1], label=3)), str(published(tmp_path / "official.tsv"))]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train.main(["certified_curves", *logs]) == 0
    printed = capsys.readouterr().out
    assert "envelope" in printed
    assert "official" in printed
    assert "runs/certified_curves/certified_accuracy.csv" in printed
    written = sorted(str(path.relative_to(tmp_path / "here")) for path in Path.cwd().rglob("*") if path.is_file())
    assert written == [f"runs/certified_curves/certified_accuracy.{end}" for end in ("csv", "png")]


def test_logs_of_other_images_are_compared_on_the_common_ones_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    easy, hard = certified(tmp_path / "easy", [1.0] * 5), certified(tmp_path / "hard", [0.1] * 8, first=3)
    table = overlay([easy, hard], tmp_path / "out", grid=0.5)
    assert "the logs cover different images (easy 5, hard 8; 2 in all of them)" in capsys.readouterr().err
    envelope = table[table["log"] == "envelope"]
    np.testing.assert_allclose(envelope["certified_accuracy"], [1.0, 0.5, 0.5])  # images 3 and 4
    assert table.groupby("log")["num_images"].first().to_dict() == {"easy": 5, "envelope": 2, "hard": 8}
    far = certified(tmp_path / "far", [2.0, 2.0], first=90)
    assert "envelope" not in set(overlay([easy, far], tmp_path / "out")["log"])
    relabelled = certified(tmp_path / "relabelled", [1.0] * 5, label=0)
    assert "envelope" not in set(overlay([easy, relabelled], tmp_path / "out")["log"])
    capsys.readouterr()
    overlay([easy, certified(tmp_path / "same", [0.2] * 5)], tmp_path / "out")
    assert capsys.readouterr().err == ""


def test_lower_bounds_and_radii_without_guarantee_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.axes import Axes

    labels: list[str] = []
    step = Axes.step
    monkeypatch.setattr(
        Axes, "step", lambda self, *values, **options: labels.append(options["label"]) or step(self, *values, **options)
    )
    many = 400
    curve = certified(tmp_path / "curve", [0.4] * many, sigma=0.5, mode="curve", grid=0.4, certificate="a theorem")
    formula = certified(tmp_path / "formula", [0.3] * many, mode="fixed", certificate="a formula: not a guarantee")
    out = tmp_path / "out"
    line = ["certified_curves", str(curve), str(formula), "--grid", "0.2", "--output", str(out)]
    with owned_path(out):
        assert train.main(line) == 2
    assert f"{out} is in use by process" in capsys.readouterr().err
    assert train.main(line) == 0
    table = pd.read_csv(out / "certified_accuracy.csv").set_index("log")
    assert table.loc["curve", "tight"].astype(bool).tolist() == [True, False, True]
    assert table.loc["formula", "tight"].astype(bool).all()
    assert table.loc["envelope", "tight"].tolist() == [True, False, True]  # range covered by all logs
    assert table.loc["formula", "with_high_probability"].isna().all()
    bound = accuracy_with_high_probability(399 / 400, 0.001, many)
    np.testing.assert_allclose(table.loc["curve", "with_high_probability"], bound)
    assert labels == [
        "curve, sigma 0.5, curve (mean radius >= 0.399, 400 images)\na theorem",
        "formula, fixed (mean radius 0.299, 400 images)\na formula: not a guarantee",
    ]
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["curve", "0.998", ">=", "0.998", "0.998"] in printed
    assert ["envelope", "0.998", ">=", "0.998", "0.998"] in printed
    assert ["curve", *3 * [str(round(float(bound), 3))]] in printed
    assert ["formula", *3 * ["no", "guarantee"]] in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["official.tsv", "--grid", "0"], "grid must be in (0, inf), got 0.0"),
        (["official.tsv", "--grid", "nan"], "grid must be in (0, inf), got nan"),
        (["official.tsv", "--alpha", "2"], "alpha must be in (0, 1), got 2.0"),
        (["official.tsv", "--grid", "fine"], "argument --grid: invalid float value: 'fine'"),
        (["official.tsv", "--radii", "1"], "unrecognized arguments: --radii 1"),
        ([], "the following arguments are required: logs"),
        (["nothing.tsv"], "there is no log or run directory"),
        (["."], "has no certification.csv: test with configs/callbacks/certification.yaml first"),
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
    assert train.main(["certified_curves", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["official.tsv"]
