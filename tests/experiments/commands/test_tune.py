import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
from experiments import commands
from experiments.commands import tune
from experiments.config_files import PROJECT, flatten_settings, mapping_of
from experiments.results import read_curves
from tests.experiments.conftest import Config, Journal, Rejected, table
from tests.experiments.launching.test_run_queue import wait_until

METRIC = ["--metric", "val/accuracy"]
SEARCH = ["--search", "model.x=float:0:1"]


@pytest.mark.usefixtures("no_pictures")
def test_trials_are_chosen_run_and_shown_and_more_of_them_continue_the_study(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tune"
    arguments = [str(config("a", max_epochs=4, fails_above=0.9)), *SEARCH, *METRIC, "--output", str(out)]
    assert commands.run("tune", [*arguments, "--trials", "4"], fit) == 0
    assert commands.run("tune", [*arguments, "--trials", "12"], fit) == 0
    said = capsys.readouterr()
    rows = table(out / "trials.csv")
    assert [row["trial"] for row in rows] == [str(number) for number in range(12)]
    for row in rows:
        x = float(row["model.x"])
        if row["state"] == "complete":
            assert float(row["val/accuracy"]) == pytest.approx(1 - 0.5**3 - (x - 0.3) ** 2)
        elif row["state"] == "failed":
            assert (x > 0.9, row["reason"]) == (True, "exit status 1: x is too large")
    assert {row["state"] for row in rows} == {"complete", "failed", "pruned"}
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert all(int(row["epochs"]) < 4 for row in pruned)
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["val/accuracy"]))
    assert f"model.x: {best['model.x']}\n" in (out / "best.yaml").read_text()
    assert "4 of 12 trials have ended before and are kept" in said.out
    assert f"fit --config {arguments[0]} --config {out}/best.yaml --seed_everything 0 --test_after_fit true" in said.out
    assert [line[0] for line in journal() if line[2] == "started"] == [f"trial_{number}" for number in range(12)]
    assert not list(out.glob("*/test_metrics.csv"))

    whole = tmp_path / "tune_whole"
    assert commands.run("tune", [*arguments[:-1], str(whole), "--trials", "12"], fit) == 0
    assert (whole / "trials.csv").read_bytes() == (out / "trials.csv").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="children end with a killed parent on Linux alone")
@pytest.mark.usefixtures("no_pictures")
def test_a_study_that_is_killed_in_a_trial_ends_as_if_it_had_not_been_killed(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, whole = tmp_path / "tune_killed", tmp_path / "tune_whole"
    arguments = [str(config("a", max_epochs=5, seconds=0.06)), *SEARCH, *METRIC, "--trials", "8", "--output"]
    call = f"run('tune', {[*arguments, str(killed)]!r}, {fit!r})"
    program = f"import sys; from experiments.commands import run; sys.exit({call})"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, start_new_session=True
    )
    wait_until(lambda: ["trial_4", "0", "epoch", "2"] in journal(), 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert [row["state"] for row in table(killed / "trials.csv")][-1] == "running"
    begun = len(journal())
    assert commands.run("tune", [*arguments, str(killed)], fit) == 0
    assert journal()[begun][:3] == ["trial_4", "0", "resumed"]
    assert "trial 4: x" in capsys.readouterr().out
    assert commands.run("tune", [*arguments, str(whole)], fit) == 0
    for name in ("trials.csv", "best.yaml", "trial_4/metrics.csv", "trial_6/.limits.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.usefixtures("no_pictures")
def test_several_jobs_run_all_trials_and_a_small_search_ends_when_all_settings_are_tried(
    config: Config, fit: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "tune"
    arguments = [
        str(config("a")),
        "--search",
        "model.x=choice:0.1,0.3,0.5",
        *METRIC,
        "--metric",
        "train/loss_epoch:min",
    ]
    assert commands.run("tune", [*arguments, "--output", str(out), "--trials", "9", "--jobs", "2"], fit) == 0
    assert sorted(row["model.x"] for row in table(out / "trials.csv")) == ["0.1", "0.3", "0.5"]
    assert [path.name for path in (out / "front").iterdir()] == ["trial_" + next(
        row["trial"] for row in table(out / "trials.csv") if row["model.x"] == "0.3") + ".yaml"]  # fmt: skip


def test_a_metric_that_no_trial_logs_ends_the_study(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(config("a")),
        *SEARCH,
        "--metric",
        "val/acc:max",
        "--trials",
        "3",
        "--output",
        str(tmp_path / "tune"),
    ]
    assert commands.run("tune", arguments, fit) == 2
    assert "--metric val/acc: trial 0 did not log it; did you mean val/accuracy?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--metric", "test/accuracy"], "choose a validation metric such as val/accuracy"),
        (["--metric", "val/score"], "write val/score:max if larger values are better, or val/score:min"),
        ([*METRIC, "--search", "model.x=log:1:2"], "--search sets model.x twice"),
        ([*METRIC, "--launcher", "ray"], "--launcher ray needs --jobs"),
        ([*METRIC, "--", "--seed_everything", "3"], "--seed_everything cannot be overridden"),
    ],
)
def test_a_wrong_search_is_rejected_before_anything_runs(
    more: list[str], said: str, config: Config, rejected: Rejected, tmp_path: Path
) -> None:
    arguments = [str(config("a")), *SEARCH, "--trials", "3", "--output", str(tmp_path / "out")]
    rejected("tune", [*arguments, *more], said)


