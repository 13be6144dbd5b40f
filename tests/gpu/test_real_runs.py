"""Training on CIFAR-10 with the papers' settings; if time is short, with fewer epochs and shortened schedules."""

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import CONFIGS, rows, settings_of
from tests.distributed.methods import changed
from tests.gpu.place import Place

SCHEDULE = "model.init_args.lr_scheduler.init_args.milestones"
PROBE = (5, 45)
"""Numbers of batches of two short runs; the time per batch is computed from the difference between the runs."""
CERTIFIED = {
    "trainer.callbacks.0.init_args.skip": 100,  # 100 of the 10,000 test images
    "trainer.callbacks.0.init_args.mode.init_args.n": 10_000,
    "model.init_args.num_copies": 1,
    "data.init_args.batch_size": 256,
}


@pytest.fixture
def cifar10() -> Path:
    """Return the folder of CIFAR-10."""
    folder = Path(os.environ.get("NOISEWORKS_DATA", ""), "cifar10")
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is missing: set NOISEWORKS_DATA to the folder that contains cifar10")
    return folder.absolute()


def prepared(config: str, at: Place, images: Path, directory: Path, more: Mapping[str, Any]) -> Path:
    """Write a configuration with changes."""
    settings = settings_of(CONFIGS / f"{config}.yaml")
    source = {"class_path": "datamodules.classification.cifar.CIFAR10", "init_args": {"data_dir": str(images)}}
    trainer = {"accelerator": at.accelerator, "devices": 1, "precision": "bf16-mixed", "benchmark": not at.rehearse}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    small: dict[str, Any] = at.of({}, {"trainer.limit_train_batches": 2, "trainer.limit_val_batches": 1})
    small |= at.of({}, {"trainer.limit_test_batches": 1, "data.init_args.batch_size": 8})
    small |= at.of({}, {"data.init_args.loading.evaluation_batch_size": 8, "trainer.precision": "32-true"})
    options = {f"trainer.{key}": value for key, value in {**trainer, **quiet}.items()}
    changed(settings, {"data.init_args.images": source, **options, **more, **small})
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{config.replace('/', '_')}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def probed(config: str, at: Place, images: Path, more: Mapping[str, Any], batches: int) -> float:
    """Estimate the seconds that an epoch of `batches` batches takes, from two short runs of different lengths."""
    taken = []
    for count in at.of(PROBE, (1, 2)):
        path = prepared(config, at, images, at.scratch, {**more, "trainer.max_epochs": 1, "trainer.callbacks": []})
        start = time.perf_counter()
        options = ("--trainer.limit_train_batches", str(count), "--trainer.limit_val_batches", "1")
        status, said = attempt(
            "fit", "--config", path, "--run_directory", at.scratch / f"probe_{time.time()}", *options
        )
        if status:
            raise RuntimeError(sentence(said))
        taken.append(time.perf_counter() - start)
    return max(taken[1] - taken[0], 1e-3) / (at.of(PROBE[1] - PROBE[0], 1)) * batches


def trained(
    name: str, config: str, at: Place, images: Path, epochs: int, batches: int, after: float, more: Mapping[str, Any]
) -> tuple[Path, int]:
    """Start or resume training for as many epochs as time allows; return the run directory and the number of epochs.

    Args:
        name: name of the run directory.
        config: configuration of the paper.
        at: place of the measurement.
        images: folder of CIFAR-10.
        epochs: number of epochs in the paper.
        batches: number of batches per epoch.
        after: seconds that are reserved for the work after training.
        more: changes to the configuration.
    """
    run = at.folder / "runs" / name
    if (run / "config.yaml").is_file():
        epoch = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["trainer"]["max_epochs"]
        status, said = attempt("fit", "--resume", run)
    else:
        seconds = 1.2 * probed(config, at, images, more, batches)  # a fifth is for validation and checkpoints
        left = at.until - time.time()
        epoch = at.of(min(epochs, int((left - after) / seconds)), 1)
        if epoch < 1:
            raise TimeoutError(f"an epoch takes {seconds:.0f} s, and {left:.0f} s were left")
        changes = {**more, "trainer.max_epochs": epoch}
        milestones: Any = settings_of(CONFIGS / f"{config}.yaml")
        for key in SCHEDULE.split("."):
            milestones = milestones.get(key, {}) if isinstance(milestones, dict) else {}
        if milestones and epoch < epochs:
            changes[SCHEDULE] = [max(1, round(place * epoch / epochs)) for place in milestones]
        path = prepared(config, at, images, run.parent, changes)
        status, said = attempt("fit", "--config", path, "--run_directory", run)
    if status:
        raise RuntimeError(sentence(said))
    return run, epoch


def tested(name: str, run: Path, at: Place, expected: Mapping[str, str]) -> None:
    """Test a run, and save its metrics."""
    if not (run / "test_metrics.csv").is_file():
        status, said = attempt("test", "--resume", run)
        if status:
            raise RuntimeError(sentence(said))
    with (run / "test_metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            metric = row["metric"].removeprefix("test/")
            at.keep(f"{name}: {metric}", f"{float(row['value']):.4g}", expected.get(metric, ""))


@pytest.mark.gpu(minutes=5)
@pytest.mark.parametrize(("method", "paper"), [("elr", "0.8915"), ("cross_entropy", "0.8188")])
def test_noisy_labels(method: str, paper: str, at: Place, cifar10: Path) -> None:
    """CIFAR-10 with 40 % of the labels flipped, ResNet-34."""
    few = at.of({}, {"trainer.callbacks": []})  # the callbacks evaluate all training images
    run, epoch = trained(method, f"{method}/cifar10", at, cifar10, 120, 352, 30, few)
    tested(f"{method}, {epoch} of 120 epochs", run, at, {"accuracy": f"paper: {paper}, after 120"})


@pytest.mark.gpu(minutes=4)
def test_certified(at: Place, cifar10: Path) -> None:
    """Certification of a ResNet-110 trained with Gaussian noise of standard deviation 0.25."""
    few: dict[str, Any] = at.of({}, {"trainer.callbacks.0.init_args.mode.init_args.n0": 2})
    few |= at.of({}, {"trainer.callbacks.0.init_args.mode.init_args.n": 4, "trainer.callbacks.0.init_args.skip": 5000})
    run, epoch = trained("certified", "consistency/cifar10", at, cifar10, 150, 196, 90, {**CERTIFIED, **few})
    tested(f"sigma 0.25, 100 images, {epoch} of 150 epochs", run, at, {})


@pytest.mark.gpu(minutes=3)
def test_score_sde(at: Place, cifar10: Path) -> None:
    """Training of score_sde VP on CIFAR-10: whether the loss of DDPM++ falls."""
    more: dict[str, Any] = at.of({}, {"model.init_args.network.init_args.width": 8})
    more |= {"trainer.callbacks": [], "trainer.log_every_n_steps": 1}
    run, epoch = trained("score_sde", "score_sde/cifar10_vp", at, cifar10, 3325, 391, 30, more)
    logged = [float(row["train/loss"]) for row in rows(run / "metrics.csv") if isinstance(row["train/loss"], float)]
    first, last = logged[0], logged[-1]
    label = f"{epoch} of 3,325 epochs: loss of the first and of the last epoch"
    at.keep(label, f"{first:.4f}, {last:.4f}", "falls", None if epoch == 1 else last < first)
