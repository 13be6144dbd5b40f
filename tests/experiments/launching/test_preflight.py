"""A wrong metric name is reported before anything trains."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import train
from experiments.claims.statements import plan_claims, try_metrics
from experiments.launching.dry_run import errors_of, short_run
from experiments.launching.preflight import metrics_of_short_run
from experiments.saving.checkpoints import BestNeedsItsMetric
from tests.command import ROOT
from tests.conformance.experiments import HEADER_ARMS
from tests.experiments.claims.test_statements import stated
from tests.experiments.conftest import Config
from tests.parsed_once import parsing_once

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
DEMO = ("fit", "--config", "configs/elr/demo_baseline.yaml", "--trainer.max_epochs", "1", *QUIET)
CLAIMS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/claim.yaml"))


def test_a_short_run_has_the_metrics_of_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = short_run(["--config", str(ROOT / "configs/elr/demo_baseline.yaml"), *QUIET])
    assert {"train/loss", "val/accuracy", "test/accuracy", "test/memorized", "best_epoch/test/accuracy"} <= {*found}
    monkeypatch.chdir(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("monitor", "logged", "said"),
    [
        (
            "val/acuracy",
            ["val/accuracy", "val/loss"],
            "did you mean val/accuracy? The metrics are val/accuracy, val/loss",
        ),
        ("train/memorised", ["train/memorized"], "nothing logs checkpoint.monitor train/memorised"),
        ("val_loss", ["val/accuracy"], "nothing logs checkpoint.monitor val_loss"),
        ("train/loss", ["train/loss"], None),  # validation does not log this metric
        ("test/accuracy", ["test/accuracy", "train/loss"], "The metrics are train/loss"),
        ("val/accuracy", [], None),  # validation logs this metric, so no run is needed
    ],
)
def test_a_monitor_that_nothing_logs_is_told_before_training(
    monitor: str,
    logged: list[str],
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Sequence[str]] = []

    def short(arguments: Sequence[str]) -> list[str]:
        asked.append(arguments)
        return logged

    monkeypatch.setattr("experiments.calls.build.metrics_of_short_run", short)
    begun: list[int] = []
    monkeypatch.setattr(
        "experiments.saving.metrics_table.ResumableMetrics.on_train_batch_end", lambda *_: begun.append(1)
    )
    arguments = (*DEMO, "--run_directory", str(tmp_path / "run"), "--checkpoint.monitor", monitor)
    assert train.main([*arguments]) == (1 if said else 0)
    assert bool(begun) == (said is None)
    assert asked == ([] if monitor == "val/accuracy" else [[*arguments[1:]]])
    if said:
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_monitor_that_a_callback_measures_in_whole_runs_alone_is_not_refused() -> None:
    saver = BestNeedsItsMetric("val/fid", True, lambda: ["val/loss"])
    trainer: Any = SimpleNamespace(
        num_val_batches=[1],
        is_global_zero=True,
        strategy=SimpleNamespace(broadcast=lambda value: value),
        callbacks=[SimpleNamespace(measures_whole_runs_alone=True)],
    )
    saver.on_train_start(trainer, None)  # type: ignore[arg-type]
    saver.monitor = "val/los"
    with pytest.raises(ValueError, match="did you mean val/loss"):
        saver.on_train_start(trainer, None)  # type: ignore[arg-type]


def test_a_short_run_that_fails_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.calls.build.metrics_of_short_run", lambda _: None)
    assert train.main([*DEMO, "--run_directory", str(tmp_path), "--checkpoint.monitor", "train/loss"]) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")  # the child must not wait for a second process
    assert metrics_of_short_run([], ("sh", "-c", "exit $WORLD_SIZE1")) is None
    assert metrics_of_short_run(["a"], ("sh", "-c", 'cat; echo; echo "[\\"$0$WORLD_SIZE\\"]"')) == ["--short-run"]


def test_a_claims_metric_is_known_before_its_runs(config: Config, tmp_path: Path) -> None:
    folder = config("demo").parent
    config("demo_baseline")
    places = plan_claims(
        [stated(folder / "claim.yaml", {}, {"metric": "test/acuracy", "name": "second"})], tmp_path / "out"
    )
    asked: list[Sequence[str]] = []

    def short(arguments: Sequence[str]) -> list[str]:
        asked.append(arguments)
        return ["test/accuracy", "train/loss"]

    with pytest.raises(
        ValueError, match=r"claim second: .* did you mean test/accuracy\? The metrics are test/accuracy$"
    ):
        try_metrics(places, short)
    assert asked == [["--config", str(folder / "demo.yaml")]]  # once for both claims
    try_metrics(places, lambda _: None)
    for run in places[0].runs[:2]:
        run.directory.mkdir(parents=True)
        (run.directory / "test_metrics.csv").write_text("metric,value\n")
    try_metrics(places, lambda _: [])  # the metrics of a finished run are known


@pytest.mark.nightly
def test_what_every_claim_compares_and_every_header_suggests_can_be_instantiated(tmp_path: Path) -> None:
    """Instantiation uses the meta device, where a constructor that reads tensor values fails."""
    places = plan_claims([ROOT / path for path in CLAIMS], tmp_path)
    compared = [
        *dict.fromkeys(run.experiment for place in places for run in place.runs),
        *(arm for arm in HEADER_ARMS if arm.config.stem.startswith("demo")),
    ]
    with parsing_once():
        errors = errors_of([["--config", str(each.config), *each.overrides] for each in compared])
    assert {
        f"{each.config} {each.overrides}": error for each, error in zip(compared, errors, strict=True) if error
    } == {}


@pytest.mark.nightly
@pytest.mark.parametrize("path", CLAIMS)
def test_a_short_run_knows_the_metrics_of_every_claim(path: str, tmp_path: Path) -> None:
    """Claims about data that are not here are left out, as `metrics_of_short_run` does if a run fails."""

    def metrics(arguments: Sequence[str]) -> list[str] | None:
        try:
            return short_run([*arguments, *QUIET])
        except FileNotFoundError as error:
            if "NOISEWORKS_DATA" in str(error):
                return None
            raise

    try_metrics(plan_claims([ROOT / path], tmp_path), metrics)
