"""Load the model and data of a run in Python, for a notebook or another program."""

import os
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from experiments.command_line import CommandLine
from experiments.run_directory import check_checkpoint, read_checkpoint


def load_run(
    directory: str | os.PathLike[str], checkpoint: str | None = None
) -> tuple[LightningModule, LightningDataModule]:
    """Rebuild the model and data of a run from `config.yaml`. The random number generators of the caller do not change.

    Checkpoints do not contain constructor arguments, so `load_from_checkpoint` would need all arguments again.

    Args:
        directory: the run directory.
        checkpoint: `best` or `last`; None means the checkpoint that `checkpoint.test_checkpoint` of the run selects.

    Returns:
        The model in evaluation mode with the weights of the checkpoint, and the DataModule. `setup` of the DataModule
        has not been called.

    Raises:
        FileNotFoundError: if the run or the checkpoint does not exist.
        ValueError: if the checkpoint does not match the configuration.
    """
    line = load_line(directory, checkpoint)
    return line.model, line.datamodule


def load_line(
    directory: str | os.PathLike[str], checkpoint: str | None = None, overrides: Sequence[str] = ()
) -> CommandLine:
    """Rebuild a run as `load_run` does, with its trainer.

    Args:
        directory: the run directory, or `latest`.
        checkpoint: `best` or `last`; None means the run's setting `checkpoint.test_checkpoint`.
        overrides: further arguments of the command line, such as `--trainer.devices 1`.

    Returns:
        The command line with `model`, in evaluation mode and with the checkpoint's weights, `datamodule` and `trainer`.

    Raises:
        FileNotFoundError: if the run or the checkpoint does not exist.
        ValueError: if the checkpoint does not match the configuration.
        ArgumentError: if an override is invalid.
    """
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng():
            line = CommandLine(["test", "--resume", str(directory), *overrides], run=False)
    finally:
        for name, value in seeds.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    path = Path(str(line.resumed), "checkpoints", f"{checkpoint or line.checkpoints.test_checkpoint}.ckpt")
    check_checkpoint(path, line.model)
    line.model.load_state_dict(read_checkpoint(path)["state_dict"])
    line.model.eval()
    return line
