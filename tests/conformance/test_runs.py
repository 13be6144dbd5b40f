"""Every method trains, resumes, is loaded, tests and predicts, and respects seed and precision."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim.optimizer import register_optimizer_step_post_hook

import train
from experiments.load_run import load_run
from experiments.saving.checkpoints import StepCheckpoint
from tests.conformance.half_products import HalfProducts
from tests.conformance.runs import assert_alike, class_path, losses, methods, rows, run, state, tables, written
from tests.nightly import nightly_beyond
from tests.trainers import quiet

METHODS = methods()
ROWS = nightly_beyond({class_path(method): name for name, method in reversed(METHODS.items())}.values(), METHODS)
"""Classes with several rows have one in the default suite."""
BEGINNING = "--trainer.callbacks+={class_path: tests.conformance.runs.Beginning}"


@pytest.fixture(scope="module", params=ROWS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_pictures: None) -> Path:
    """Complete a run, in a directory that has the row's name and also contains the configuration."""
    directory = tmp_path_factory.mktemp("runs") / request.param
    directory.mkdir()
    run("fit", "--config", written(request.param, directory), "--run_directory", directory, BEGINNING)
    shutil.copytree(directory, directory.with_name("fitted"))  # a test appends to the tables
    if METHODS[request.param].tests:
        run("test", "--resume", directory)
    return directory


def fit(whole: Path, directory: Path, *arguments: str) -> None:
    """Train again with the same configuration and additional arguments."""
    config = whole / f"{whole.name}.yaml"
    run("fit", "--config", config, "--run_directory", directory, BEGINNING, *arguments)


def test_it_trains_and_is_tested(whole: Path) -> None:
    if METHODS[whole.name].tests:
        tested = rows(whole / "test_metrics.csv")
        assert tested
        assert all(isinstance(row["value"], float) for row in tested)
    assert (losses(whole) != []) == METHODS[whole.name].trains
    assert all(loss == loss and abs(loss) < 1e6 for loss in losses(whole))


class Stopped(Exception):
    """Imitates a kill."""


def test_a_run_stopped_within_an_epoch_ends_where_the_whole_one_does(
    whole: Path, tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = StepCheckpoint.on_train_batch_end

    def saves_and_stops(self: StepCheckpoint, trainer: Trainer, *args: object) -> None:
        saves(self, trainer, *args)
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if trainer.current_epoch == (trainer.max_epochs or 0) - 1 and progress.current.ready == 2:
            assert not progress.is_last_batch, "give the demo's row three batches an epoch"
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(StepCheckpoint, "on_train_batch_end", saves_and_stops)
        with pytest.raises(Stopped):
            fit(whole, tmp_path, "--checkpoint.every_n_steps", "1")
    run("fit", "--resume", tmp_path)
    ours, theirs = state(tmp_path), state(whole)
    for key in theirs.keys() - {"callbacks", "loops"}:
        assert_alike(theirs[key], ours[key], key)
    fitted = tables(whole.with_name("fitted"))
    assert fitted.keys() == tables(tmp_path).keys()
    for name, table in fitted.items():
        assert tables(tmp_path)[name].read_bytes() == table.read_bytes(), name


def test_a_checkpoint_is_read_back_and_predicts_in_float32_or_says_in_one_sentence_that_it_does_not(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, data = load_run(whole, "last")
    assert_alike(state(whole)["state_dict"], dict(module.state_dict()), "state_dict")
    if is_overridden("validation_step", module):
        precision = "64-true" if METHODS[whole.name].double else "32-true"
        quiet(default_root_dir=whole, precision=precision).validate(module, data, verbose=False)
    if not is_overridden("predict_step", module) or not METHODS[whole.name].predicts:
        capsys.readouterr()
        assert train.main(["predict", "--resume", str(whole)]) == 1
        [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert f"{type(module).__name__} predicts nothing: " in error or is_overridden("predict_step", module)
        return
    precision = "64-true" if METHODS[whole.name].double else "bf16-mixed"
    run("predict", "--resume", whole, "--trainer.precision", precision, "--trainer.limit_predict_batches", "1")
    if (whole / "predictions.parquet").exists():
        predicted = pd.read_parquet(whole / "predictions.parquet")
        columns = [name for name in predicted if name.startswith("probability")]
        assert {str(kind) for kind in predicted[columns].dtypes} == {"float32"}
        assert predicted[columns].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)


@pytest.fixture
def largest_norm() -> Iterator[list[float]]:
    """Record the norms of all gradients that optimizers use."""
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([torch.zeros(()), *(g.norm() for g in gradients)]))))

    hook = register_optimizer_step_post_hook(note)
    yield norms
    hook.remove()


def test_another_seed_half_precision_and_clipping(
    whole: Path, tmp_path: Path, no_pictures: None, largest_norm: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """That equal seeds give equal runs is already tested with the stopped run."""
    method = METHODS[whole.name]
    clipped = (f"--{method.clips}", "0.01") if method.clips else ()
    more = () if method.double else ("--trainer.precision", "bf16-mixed")
    with HalfProducts() as rounded:
        fit(whole, tmp_path, "--seed_everything", "1", "--trainer.max_epochs", "1", *more, *clipped)
    ours, theirs = (torch.load(directory / "beginning.pt") for directory in (tmp_path, whole))
    assert any(not torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert rounded.places == set(), "compute these within in_full_precision, or in a layer"
    assert all(loss == loss and abs(loss) < 1e6 for loss in losses(tmp_path))
    if method.double:
        settings = ("--config", str(whole / f"{whole.name}.yaml"), "--run_directory", str(tmp_path / "single"))
        assert train.main(["fit", *settings, "--trainer.precision", "32-true"]) == 1
        assert "trainer.precision must be 64-true" in capsys.readouterr().err
    if method.clips:
        assert largest_norm
        assert max(largest_norm[-3:]) <= 0.01 * 1.001
