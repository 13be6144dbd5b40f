"""Private names of Lightning that data, modules and callbacks use for lack of public ones, and why.

They stand here alone. A test fails by name where an upgrade moves one, and `pyproject.toml` bounds the versions.
"""

from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource

ChildProcessObserver = _ChildProcessObserver
"""Lightning's watch kills every process without saying why; `Independent` has one that gives way to its own."""
SubprocessScriptLauncher = _SubprocessScriptLauncher
"""The launcher that starts a process a device; no public one can be given another watch."""
set_num_threads_if_needed = _set_num_threads_if_needed
"""A launcher of one's own divides the cores among the processes as Lightning's do."""
DataLoaderSource = _DataLoaderSource
"""Where a loop has its loader from: a user's own loader is wrapped there, once the trainer has it."""


def loader_source(loop: Any) -> Any:
    """Give the source of a loop's loader, as no loader is built yet when modules and callbacks are set up."""
    return loop._data_source


def replace_loader_source(loop: Any, source: Any) -> None:
    """Give a loop another source of its loader."""
    loop._data_source = source


def repeats_samples(trainer: Any) -> bool:
    """Tell whether Lightning adds samplers that give each process an equal share: the argument is kept nowhere else."""
    return trainer._accelerator_connector.use_distributed_sampler


def finds_unused_parameters(strategy: Any) -> bool:
    """Tell whether DDP may leave parameters without a gradient: its arguments are kept nowhere else."""
    return bool(strategy._ddp_kwargs.get("find_unused_parameters"))


def before_batch_transfer(module: Any, batch: Any) -> Any:
    """Call the hook before a batch moves to the device: the DataModule's if it has one, otherwise the module's."""
    return module._on_before_batch_transfer(batch)
