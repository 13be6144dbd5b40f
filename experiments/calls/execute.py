"""Execute a run that is built: the last of the three calls."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from experiments.calls.build import BuiltRun
from experiments.options.trainer_options import refuse_options
from experiments.results import final_metrics
from experiments.run_directory import (
    WEIGHTS,
    add_test_metrics,
    check_checkpoint,
    has_checkpoint,
    latest_checkpoint,
    read_checkpoint,
    refuse_fewer_epochs,
    tested_weights,
    write_test_metrics,
)
from experiments.saving.usage import measure
from lightning_modules.interfaces import Generator, Pretrained

TAKEN = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""Arguments of the Trainer's methods `fit`, `validate`, `test` and `predict`."""


def execute(run: BuiltRun) -> dict[str, float]:
    """Train, validate, test or predict. This is the last of three calls: `execute(build(parse(args)))`.

    Returns:
        The metrics of the run.

    Raises:
        ValueError: if a checkpoint or an option is rejected, or a guard ends the run.
    """
    add_usage = measure()
    try:
        with run.parsed.imports():
            found = {"fit": fit, "test": test, "validate": validate, "predict": predict}[run.parsed.subcommand](run)
        own = run.parsed.subcommand == "fit" or (run.parsed.subcommand == "test" and run.parsed.resumed is None)
        if found and own and run.trainer.is_global_zero and (run.parsed.folder.path / "config.yaml").is_file():
            add_usage(run.parsed.folder.path)
        return found
    finally:
        run.parsed.folder.held.close()


def call(run: BuiltRun) -> Any:
    """Call the trainer's method of the subcommand."""
    settings = run.parsed.settings
    settings.ckpt_path = run.checkpoint  # config.yaml records it
    taken = {key: settings[key] for key in TAKEN if key in settings}
    if run.datamodule is not None:
        taken["datamodule"] = run.datamodule
    return getattr(run.trainer, run.parsed.subcommand)(model=run.model, **taken)


def fit(run: BuiltRun) -> dict[str, float]:
    """Train, and test if `test_after_fit` is set. A guard may end training early with metrics as a result."""
    try:
        prepare_fit(run)
        call(run)
        return results_of_fit(run)
    except ValueError as error:
        measured: dict[str, float] = getattr(error, "test_metrics", {})
        if not measured:
            raise
        if run.trainer.is_global_zero:
            print(*final_metrics(measured), f"Ended early because {error}", sep="\n")
            if run.parsed.settings.test_after_fit:
                write_test_metrics(run.parsed.folder.path, measured)
        return measured


def prepare_fit(run: BuiltRun) -> None:
    """Resume from the latest checkpoint, or restart a run that was killed before its first checkpoint."""
    refuse_options(run.model, run.trainer)
    if run.parsed.resumed is not None and run.checkpoint is None:
        if has_checkpoint(path := run.parsed.folder.path):
            run.checkpoint = str(latest_checkpoint(path))
        elif run.parsed.began_from is not None:
            run.checkpoint = run.parsed.began_from
    if run.checkpoint is not None:
        check_checkpoint(Path(run.checkpoint), run.model)
        refuse_fewer_epochs(Path(run.checkpoint), run.trainer.max_epochs)


def results_of_fit(run: BuiltRun) -> dict[str, float]:
    if run.stop_signals.asked:
        run.stop_signals.stop()
    say_where(run)
    final = {name: value.item() for name, value in run.trainer.callback_metrics.items()}
    if run.parsed.settings.test_after_fit:
        saved = Path(str(run.log_dir), "checkpoints")
        metrics = metrics_of(run, saved / f"{run.checkpoints.test_checkpoint}.ckpt")
        if run.checkpoints.also_test_best and run.checkpoints.test_checkpoint == "last":
            best = metrics_of(run, saved / "best.ckpt")
            metrics |= {f"best_epoch/{name}": value for name, value in best.items()}
        directory = run.log_dir
        if run.trainer.is_global_zero and directory is not None:
            write_test_metrics(directory, metrics)
        final |= metrics
    if run.trainer.is_global_zero:
        print(*final_metrics(final, run.adds_label_noise), sep="\n")
    return final


def metrics_of(run: BuiltRun, checkpoint: Path) -> dict[str, float]:
    """Test a checkpoint of the run that has just been trained."""
    path = None if run.trainer.fast_dev_run else str(checkpoint)  # type: ignore[attr-defined]
    if path is not None:
        # rejects damaged files, without checking shapes, because weights may be sharded by now
        read_checkpoint(Path(path))
    return together(run.trainer.test(run.model, run.datamodule, path, verbose=False, weights_only=True))


def together(results: Any) -> dict[str, float]:
    return {name: value for result in results for name, value in result.items()}


def test(run: BuiltRun) -> dict[str, float]:
    choose_checkpoint(run)
    metrics = together(call(run))
    directory = run.log_dir
    if run.trainer.is_global_zero and directory is not None:
        add_test_metrics(directory, metrics)
    say_where(run)
    return metrics


def validate(run: BuiltRun) -> dict[str, float]:
    choose_checkpoint(run)
    return together(call(run))


def predict(run: BuiltRun) -> dict[str, float]:
    if not is_overridden("predict_step", run.model):
        raise ValueError(_instead_of_prediction(run.model))
    choose_checkpoint(run)
    call(run)
    say_where(run)
    return {}


def say_where(run: BuiltRun) -> None:
    if (directory := run.log_dir) is not None:
        rank_zero_info(f"Run directory: {directory}")


def choose_checkpoint(run: BuiltRun) -> None:
    """Choose the checkpoint to load. If a run directory is given, its configuration selects the checkpoint."""
    resumed = run.parsed.resumed
    if run.checkpoint == "none":
        run.checkpoint = None
        return
    if resumed is None and run.checkpoint is None and has_untrained_weights(run):
        raise ValueError(
            f"{run.parsed.subcommand} would use initial weights of {type(run.model).__name__}, since no trained "
            f"weights are given: use --resume RUN_DIRECTORY or --ckpt_path FILE, or --ckpt_path none to confirm"
        )
    if resumed is not None and run.checkpoint is None:
        path = tested_weights(Path(resumed), run.checkpoints.test_checkpoint)
        if path.name == WEIGHTS:  # weights of a pushed run, which lack the state that Lightning would restore
            check_checkpoint(path, run.model)
            run.model.load_state_dict(read_checkpoint(path)["state_dict"])
            return
        run.checkpoint = str(path)
    if run.checkpoint is not None:
        check_checkpoint(Path(run.checkpoint), run.model)


def has_untrained_weights(run: BuiltRun) -> bool:
    """Return whether the module has trainable weights, and none of them belong to a network that was loaded."""
    loaded = [network for network in run.model.modules() if isinstance(network, Pretrained)]
    trains = is_overridden("training_step", run.model) and _trainable(run.model)
    dry = run.trainer.fast_dev_run  # type: ignore[attr-defined]
    return trains and not dry and not any(map(_trainable, loaded))


def _trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _instead_of_prediction(model: LightningModule) -> str:
    """Return an error message for a module without `predict_step`. It says what the module offers instead."""
    can = []
    if isinstance(model, Generator):
        can.append(
            "it samples images: generate --resume RUN_DIRECTORY writes them, and test --config "
            "configs/callbacks/fid.yaml evaluates"
        )
    if is_overridden("test_step", model):
        can.append("test --resume RUN_DIRECTORY evaluates it")
    return f"{type(model).__name__} predicts nothing: {', and '.join(can) or 'its results are what fit writes'}"
