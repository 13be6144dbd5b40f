"""Leaderboards: errors in their files, the choice of settings, resumed and failed cells, tables and the page."""

import contextlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from experiments import commands
from experiments.commands import leaderboard
from experiments.leaderboards.fields import Plan, load_board
from experiments.leaderboards.tables import COLUMNS, board_tables, leaderboards_page, rows_text, winners
from experiments.results import read_csv
from tests.command import ROOT
from tests.experiments.conftest import Config, Journal, Rejected, table

Stated = Callable[..., Path]
ROW = {"name": "own", "config": "../method/demo.yaml"}
SEARCH = {"search": {"model.x": [0.9, 0.3]}}
VALIDATION = {"metric": "val/accuracy", "seed": 9}


@pytest.fixture
def stated(config: Config, tmp_path: Path) -> Stated:
    """Return a function that writes a leaderboard of `demo` and `other` in two columns."""
    config("demo", start=0.5)
    config("other", start=0.7)

    def write(metrics: object = None, extra: dict[str, Any] | None = None, **changes: Any) -> Path:
        size = {
            "protocol": "Both have three epochs.",
            "seeds": [0, 1],
            "columns": {"plain": {}, "hard": {"model.per_seed": -0.1}},
            "rows": [{**ROW, "baseline": True}, {"name": "other", "config": "../method/other.yaml"}],
        }
        content = {"title": "A field", "metrics": metrics or {"test/accuracy": "higher"}, "cpu": {**size, **changes}}
        path = tmp_path / "configs/leaderboards/field.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**content, **(extra or {})}, sort_keys=False))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": {"titel": "x"}}, "unknown key titel; did you mean title?"),
        ({"seeds": [0, 0]}, "cpu: seeds must be a list of different whole numbers, got [0, 0]"),
        ({"rows": [{**ROW, "serach": {}}]}, "row own: unknown key serach; did you mean search?"),
        ({"rows": [{**ROW, "columns": {"plane": {}}}]}, "row own: there is no column plane; did you mean plain?"),
        ({"rows": [{**ROW, **SEARCH}]}, "search and validation need each other; give both or none"),
        (
            {"rows": [{**ROW, **SEARCH}, {**ROW, "name": "b", "search": {"model.x": [1]}}], "validation": VALIDATION},
            "every search must have the same number of trials, but b has 1, own has 2",
        ),
        (
            {"rows": [{**ROW, **SEARCH}], "validation": {**VALIDATION, "metric": "test/accuracy"}},
            "validation: test/accuracy: settings that are chosen by a test metric make the test useless; choose a vali",
        ),
        (
            {"rows": [{**ROW, **SEARCH}], "validation": {**VALIDATION, "seed": 0}},
            "validation: seed must be a number that is not in seeds, got 0",
        ),
        (
            {"rows": [{**ROW, **SEARCH, "command": "test"}], "validation": VALIDATION},
            "own is not trained, so it has no val/accuracy; give validation a test metric, and overrides that replace",
        ),
        (
            {"rows": [{**ROW, **SEARCH}], "validation": {**VALIDATION, "columns": {"plane": {}}}},
            "validation: there is no column plane; did you mean plain?",
        ),
        (
            {
                "rows": [{**ROW, **SEARCH}],
                "validation": {**VALIDATION, "metric": "test/x:max", "columns": {"plain": {"data.test": "b"}}},
            },
            "validation: test/x: settings that are chosen by a test metric make the test useless",
        ),
        ({"rows": [ROW, ROW]}, "is given twice"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    changes: Any, said: str, stated: Stated, rejected: Rejected, tmp_path: Path
) -> None:
    rejected("leaderboard", [str(stated(**changes)), "--output", str(tmp_path / "out")], said)


def test_an_unknown_field_or_size_is_named(stated: Stated, rejected: Rejected) -> None:
    rejected("leaderboard", ["noisy_lables"], "there is no leaderboard noisy_lables")
    rejected("leaderboard", [str(stated()), "--size", "gpu"], "has no size gpu; it has cpu")


