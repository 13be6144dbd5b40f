"""Studies with analytic objectives. The files of a run are written here, as `fit` would write them."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest

from experiments.tuning.figures import draw_study, importances
from experiments.tuning.search import Metric, parse_search
from experiments.tuning.study import Study, Trial, full_key

SEARCHES = [parse_search("model.lr=log:0.001:1"), parse_search("model.width=int:1:50")]
MAXIMUM, LOSS = Metric("val/score", "max"), Metric("val/loss", "min")


def objective(trial: Trial) -> float:
    """Return a value that is 1 at a learning rate of 0.03, and nearly independent of the width."""
    lr, width = float(trial.settings[0]), int(trial.settings[1])
    return 1 - math.log10(lr / 0.03) ** 2 - 1e-4 * width


def finish(
    study: Study,
    trial: Trial,
    curve: Sequence[float],
    pruned: bool = False,
    loss: float = 0.0,
    checkpoint: object = None,
) -> None:
    directory = study.directory(trial)
    directory.mkdir(parents=True)
    rows = [f"{epoch},{epoch},{value!r},{loss!r}" for epoch, value in enumerate(curve)]
    (directory / "metrics.csv").write_text("\n".join(["epoch,step,val/score,val/loss", *rows]) + "\n")
    settings = {"model": {"class_path": "A", "init_args": {"lr": 1, "width": 1}}, "checkpoint": checkpoint or {}}
    (directory / "config.yaml").write_text(json.dumps(settings))
    (directory / "trained.csv").write_text(f"metric,value\npruned,{int(pruned)}\nnoisy_validation_labels,0\n")
    study.end(trial)


def search(folder: Path, trials: int, reload: bool = False) -> Study:
    study = Study(folder, SEARCHES, [MAXIMUM], 3)
    for _ in range(trials):
        trial = study.ask()
        finish(study, trial, [objective(trial)])
        if reload:
            study = Study(folder, SEARCHES, [MAXIMUM], 3)
    return study


def test_a_study_that_is_read_from_its_file_before_every_trial_is_the_same(tmp_path: Path) -> None:
    whole, read = search(tmp_path / "whole", 14), search(tmp_path / "read", 14, reload=True)
    assert whole.trials == read.trials
    assert (tmp_path / "whole/trials.csv").read_bytes() == (tmp_path / "read/trials.csv").read_bytes()
    other = Study(tmp_path / "other", SEARCHES, [MAXIMUM], 4).ask()
    assert other.settings != whole.trials[0].settings


def test_trials_learn_from_the_earlier_ones_which_key_matters_and_where(tmp_path: Path) -> None:
    study = search(tmp_path, 40)
    begin, end = (np.mean([t.values[0] for t in part]) for part in (study.trials[:10], study.trials[-10:]))
    assert end > begin + 0.3
    best = study.best()[0]
    assert 0.02 < float(best.settings[0]) < 0.045
    assert best.values[0] == max(each.values[0] for each in study.trials)
    [shares] = importances(study)
    assert shares["model.lr"] > 0.7
    [path] = study.write_layers("demo.yaml")
    lr, width = best.settings
    head, *lines = path.read_text().splitlines()
    assert head == f"# Trial {best.number} of a search over demo.yaml: val/score {best.values[0]:.6g}"
    assert lines == [f"model.init_args.lr: {lr}", f"model.init_args.width: {width}"]


def test_the_directions_of_the_metrics_are_those_of_the_sampler(tmp_path: Path) -> None:
    study = Study(tmp_path, SEARCHES, [LOSS], 0)
    for loss in (3.0, 1.0, 2.0):
        finish(study, study.ask(), [0.0], loss=loss)
    assert [each.number for each in study.best()] == [1, 2, 0]
    assert study.optuna().best_trial.number == 1


def test_a_trial_that_failed_or_is_not_finite_is_recorded_and_has_no_rank(tmp_path: Path) -> None:
    study = Study(tmp_path, SEARCHES, [MAXIMUM], 0)
    finish(study, study.ask(), [0.1, math.nan])
    study.fail(study.ask(), "exit status 1: out of memory")
    finish(study, study.ask(), [0.5, 0.4])
    study.ask()
    again = Study(tmp_path, SEARCHES, [MAXIMUM], 0)
    assert [each.state for each in again.trials] == ["failed", "failed", "complete", "running"]
    assert [each.reason for each in again.trials[:2]] == ["a metric is not finite", "exit status 1: out of memory"]
    assert [each.values for each in again.best()] == [(0.4,)]
    names = [trial.state.name for trial in again.optuna().trials]
    assert names == ["FAIL", "FAIL", "COMPLETE", "RUNNING"]


@pytest.mark.parametrize(
    ("checkpoint", "value"),
    [
        ({"test_checkpoint": "last", "monitor": "val/score"}, 0.4),
        ({"test_checkpoint": "best", "monitor": "val/score"}, 0.9),
        ({"test_checkpoint": "best", "monitor": "val/score", "mode": "min"}, 0.2),
    ],
)
def test_the_value_of_a_trial_is_that_of_the_checkpoint_that_is_tested(
    checkpoint: object, value: float, tmp_path: Path
) -> None:
    study = Study(tmp_path, SEARCHES, [MAXIMUM], 0)
    finish(study, study.ask(), [0.2, 0.9, 0.4], checkpoint=checkpoint)
    assert study.trials[0].values == (value,)


def test_the_limits_prune_what_the_median_pruner_of_optuna_prunes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, metric in enumerate((MAXIMUM, LOSS)):
        study = Study(tmp_path / str(number), SEARCHES, [Metric("val/score", metric.mode)], 0)
        for count in range(8):
            limits = study.limits()
            assert bool(limits) == (count >= 5)
            for curve in rng.normal(size=(20, 6)):
                pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
                theirs = study.optuna(optuna.samplers.RandomSampler(seed=0))
                theirs.pruner = pruner
                trial = theirs.ask()
                best = -math.inf
                for epoch, value in enumerate(curve[:-1]):
                    trial.report(value, epoch)
                    best = max(best, study.metrics[0].sign * value)
                    ours = best < study.metrics[0].sign * limits.get(epoch, -math.inf * study.metrics[0].sign)
                    assert ours == trial.should_prune()
            finish(study, study.ask(), rng.normal(size=6).tolist())
        assert sorted(study.limits()) == [0, 1, 2, 3, 4], "the last epoch has no limit"


def test_several_metrics_give_the_pareto_front_of_optuna(tmp_path: Path) -> None:
    study, rng = Study(tmp_path, SEARCHES, [MAXIMUM, LOSS], 0), np.random.default_rng(1)
    for score, loss in rng.integers(0, 8, size=(20, 2)):
        finish(study, study.ask(), [float(score)], loss=float(loss))
    front = [each.number for each in study.best()]
    assert sorted(front) == sorted(trial.number for trial in study.optuna().best_trials)
    assert 1 < len(front) < 20
    assert {path.stem for path in study.write_layers("demo.yaml")} == {f"trial_{number}" for number in front}
    draw_study(study, tmp_path / "study.png")
    assert (tmp_path / "study.png").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("val/score", "val/loss"), "has the columns trial, state, epochs, val/loss"),
        (lambda text: text.replace("running", "asleep"), "trial 0 is asleep"),
        (lambda text: text.replace("0,running", "1,running"), "trial 1 is running"),
        (lambda text: text.rpartition(",")[0].rpartition(",")[0] + ",900,\n", "model.width 900 is not in int:1:50"),
    ],
)
def test_a_file_of_another_study_is_rejected(change: Callable[[str], str], said: str, tmp_path: Path) -> None:
    Study(tmp_path, SEARCHES, [MAXIMUM], 0).ask()
    path = tmp_path / "trials.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match="choose another --output") as error:
        Study(tmp_path, SEARCHES, [MAXIMUM], 0)
    assert said in str(error.value)


def test_a_key_is_written_where_the_configuration_of_the_run_has_it() -> None:
    settings = {"model": {"class_path": "A", "init_args": {"optimizer": {"init_args": {"lr": 1}}, "b": None}}}
    assert full_key(settings, "model.optimizer.lr") == "model.init_args.optimizer.init_args.lr"
    assert full_key(settings, "model.init_args.b") == "model.init_args.b"
    assert full_key(settings, "trainer.max_epochs") == "trainer.max_epochs"
