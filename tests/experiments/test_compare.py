import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from experiments import commands, compare
from experiments.claims.arms import Arm
from experiments.launching import run_queue
from tests.experiments.conftest import Config, Journal, Rejected, table


def test_tables_hold_mean_and_sample_deviation_of_every_metric(config: Config, fit: list[str], tmp_path: Path) -> None:
    a, b = config("a", start=0.9, per_seed=0.013), config("b", start=0.5, best_epoch=0.6)
    out = tmp_path / "out"
    assert commands.run("compare", [str(a), str(b), "--seeds", "0", "2", "3", "--output", str(out)], fit) == 0

    runs = table(out / "runs.csv")
    assert list(runs[0]) == ["config", "metric", "seed", "value"]
    assert len(runs) == 3 * (2 + 3)
    summary = table(out / "summary.csv")
    assert list(summary[0]) == [
        *("config", "metric", "mean", "std", "seeds", "diverged", "not_finite"),
        *("difference", "difference_std", "pairs", "p"),
    ]
    assert [(row["config"], row["metric"]) for row in summary] == [
        ("a", "test/accuracy"),
        ("a", "test/memorized"),
        ("b", "test/accuracy"),
        ("b", "best_epoch/test/accuracy"),
        ("b", "test/memorized"),
    ]
    expected = {
        ("a", "test/accuracy"): [0.9, 0.926, 0.939],
        ("b", "test/accuracy"): [0.5, 0.52, 0.53],
        ("b", "test/memorized"): [0.1, 0.5, 1.0],
        ("b", "best_epoch/test/accuracy"): [0.6, 0.602, 0.603],
    }
    for row in summary:
        values = expected.get((row["config"], row["metric"]))
        if values:
            assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-12)
            assert float(row["std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            assert row["seeds"] == "3"
    [first, second] = [row for row in summary if row["metric"] == "test/accuracy"]
    assert (first["difference"], first["pairs"], first["p"]) == ("", "", "")
    assert float(second["difference"]) == pytest.approx(-0.405)
    assert second["pairs"] == "3"
    assert float(second["p"]) == pytest.approx(ttest_rel(*list(expected.values())[:2]).pvalue)
    text = (out / "summary.md").read_text()
    assert "| test/accuracy ↑ | b | a | -0.4050 ± 0.0046 | 4.3e-05 | 3 |\n" in text
    assert "## Differences" in text
    assert (
        "| test/accuracy ↑ | **0.922 ± 0.020** | 0.517 ± 0.015\\* |\n"
        "| best_epoch/test/accuracy ↑ | - | 0.6017 ± 0.0015 |" in text
    )
    assert "seeds 0, 2, 3" in text
    assert "Python 3." in text
    for picture in ("comparison.png", "curves.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("*.tmp"))


def test_what_is_finished_is_not_run_again_and_new_seeds_join(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = config("a", start=0.9), tmp_path / "out"
    assert commands.run("compare", [str(a), "--seeds", "0", "--output", str(out)], fit) == 0
    assert table(out / "summary.csv")[0]["std"] == ""
    before = journal()
    assert commands.run("compare", [str(a), "--seeds", "0", "--output", str(out)], fit) == 0
    assert journal() == before
    assert "1 of 1 runs are already finished" in capsys.readouterr().out
    assert commands.run("compare", [str(a), "--seeds", "0", "4", "--output", str(out)], fit) == 0
    assert {line[1] for line in journal()[len(before) :]} == {"4"}
    assert table(out / "summary.csv")[0]["seeds"] == "2"


def test_results_of_other_code_are_kept_but_pointed_out(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out")]
    for module in (run_queue, compare):
        monkeypatch.setattr(module, "code_fingerprint", lambda: "one state")
    assert commands.run("compare", arguments, fit) == 0
    assert commands.run("compare", arguments, fit) == 0
    assert "the code has changed" not in capsys.readouterr().out
    for module in (run_queue, compare):
        monkeypatch.setattr(module, "code_fingerprint", lambda: "another")
    assert commands.run("compare", arguments, fit) == 0
    assert "the code has changed since 1 of them" in capsys.readouterr().out
    assert "1 of 1 runs with an earlier state of the code" in (tmp_path / "out/summary.md").read_text()


def test_metrics_are_chosen_for_tables_and_all_are_kept(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, out = config("a", start=0.9), config("b", start=0.5, best_epoch=0.5), tmp_path / "out"
    arguments = [str(a), str(b), "--seeds", "0", "--output", str(out), "--metrics"]
    assert commands.run("compare", [*arguments, "memorized,test/accuracy"], fit) == 0
    rows = [line.split(" | ")[0] for line in (out / "summary.md").read_text().splitlines() if line.startswith("| ")]
    assert rows == ["| metric", "| ---", "| test/memorized ↓", "| test/accuracy ↑"]  # the best epoch adds nothing new
    assert len(table(out / "summary.csv")) == 5
    assert commands.run("compare", [*arguments, "accuracy"], fit) == 0
    assert "memorized" not in capsys.readouterr().out.rpartition("kept")[2]
    assert commands.run("compare", [*arguments, "acuracy"], fit) == 2
    assert "--metrics: no run has acuracy; the metrics are test/accuracy, test/memorized\n" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_a_table_for_a_paper_is_the_only_output(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [str(config("a_1", start=0.9, per_seed=0.013)), str(config("b", start=0.5))]
    arguments = [*configs, "--seeds", "0", "2", "3", "--output", str(tmp_path / "out"), "--metrics", "accuracy"]
    assert commands.run("compare", [*arguments, "--format", "latex"], fit) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("% mean ± std over 3 seeds\n\\begin{tabular}{lr}\n\\toprule\nconfig & test/accuracy")
    assert "a\\_1 & \\textbf{0.922 $\\pm$ 0.020} \\\\\nb & 0.517 $\\pm$ 0.015$^{*}$ \\\\\n" in shown.out
    assert "b & a\\_1 & $-$0.4050 $\\pm$ 0.0046 & 4.3e-05 & 3 \\\\" in shown.out
    assert "finished" in shown.err
    assert "summary.csv" in shown.err
    assert commands.run("compare", [*arguments, "--format", "csv", "--figure_format", "pdf"], fit) == 0
    assert (tmp_path / "out/comparison.pdf").exists()
    assert "![](comparison.pdf)" in (tmp_path / "out/summary.md").read_text()
    [a, b] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (a["config"], a["p"], b["pairs"]) == ("a_1", "", "3")
    assert [a, b] == [row for row in table(tmp_path / "out/summary.csv") if row["metric"] == "test/accuracy"]


def test_default_output_is_found_again_and_differs_between_folders(config: Config) -> None:
    a, b = Arm(config("demo", folder="elr")), Arm(config("baseline", folder="elr"))
    other = Arm(config("demo", folder="adele"))
    assert compare.default_output([a, replace(a, overrides=("--x", "1"))]) == Path("runs/compare/elr/demo-vs-demo,x=1")
    assert compare.default_output([a, b]) == Path("runs/compare/elr/demo-vs-baseline")
    assert compare.default_output([a, other]) == Path("runs/compare/elr-demo-vs-adele-demo")
    many = [Arm(config(f"a_long_name_of_a_config_{i}", folder="elr")) for i in range(12)]
    long = compare.default_output(many)
    assert len(long.name) < 200
    assert long != compare.default_output(many[::-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["A", "missing.yaml", "--seeds", "0"], "missing.yaml does not exist"),
        (["A", "--seeds", "0", "1", "0"], "--seeds has 0 twice"),
        (["A", "--seeds", "0", "--trainer.max_epochs", "2"], "--trainer.max_epochs is not an option of compare"),
        (["A", "--trainer.max_epochs=2", "--seeds", "0"], "after `--`"),
        (["A", "--seeds", "0", "--", "trainer.max_epochs"], "must be followed by overrides"),
        (["A", "--seeds", "0", "--", "--seed_everything=3"], "--seed_everything cannot be overridden"),
        (["BROKEN", "--seeds", "0"], "is not valid YAML"),
        (["A", "--seeds", "0", "--output", "FILE"], "is a file"),
        (["A", "--seeds", "0", "--output", "FULL"], "has no readable request.json"),
    ],
)
def test_bad_input_is_one_sentence_and_runs_nothing(
    arguments: list[str], said: str, config: Config, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "file").write_text("")
    (tmp_path / "full/a/seed_0").mkdir(parents=True)
    (tmp_path / "full/a/seed_0/thesis.txt").write_text("precious")
    names = {"A": str(config("a", start=0.9)), "FOLDER": ".", "BROKEN": "broken.yaml", "LIST": "list.yaml"}
    names |= {"FILE": "file", "FULL": "full"}
    rejected("compare", [names.get(each, each) for each in arguments], said)
    assert (tmp_path / "full/a/seed_0/thesis.txt").read_text() == "precious"


def test_the_last_value_of_a_metric_of_training_stands_beside_the_tests(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "2", "--output", str(out)]
    shown = ["--metrics", "val/accuracy,train/loss_epoch"]
    assert commands.run("compare", [*arguments, *shown], fit) == 0
    text = capsys.readouterr().out
    assert "test/accuracy" not in text
    epochs = int(table(next(out.rglob("metrics.csv")))[-1]["epoch"])
    found = {row["metric"]: float(row["mean"]) for row in table(out / "summary.csv")}
    assert found["val/accuracy"] == pytest.approx(1 - 0.5**epochs - 0.01)
    assert found["train/loss_epoch"] == pytest.approx(0.5**epochs)
    assert commands.run("compare", arguments, fit) == 0
    assert "val/accuracy" not in {row["metric"] for row in table(out / "summary.csv")}
