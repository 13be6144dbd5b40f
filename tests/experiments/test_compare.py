import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import compare, run_queue
from experiments.figures import read_curves, shared_curves
from experiments.results import Summary, markdown, mean_and_std
from experiments.run_request import unique_names

Config = Callable[..., Path]
Journal = Callable[..., list[list[str]]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def start(arguments: list[str], fit: list[str], before: str = "pass") -> subprocess.Popen[str]:
    """`compare` as a process that leads its own group, and hears Ctrl-C where a background job of a shell does not."""
    program = f"{before}; import sys; from experiments.compare import main; sys.exit(main({arguments!r}, {fit!r}))"
    project = str(Path(compare.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_tables_hold_mean_and_sample_deviation_of_every_metric(config: Config, fit: list[str], tmp_path: Path) -> None:
    a, b = config("a", start=0.9, per_seed=0.013), config("b", start=0.5, best_epoch=0.6)
    out = tmp_path / "out"
    assert compare.main([str(a), str(b), "--seeds", "0", "2", "3", "--output", str(out)], fit) == 0

    runs = table(out / "runs.csv")
    assert list(runs[0]) == ["config", "metric", "seed", "value"]
    assert len(runs) == 3 * (2 + 3)
    summary = table(out / "summary.csv")
    assert list(summary[0]) == ["config", "metric", "mean", "std", "seeds"]
    assert [(row["config"], row["metric"]) for row in summary] == [
        ("a", "test/accuracy"),
        ("a", "test/memorized"),
        ("b", "test/accuracy"),
        ("b", "test/memorized"),
        ("b", "best_epoch/test/accuracy"),
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
    text = (out / "summary.md").read_text()
    assert "| test/accuracy | 0.922 ± 0.020 | 0.517 ± 0.015 |" in text
    assert "seeds 0, 2, 3" in text
    assert "Python 3." in text
    for picture in ("comparison.png", "curves.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("*.tmp"))


def test_what_is_finished_is_not_run_again_and_new_seeds_join(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = config("a", start=0.9), tmp_path / "out"
    assert compare.main([str(a), "--seeds", "0", "--output", str(out)], fit) == 0
    assert table(out / "summary.csv")[0]["std"] == ""
    before = journal()
    assert compare.main([str(a), "--seeds", "0", "--output", str(out)], fit) == 0
    assert journal() == before
    assert "1 of 1 runs were finished before" in capsys.readouterr().out
    assert compare.main([str(a), "--seeds", "0", "4", "--output", str(out)], fit) == 0
    assert {line[1] for line in journal()[len(before) :]} == {"4"}
    assert table(out / "summary.csv")[0]["seeds"] == "2"


def test_results_of_other_code_are_kept_but_pointed_out(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out")]
    for module in (run_queue, compare):
        monkeypatch.setattr(module, "code_fingerprint", lambda: "one state")
    assert compare.main(arguments, fit) == 0
    assert compare.main(arguments, fit) == 0
    assert "the code has changed" not in capsys.readouterr().out
    for module in (run_queue, compare):
        monkeypatch.setattr(module, "code_fingerprint", lambda: "another")
    assert compare.main(arguments, fit) == 0
    assert "the code has changed since 1 of them" in capsys.readouterr().out
    assert "1 of 1 runs with an earlier state of the code" in (tmp_path / "out/summary.md").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="children end with a killed parent on Linux alone")
def test_killed_in_the_middle_and_called_again_it_ends_as_if_it_had_not_been_killed(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = config("a", start=0.9, max_epochs=6, seconds=0.1)
    seeds = ["--seeds", "0", "1", "2"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start([str(a), *seeds, "--output", str(killed)], fit)
    wait_until(lambda: ["a", "1", "epoch", "2"] in journal())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.5)
    stopped = journal()
    assert ["a", "1", "finished", "6"] not in stopped
    time.sleep(0.4)
    assert journal() == stopped, "a run outlived the comparison"

    assert compare.main([str(a), *seeds, "--output", str(killed)], fit) == 0
    printed = capsys.readouterr().out
    assert "a, seed 1: continued" in printed
    assert "a, seed 2: started" in printed
    again = journal()[len(stopped) :]
    assert again[0][:3] == ["a", "1", "resumed"]
    assert int(again[0][3]) >= 3
    assert not [line for line in again if line[1] == "0"]
    assert compare.main([str(a), *seeds, "--output", str(whole)], fit) == 0
    for name in ("summary.csv", "runs.csv", "a/seed_1/metrics.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_without_a_checkpoint_starts_afresh(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    a, out = config("a", start=0.9, crash=[0]), tmp_path / "out"
    arguments = [str(a), "--seeds", "0", "--output", str(out)]
    assert compare.main(arguments, fit) == 1
    (out / "a/seed_0/checkpoints/last.ckpt").unlink()
    (out / "a/seed_0/leftover.txt").write_text("of the first attempt")
    assert compare.main(arguments, fit) == 1
    assert [line[2:] for line in journal() if line[2] in ("started", "resumed")] == [["started", "0"]] * 2
    assert not (out / "a/seed_0/leftover.txt").exists()
    assert (out / "a/seed_0/log.txt").read_text().count("training 0") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_runs_and_what_they_launched(
    number: signal.Signals, config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    a = config("a", start=0.9, max_epochs=400, seconds=0.05, launch=True)
    process = start([str(a), "--seeds", "0", "1", "--jobs", "2", "--output", str(tmp_path / "out")], fit)
    wait_until(lambda: sum(line[2] == "epoch" for line in journal()) > 4)
    process.send_signal(number)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "interrupted: 0 of 2 runs are finished; the same command continues" in output
    assert "Traceback" not in output
    launched = [int(line[3]) for line in journal() if line[2] == "launched"]
    assert len(launched) == 2
    wait_until(lambda: not any(is_alive(each) for each in launched), seconds=5)
    stopped = journal()
    time.sleep(0.2)
    assert journal() == stopped


def test_one_failed_run_does_not_lose_the_others(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = config("a", start=0.9, crash=[1]), config("b", start=0.5, empty=[2])
    out = tmp_path / "out"
    assert compare.main([str(a), str(b), "--seeds", "0", "1", "2", "--output", str(out)], fit) == 1
    counts = {row["config"]: row["seeds"] for row in table(out / "summary.csv") if row["metric"] == "test/accuracy"}
    assert counts == {"a": "2", "b": "2"}
    printed = capsys.readouterr().out
    assert f"a, seed 1 failed (exit status 3); its log is {out}/a/seed_1/log.txt" in printed
    assert "  | last line of the error" in printed
    assert f"b, seed 2 failed (ended without test_metrics.csv); its log is {out}/b/seed_2/log.txt" in printed


def test_a_run_that_is_killed_is_said_to_be(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suicide = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out")]
    assert compare.main(arguments, suicide) == 1
    assert "killed by SIGKILL" in capsys.readouterr().out
    assert (tmp_path / "out/summary.csv").read_text() == "config,metric,mean,std,seeds\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": 0.8}, "model.start 0.9, now it is 0.8"),
        ({"per_seed": 0.5}, "model.per_seed absent, now it is 0.5"),
        ({"max_epochs": 7}, "trainer.max_epochs 3, now it is 7"),
    ],
)
def test_another_config_is_refused_by_key_and_values(
    change: dict, said: str, config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    path = config("a", start=0.9)
    assert compare.main([str(path), "--seeds", "0", "--output", str(out)], fit) == 0
    before = (out / "a/seed_0/test_metrics.csv").read_bytes()
    capsys.readouterr()
    config("a", **{"start": 0.9, **change})
    assert compare.main([str(path), "--seeds", "0", "1", "--output", str(out)], fit) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{out}/a/seed_0 holds a run with {said}" in error
    assert (out / "a/seed_0/test_metrics.csv").read_bytes() == before
    assert not (out / "a/seed_1").exists()


def test_other_overrides_are_refused_and_a_comment_is_not_another_config(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = config("a", start=0.9), tmp_path / "out"
    arguments = [str(path), "--seeds", "0", "--output", str(out)]
    assert compare.main([*arguments, "--", "--trainer.max_epochs", "2"], fit) == 0
    assert json.loads((out / "a/seed_0/config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert compare.main([*arguments, "--", "--trainer.max_epochs", "4"], fit) == 2
    assert '--trainer.max_epochs "2", now it is "4"' in capsys.readouterr().err
    assert compare.main(arguments, fit) == 2
    assert '--trainer.max_epochs "2", now it is absent' in capsys.readouterr().err
    path.write_text("# a comment\n" + path.read_text())
    assert compare.main([*arguments, "--", "--trainer.max_epochs", "2"], fit) == 0


def test_a_layered_config_is_part_of_what_was_asked_for(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = tmp_path / "trainer.yaml"
    layer.write_text("trainer: {accelerator: cpu}")
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--", "--config"]
    assert compare.main([*arguments, str(layer)], fit) == 0
    layer.write_text("trainer: {accelerator: gpu}")
    assert compare.main([*arguments, str(layer)], fit) == 2
    assert f'{layer}: trainer.accelerator "cpu", now it is "gpu"' in capsys.readouterr().err


def test_the_order_of_layered_configs_counts(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("trainer: {accelerator: cpu}")
    second.write_text("trainer: {precision: 32}")
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--"]
    assert compare.main([*arguments, f"--config={first}", f"--config={second}", "--x", "1"], fit) == 0
    assert compare.main([*arguments, f"--config={second}", f"--config={first}", "--x", "1"], fit) == 2
    assert "holds a run with" in capsys.readouterr().err


def test_a_config_that_changes_while_runs_wait_is_not_mixed_in(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path
) -> None:
    path, out = config("a", start=0.9, seconds=0.2), tmp_path / "out"
    process = start([str(path), "--seeds", "0", "1", "--output", str(out)], fit)
    wait_until(lambda: ["a", "0", "epoch", "0"] in journal())
    config("a", start=0.1)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 1
    assert "was changed after the comparison had started" in output
    assert [row["seed"] for row in table(out / "runs.csv")] == ["0", "0"]


def test_a_directory_in_use_is_refused(
    config: Config,
    fit: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_queue, "GRACE_SECONDS", 0.2)
    out = tmp_path / "out"
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(out)]
    with run_queue.lock([out]):
        assert compare.main(arguments, fit) == 1
    assert f"{out} is in use" in capsys.readouterr().err
    assert compare.main(arguments, fit) == 0


def test_a_run_that_outlives_its_comparison_keeps_others_out(
    config: Config,
    fit: list[str],
    journal: Journal,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    arguments = [str(config("a", start=0.9, max_epochs=25, seconds=0.1)), "--seeds", "0", "--output", str(out)]
    process = start(arguments, fit, "from experiments import run_queue; run_queue._END_WITH_PARENT = None")
    wait_until(lambda: ["a", "0", "epoch", "0"] in journal())
    process.kill()
    process.wait()
    monkeypatch.setattr(run_queue, "GRACE_SECONDS", 0.2)
    assert compare.main(arguments, fit) == 1
    assert f"{out} is in use" in capsys.readouterr().err
    wait_until(lambda: ["a", "0", "finished", "25"] in journal())
    assert compare.main(arguments, fit) == 0
    assert [line[2] for line in journal()].count("epoch") == 25


def test_children_that_run_together_share_the_cores(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run_queue, "cores", lambda: 7)
    path = config("a", start=0.9, seconds=2.0)
    arguments = [str(path), "--seeds", "0", "1", "2", "--output", str(tmp_path / "out")]
    assert compare.main([*arguments, "--jobs", "3"], fit) == 0
    assert {line[3] for line in journal() if line[2] == "threads"} == {"2"}
    first_end = next(i for i, line in enumerate(journal()) if line[2] == "finished")
    assert sum(line[2] == "started" for line in journal()[:first_end]) == 3
    (tmp_path / "configs/method/journal.txt").unlink()
    assert compare.main([*arguments[:-1], str(tmp_path / "one by one")], fit) == 0
    assert {line[3] for line in journal() if line[2] == "threads"} == {"None"}
    starts = [i for i, line in enumerate(journal()) if line[2] == "started"]
    ends = [i for i, line in enumerate(journal()) if line[2] == "finished"]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def test_same_names_are_told_apart_by_folder(config: Config, fit: list[str], tmp_path: Path) -> None:
    a, b = config("demo", folder="elr", start=0.9), config("demo", folder="adele", start=0.8)
    out = tmp_path / "out"
    assert compare.main([str(a), str(b), "--seeds", "0", "--output", str(out)], fit) == 0
    assert [row["config"] for row in table(out / "runs.csv")] == ["elr/demo"] * 2 + ["adele/demo"] * 2
    assert (out / "adele/demo/seed_0/test_metrics.csv").exists()


def test_names_are_the_shortest_tails_that_differ(tmp_path: Path) -> None:
    assert unique_names([tmp_path / "x/a", tmp_path / "x/b"]) == ["a", "b"]
    assert unique_names([tmp_path / "p/x/a", tmp_path / "q/x/a", tmp_path / "q/x/b"]) == ["p/x/a", "q/x/a", "q/x/b"]
    with pytest.raises(ValueError, match="x/a"):
        unique_names([tmp_path / "x/a", tmp_path / "x/../x/a"])


def test_default_output_is_found_again_and_differs_between_folders(config: Config) -> None:
    a, b = config("demo", folder="elr"), config("baseline", folder="elr")
    other = config("demo", folder="adele")
    assert compare.default_output([a, b]) == Path("runs/compare/elr/demo-vs-baseline")
    assert compare.default_output([a, other]) == Path("runs/compare/elr-demo-vs-adele-demo")
    many = [config(f"a_long_name_of_a_config_{i}", folder="elr") for i in range(12)]
    long = compare.default_output(many)
    assert len(long.name) < 200
    assert long != compare.default_output(many[::-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["A", "missing.yaml", "--seeds", "0"], "missing.yaml does not exist"),
        (["--seeds", "0"], "CONFIG"),
        (["A"], "--seeds"),
        (["A", "--seeds"], "--seeds"),
        (["A", "--seeds", "0", "1", "0"], "--seeds names 0 twice"),
        (["A", "--seeds", "one"], "'one' is not a whole number"),
        (["A", "--seeds", "-1"], "-1"),
        (["A", "--seeds", "0", "--jobs", "0"], "--jobs"),
        (["A", "--seeds", "0", "--trainer.max_epochs", "2"], "--trainer.max_epochs is not an option of compare"),
        (["A", "--trainer.max_epochs=2", "--seeds", "0"], "after `--`"),
        (["A", "--seeds", "0", "--", "trainer.max_epochs"], "must be overrides"),
        (["A", "--seeds", "0", "--", "--seed_everything=3"], "--seed_everything cannot be overridden"),
        (["A", "--seeds", "0", "--", "--run_directory", "x"], "--run_directory cannot be overridden"),
        (["A", "A", "--seeds", "0"], "a"),
        (["FOLDER", "--seeds", "0"], "is not a file"),
        (["BROKEN", "--seeds", "0"], "is not valid YAML"),
        (["LIST", "--seeds", "0"], "list.yaml is no configuration"),
        (["A", "--seeds", "0", "--output", "FILE"], "is a file"),
        (["A", "--seeds", "0", "--output", "FULL"], "has no readable request.json"),
    ],
)
def test_bad_input_is_one_sentence_and_runs_nothing(
    arguments: list[str],
    said: str,
    config: Config,
    fit: list[str],
    journal: Journal,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "file").write_text("")
    (tmp_path / "full/a/seed_0").mkdir(parents=True)
    (tmp_path / "full/a/seed_0/thesis.txt").write_text("precious")
    names = {"A": str(config("a", start=0.9)), "FOLDER": ".", "BROKEN": "broken.yaml", "LIST": "list.yaml"}
    names |= {"FILE": "file", "FULL": "full"}
    assert compare.main([names.get(each, each) for each in arguments], fit) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not journal()
    assert (tmp_path / "full/a/seed_0/thesis.txt").read_text() == "precious"


def test_damaged_results_are_named(
    config: Config, fit: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out")]
    assert compare.main(arguments, fit) == 0
    damaged = tmp_path / "out/a/seed_0/test_metrics.csv"
    damaged.write_text("metric,value\ntest/accuracy,0.9x\n")
    assert compare.main(arguments, fit) == 1
    assert f"{damaged} is damaged" in capsys.readouterr().err


def test_progress_on_a_terminal_shows_epochs_of_each_run(config: Config, fit: list[str], tmp_path: Path) -> None:
    path = config("a", start=0.9, max_epochs=12, seconds=0.1)
    runs = compare.plan(compare.load_experiments([path]), [0, 1], tmp_path / "out")
    with (tmp_path / "screen.txt").open("w") as screen:
        console = Console(file=screen, force_terminal=True, highlight=False, width=100)
        assert not run_queue.run_all(runs, jobs=2, console=console, run_command=fit)
    text = (tmp_path / "screen.txt").read_text()
    for said in ("a, seed 0", "a, seed 1", "starting", "/12", "all runs", "2/2", "a, seed 1: finished in"):
        assert said in text


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
