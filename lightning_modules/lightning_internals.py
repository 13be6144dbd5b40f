"""Private Lightning names that this project needs because no public name exists, with the reason for each name.

All other files use these private names only through this file. If an upgrade moves a name, the test of that name fails;
`pyproject.toml` bounds the versions.
"""

from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource

ChildProcessObserver = _ChildProcessObserver
"""Lightning's observer kills all processes without giving a reason; `Independent` stops it once its own one runs."""
SubprocessScriptLauncher = _SubprocessScriptLauncher
"""The launcher that starts one process for each device; public launchers do not accept another observer."""
set_num_threads_if_needed = _set_num_threads_if_needed
"""Divides the CPU cores among processes, as Lightning's launchers do, for a custom launcher."""
DataLoaderSource = _DataLoaderSource
"""The source of a loop's dataloader; a user's own dataloader is wrapped there, once the trainer has it."""


def loader_source(loop: Any) -> Any:
    """Return the source of the dataloader of a loop. At setup, dataloaders do not exist yet."""
    return loop._data_source


def replace_loader_source(loop: Any, source: Any) -> None:
    """Replace the source of a loop's dataloader."""
    loop._data_source = source


def repeats_samples(trainer: Any) -> bool:
    """Return whether Lightning adds samplers that pad all shards to equal length.

    No public attribute holds this argument.
    """
    return trainer._accelerator_connector.use_distributed_sampler


def finds_unused_parameters(strategy: Any) -> bool:
    """Return whether DDP allows parameters without a gradient. No public attribute holds this argument."""
    return bool(strategy._ddp_kwargs.get("find_unused_parameters"))


def before_batch_transfer(module: Any, batch: Any) -> Any:
    """Call the hook that runs before a batch is moved to the device: the hook of the DataModule if there is one, and
    otherwise the hook of the module.
    """
    return module._on_before_batch_transfer(batch)