def test_without_optuna_one_sentence_says_what_to_install(
    config: Config, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.commands.tune.find_spec", lambda name: None)
    arguments = [str(config("a")), *SEARCH, *METRIC, "--trials", "3", "--output", str(tmp_path / "out")]
    rejected("tune", arguments, "pip install 'noiseworks[tune]'")


def test_both_ends_of_a_range_are_built_before_any_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Config, fit: list[str]
) -> None:
    asked = tmp_path / "asked.json"
    script = tmp_path / "preflight.py"
    script.write_text(
        "import json, sys\n"
        f"given = json.load(sys.stdin); json.dump(given, open({str(asked)!r}, 'w'))\n"
        "print(json.dumps([None] * 3 + ['model.y must be less than 4, got 4']))\n"
    )
    searches = [*SEARCH, "--search", "model.y=int:1:4"]
    arguments = [str(config("a")), *searches, *METRIC, "--trials", "3", "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"model.y=4 cannot be run: model.y must be less than 4, got 4"):
        tune.run(commands.parse("tune", arguments), fit, [sys.executable, str(script)])
    assert [each[2:] for each in json.loads(asked.read_text())] == [
        ["--model.x", "0"],
        ["--model.x", "1"],
        ["--model.y", "1"],
        ["--model.y", "4"],
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_the_demo_is_tuned_and_its_best_settings_are_a_layer_for_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo, out = "configs/elr/demo.yaml", tmp_path / "tune"
    searches = ["--search", "model.strength=log:0.1:10", "--search", "model.optimizer.lr=log:1e-3:1"]
    short = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2"]
    arguments = ["tune", demo, *searches, *METRIC, "--trials", "7", "--output", str(out), "--", *short]
    assert train.main(arguments) == 0
    said = capsys.readouterr().out
    assert "val/accuracy ↑ (on noisy labels)" in said
    assert (out / "study.png").is_file()
    settings = mapping_of(out / "best.yaml")
    assert list(settings) == ["model.init_args.strength", "model.init_args.optimizer.init_args.lr"]
    run = tmp_path / "run"
    layers = ["--config", demo, "--config", str(out / "best.yaml")]
    assert train.main(["fit", *layers, *short, "--run_directory", str(run)]) == 0
    made = flatten_settings(mapping_of(run / "config.yaml"))
    assert (made["model.strength"], made["model.optimizer.lr"]) == tuple(settings.values())
    best = max(table(out / "trials.csv"), key=lambda row: float(row["val/accuracy"]))
    curve = read_curves(run / "metrics.csv")["val/accuracy"]
    assert curve[1] == pytest.approx(float(best["val/accuracy"]), abs=1e-6)
