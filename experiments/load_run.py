"""A run's model and data in Python, for a notebook or another program."""

import os
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from experiments.command_line import CommandLine
from experiments.run_directory import check_checkpoint, read_checkpoint


def load_run(
    directory: str | os.PathLike[str], checkpoint: str | None = None
) -> tuple[LightningModule, LightningDataModule]:
    """Rebuilds a run's model and data from its `config.yaml`, and leaves the caller's random number generators alone.

    A checkpoint holds no constructor arguments, so that `load_from_checkpoint` of a class needs them all again.

    Args:
        directory: the run directory.
        checkpoint: the name of one in its `checkpoints`, `best` or `last`; None takes the one that is tested.

    Returns:
        The model with the weights of the checkpoint, in evaluation mode, and the DataModule, not set up yet.

    Raises:
        FileNotFoundError: if the run or the checkpoint is not there.
        ValueError: if the checkpoint does not fit the configuration.
    """
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng():
            line = CommandLine(["test", "--resume", str(directory)], run=False)
    finally:
        for name, value in seeds.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    path = Path(directory, "checkpoints", f"{checkpoint or line.checkpoints.test_checkpoint}.ckpt")
    check_checkpoint(path, line.model)
    line.model.load_state_dict(read_checkpoint(path)["state_dict"])
    return line.model.eval(), line.datamodule
