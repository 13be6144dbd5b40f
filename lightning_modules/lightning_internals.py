"""Private names of Lightning that this project needs because no public name exists, with the reason for each name.

All other files use these private names only through this file. If an upgrade of Lightning moves a name, the test that
checks this name fails. `pyproject.toml` limits which versions of Lightning can be installed.
"""

from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource

ChildProcessObserver = _ChildProcessObserver
"""Process observer that kills all processes without a reason; `Independent` stops it once `Heartbeats` runs."""
SubprocessScriptLauncher = _SubprocessScriptLauncher
"""Launcher that starts one process per device; no public launcher accepts a different observer of its processes."""
set_num_threads_if_needed = _set_num_threads_if_needed
"""Function with which Lightning's launchers divide the CPU cores among processes; needed by a custom launcher."""
DataLoaderSource = _DataLoaderSource
"""Wrapper of the object that provides a loop's dataloader: a module, or a dataloader passed to the Trainer."""


def loader_source(loop: Any) -> Any:
    """Return the source of a loop's dataloader. The source exists at setup, when dataloaders do not exist yet."""
    return loop._data_source


def replace_loader_source(loop: Any, source: Any) -> None:
    """Replace the source of a loop's dataloader."""
    loop._data_source = source


def repeats_samples(trainer: Any) -> bool:
    """Return whether Lightning adds samplers that pad all shards to equal length.

    No public attribute stores the Trainer's argument `use_distributed_sampler`.
    """
    return trainer._accelerator_connector.use_distributed_sampler


def finds_unused_parameters(strategy: Any) -> bool:
    """Return whether DDP allows parameters without a gradient. No public attribute stores `find_unused_parameters`."""
    return bool(strategy._ddp_kwargs.get("find_unused_parameters"))


def before_batch_transfer(module: Any, batch: Any) -> Any:
    """Call the hook that runs before a batch is moved to the device.

    If there is a DataModule, its hook is called, and otherwise the hook of the module.
    """
    return module._on_before_batch_transfer(batch)