def test_a_search_chooses_by_validation_and_a_repeated_command_runs_nothing(
    stated: Stated, journal: Journal, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials have the seed of the validation, are not tested, and decide in each column."""
    rows = [{**ROW, **SEARCH}, {"name": "other", "config": "../method/other.yaml", "baseline": True}]
    asked = [str(stated(rows=rows, validation=VALIDATION)), "--output", str(tmp_path / "out")]
    assert commands.run("leaderboard", [*asked, "--show"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "# own, plain, trial 0"
    assert shown[1].endswith("--seed_everything 9")
    assert shown[1].startswith("python train.py fit --config")
    assert commands.run("leaderboard", asked, fit) == 0
    began = [line for line in journal() if line[2] == "started"]
    assert [line[:2] for line in began[:4]] == [["trial_0", "9"], ["trial_1", "9"]] * 2
    assert len(began) == 4 + 2 * 2 * 2
    assert not [*(tmp_path / "out").rglob("trial_*/test_metrics.csv")]
    found = table(tmp_path / "out/leaderboard.csv")
    assert [row["settings"] for row in found] == ["--model.x 0.3", "--model.x 0.3", "", ""]
    assert [float(row["mean"]) for row in found] == pytest.approx([0.505, 0.45, 0.705, 0.65])
    assert found[0]["command"].endswith(
        f"{rows[0]['config'][3:]} --model.x 0.3 --seed_everything 0 --test_after_fit true"
    )
    before, said = journal(), capsys.readouterr().out
    assert "A baseline is the best method in 2 of 2 columns: plain (other, test/accuracy), hard (other" in said
    assert commands.run("leaderboard", asked, fit) == 0
    assert journal() == before
    changed = stated(rows=rows, validation=VALIDATION, overrides={"model.start": 0.9})
    assert commands.run("leaderboard", [str(changed), *asked[1:]], fit) == 2
    assert "contains a run with --model.start absent, but now it is" in capsys.readouterr().err


def test_one_column_may_decide_and_a_test_metric_needs_other_data(
    stated: Stated, journal: Journal, fit: list[str], tmp_path: Path
) -> None:
    rows = [{**ROW, "search": {"model.start": [0.2, 0.8, 0.4]}}]
    how = {"metric": "test/accuracy", "seed": 9, "column": "hard", "overrides": {"data.test": "validation"}}
    asked = [str(stated(rows=rows, validation=how)), "--output", str(tmp_path / "out")]
    assert commands.run("leaderboard", asked, fit) == 0
    began = [line[:2] for line in journal() if line[2] == "started"]
    assert began[:4] == [["hard", "9"]] * 3 + [["plain", "0"]]
    assert {row["settings"] for row in table(tmp_path / "out/leaderboard.csv")} == {"--model.start 0.8"}


def test_each_column_may_have_its_own_validation_data(stated: Stated, tmp_path: Path) -> None:
    data = {"plain": {"data.test": "validation"}, "hard": {"data.test": "others"}}
    board = stated(rows=[{**ROW, **SEARCH}], validation={**VALIDATION, "metric": "test/accuracy", "columns": data})
    plan = Plan(load_board(str(board), "cpu"), tmp_path / "out")
    trials = [run.experiment.overrides for entry in plan.board.entries for run in plan.trials(entry)]
    assert [each[-1] for each in trials] == ["validation", "validation", "others", "others"]


def test_a_failed_cell_is_shown_and_continues(
    config: Config, stated: Stated, journal: Journal, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config("demo", start=0.9, crash=[1])
    asked = [str(stated()), "--output", str(tmp_path / "out")]
    path.write_text(config("demo", start=0.9, crash=[1]).read_text())
    assert commands.run("leaderboard", asked, fit) == 1
    rows = [dict(row) for row in table(tmp_path / "out/leaderboard.csv")]
    assert [row["result"] for row in rows][::2] == ["0.9 (1 of 2 failed)", "0.7050 ± 0.0071"]
    assert "own, plain, seed 1 failed (exit status 3)" in capsys.readouterr().out
    assert not board_tables(rows)[0].rows[0][1].best  # its other seed is a biased selection
    assert board_tables(rows)[0].rows[1][1].best
    assert len([line for line in journal() if line[2] == "finished"]) == 2 + 4
    nothing = [{**row, "result": "failed", "mean": "", "seeds": ""} for row in rows]
    assert board_tables(nothing)[0].rows[0][1] == "failed"
    assert winners(nothing) == "A baseline is the best method in 0 of 0 columns."


def made_up(row: str, column: str, mean: float, direction: str = "higher", **more: object) -> dict[str, str]:
    values = {"field": "field", "size": "cpu", "row": row, "column": column, "metric": "test/accuracy", "seeds": 3}
    values |= {"direction": direction, "mean": mean, "result": f"{mean} ± 0", "runs": 3, "baseline": "no", **more}
    return {name: str(values.get(name, "")) for name in COLUMNS}


def test_a_table_has_the_best_means_in_bold_and_the_costs() -> None:
    rows = [
        made_up("a", "x", 0.8, cpu_seconds=10, mebibytes=100, baseline="yes", settings="--model.optimizer.lr 0.1"),
        made_up("a", "y", 0.4, cpu_seconds=20, mebibytes=300, baseline="yes", settings="--model.optimizer.lr 1"),
        made_up("b", "x", 0.7, p=0.01),
        made_up("b", "y", 0.6, p=0.2),
        *(made_up(row, "x", mean, "lower", metric="test/loss") for row, mean in (("a", 3), ("b", 2))),
    ]
    accuracy, loss = board_tables(rows)
    assert accuracy.title == "test/accuracy ↑, mean ± std over 3 seeds"
    assert accuracy.header == ["method", "x", "y", "CPU seconds", "MiB", "chosen"]
    assert accuracy.rows[0] == ["a", "0.8 ± 0", "0.4 ± 0", "15", "300", "x: lr 0.1; y: lr 1"]
    assert accuracy.rows[1] == ["b", "0.7 ± 0", "0.6 ± 0", "-", "-", "-"]
    assert [[cell.best for cell in row[1:3]] for row in accuracy.rows] == [[True, False], [False, True]]
    assert [cell.marked for cell in accuracy.rows[1][1:3]] == [True, False]
    assert [row[1].best for row in loss.rows] == [False, True]
    assert winners(rows) == "A baseline is the best method in 1 of 3 columns: x (a, test/accuracy)."
    assert board_tables([made_up("a", "x", 1, seconds=5, gpu_mebibytes=7)])[0].header[2:4] == ["seconds", "GPU MiB"]


@dataclass
class Ended:
    """A run that has ended in this process."""

    status: int
    said: str = ""
    waiting = False

    def poll(self) -> int:
        return self.status

    def signal(self, number: int) -> None:
        pass


class InProcess:
    """Launcher that runs `train.main` in this process."""

    note = ""

    def begin(self, runs: int, locks: Sequence[int]) -> int:
        return 1

    def start(self, jobs: Sequence[Any]) -> list[Ended]:
        return [Ended(train.main(job.arguments)) for job in jobs]

    def wait(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def test_two_rows_are_tuned_run_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs/leaderboards"
    folder.mkdir(parents=True)
    search = {"search": {"model.optimizer.lr": [1e-9, 0.1]}}
    cpu = {
        "protocol": "Two epochs.\n",
        "seeds": [0],
        "overrides": {"trainer.max_epochs": 2, "model.network.hidden_features": [32], "trainer.callbacks": []},
        "columns": {"40 %": {}},
        "rows": [
            {"name": "CE", "config": str(ROOT / "configs/elr/demo_baseline.yaml"), "baseline": True},
            {"name": "ELR", "config": str(ROOT / "configs/elr/demo.yaml"), **search},
        ],
        "validation": VALIDATION,
    }
    content = {"title": "Labels", "metrics": {"test/accuracy": "higher"}, "cpu": cpu}
    (folder / "labels.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(leaderboard, "launcher", lambda *arguments: InProcess())
    record = tmp_path / "docs/leaderboards.csv"
    record.parent.mkdir()
    record.write_text(rows_text([made_up("a", "x", 0.8)]))
    (record.parent / "images").mkdir()
    asked = [str(folder / "labels.yaml"), "--output", str(tmp_path / "out"), "--record", str(record)]
    with contextlib.chdir(tmp_path):
        assert commands.run("leaderboard", asked, ["train"]) == 0
    other, *rows = read_csv(record)
    assert other["field"] == "field"
    assert [row["settings"] for row in rows] == ["", "--model.optimizer.lr 0.1"]
    assert all(float(row["mean"]) > 0.2 for row in rows)
    assert all(float(row["cpu_seconds"]) > 0 for row in rows)
    assert all(float(row["mebibytes"]) > 50 for row in rows)
    assert (record.parent / "images/leaderboard_labels.png").is_file()
    page = leaderboards_page(tmp_path)
    assert "## Labels\n\nTwo epochs.\n\ntest/accuracy ↑, mean ± std over 1 seed\n\n| method | 40 % |" in page
    assert "![Labels](images/leaderboard_labels.png)" in page
    again = shlex.split(rows[1]["command"])[2:]  # the command of a cell gives the number of its first seed
    with contextlib.chdir(tmp_path):
        assert train.main([*again, "--run_directory", "alone"]) == 0
    first, alone = (tmp_path / each / "test_metrics.csv" for each in ("out/ELR/40_/seed_0", "alone"))
    assert first.read_text() == alone.read_text()


BOARDS = sorted((ROOT / "configs/leaderboards").glob("*.yaml"))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_the_shown_commands_of_a_field_parse(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.conformance.experiments import experiments

    for size in yaml.safe_load(path.read_text()).keys() & {"cpu", "gpu"}:
        assert commands.run("leaderboard", [path.stem, "--size", size, "--show"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) >= 2 * len({each.row for each in load_board(path.stem, size).entries})
        command = shlex.split(lines[-1])
        assert command[3] == "--config"
        tested = command[-1] == "true"
        experiments().parsed("--config", ROOT / command[4], *command[5 : -2 if tested else None])
