"""Load the model and data of a run in Python, for use in a notebook or in other programs."""

import os
import shutil
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from experiments.calls.build import BuiltRun, build
from experiments.calls.parse import parse
from experiments.hub.download import SCHEME, download_run
from experiments.parsing.readable_errors import readable
from experiments.run_directory import WEIGHTS, check_checkpoint, read_checkpoint, tested_weights


def load_run(
    directory: str | os.PathLike[str], checkpoint: str | None = None, arguments: Sequence[str] = ()
) -> tuple[LightningModule, LightningDataModule]:
    """Rebuild the model and data of a run from `config.yaml`, without changing the caller's random number generators.

    Checkpoints do not contain constructor arguments, so `load_from_checkpoint` would require all arguments again.

    Args:
        directory: run directory, or `hf://owner/name` or `hf://owner/name@revision` for a run that `push` uploaded to
            the Hugging Face Hub. Only `config.yaml` and `model.safetensors` are downloaded from the Hub.
        checkpoint: `best` or `last`. None selects the checkpoint that the run sets as `checkpoint.test_checkpoint`. An
            uploaded run has only the weights of one checkpoint.
        arguments: command-line arguments that override settings, such as `["--data.images.data_dir", "my_images"]`.

    Returns:
        The model in evaluation mode with the weights of the checkpoint, and the DataModule, whose `setup` has not been
        called.

    Raises:
        FileNotFoundError: if the run or the checkpoint does not exist, or if the Hub cannot be reached.
        PermissionError: if the run on the Hub is gated.
        ValueError: if the checkpoint does not match the configuration, or if a setting is rejected.
    """
    run = load_built(directory, checkpoint, arguments)
    assert run.datamodule is not None
    return run.model, run.datamodule


def load_built(
    directory: str | os.PathLike[str], checkpoint: str | None = None, arguments: Sequence[str] = ()
) -> BuiltRun:
    """Rebuild the model and data of a run as in `load_run`, and also its trainer.

    Args:
        directory: as in `load_run`, or `latest`.
        checkpoint: as in `load_run`.
        arguments: command-line arguments that override settings, such as `--trainer.devices 1`.

    Returns:
        The run, with the attributes `model` (in evaluation mode, with the weights of the checkpoint),
        `datamodule` and `trainer`.
    """
    with ExitStack() as stack:
        run, weights = str(directory), None
        if is_address := run.startswith(SCHEME):
            snapshot = download_run(run)
            # Copy config.yaml, because files in the cache are links, which a run directory must not contain, and the
            # cache must not be modified.
            run, weights = stack.enter_context(TemporaryDirectory()), snapshot / WEIGHTS
            shutil.copyfile(snapshot / "config.yaml", Path(run, "config.yaml"))
        try:
            built = _build(["test", "--resume", run, *arguments])
        except (ArgumentError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
            if isinstance(error, ValueError) and not is_address:
                raise
            raise ValueError(readable(error).replace(run, str(directory))) from error
        path = weights or tested_weights(
            Path(str(built.parsed.resumed)), checkpoint or built.checkpoints.test_checkpoint
        )
        check_checkpoint(path, built.model)
        built.model.load_state_dict(read_checkpoint(path)["state_dict"])
    built.model.eval()
    return built


def _build(arguments: list[str]) -> BuiltRun:
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng():
            return build(parse(arguments), runs=False)
    finally:
        for name, value in seeds.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
