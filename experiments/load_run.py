"""Load a run's model and data in Python, for a notebook or another program."""

import os
import shutil
from argparse import ArgumentError
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from experiments.command_line import CommandLine
from experiments.hub.download import SCHEME, download_run
from experiments.parsing.readable_errors import readable
from experiments.run_directory import WEIGHTS, check_checkpoint, read_checkpoint, tested_weights


def load_run(
    directory: str | os.PathLike[str], checkpoint: str | None = None, arguments: Sequence[str] = ()
) -> tuple[LightningModule, LightningDataModule]:
    """Rebuild a run's model and data from its `config.yaml`, without changing the caller's random number generators.

    Checkpoints hold no constructor arguments, so `load_from_checkpoint` would need all of them.

    Args:
        directory: the run directory, or `hf://owner/name` or `hf://owner/name@revision` for a run that `push` uploaded
            to the Hugging Face Hub. Of the latter, only `config.yaml` and `model.safetensors` are downloaded.
        checkpoint: `best` or `last`; None means the run's setting `checkpoint.test_checkpoint`. An uploaded run has the
            weights of one checkpoint.
        arguments: changes of the settings, as on the command line, such as `["--data.images.data_dir", "my_images"]`.

    Returns:
        The model in evaluation mode, with the checkpoint's weights, and the DataModule before `setup`.

    Raises:
        FileNotFoundError: if the run or the checkpoint does not exist, or the Hub cannot be reached.
        PermissionError: if the run on the Hub is gated.
        ValueError: if the checkpoint does not match the configuration, or a setting is rejected.
    """
    with ExitStack() as stack:
        run, weights = Path(directory), None
        if is_address := str(directory).startswith(SCHEME):
            snapshot = download_run(str(directory))
            # The cache has links, which a run directory may not have, and is not ours to write to.
            run, weights = Path(stack.enter_context(TemporaryDirectory())), snapshot / WEIGHTS
            shutil.copyfile(snapshot / "config.yaml", run / "config.yaml")
        try:
            line = _built(["test", "--resume", str(run), *arguments])
        except (ArgumentError, ValueError) as error:
            if not is_address:
                raise
            raise ValueError(readable(error).replace(str(run), str(directory))) from error
    path = weights or tested_weights(run, checkpoint or line.checkpoints.test_checkpoint)
    check_checkpoint(path, line.model)
    line.model.load_state_dict(read_checkpoint(path)["state_dict"])
    return line.model.eval(), line.datamodule


def _built(arguments: list[str]) -> CommandLine:
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng():
            return CommandLine(arguments, run=False)
    finally:
        for name, value in seeds.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
