"""The directory of a run: its name, its files, and how an interrupted run is resumed from it.

runs/<method>/<config>/<timestamp>/
    config.yaml        the resolved configuration
    predict.yaml       that of the latest prediction
    metrics.csv        epoch, step and every logged metric
    test_metrics.csv   metric and value; written when testing is complete
    usage.csv          seconds, CPU seconds and peak memory of each process of the run
    checkpoints/       last.ckpt, best.ckpt, step.ckpt
    tensorboard/       event files
    figures/           pictures

The directory of a run that was pushed to the Hugging Face Hub has model.safetensors instead of checkpoints/.
"""

import csv
import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.files.whole_files import owned_folder, write_text
from experiments.lightning_internals import (
    checkpoint_path,
    loaded_checkpoint,
    restoring,
)
from experiments.results import read_test_metrics

WEIGHTS = "model.safetensors"
"""Name of the file with the weights of a pushed run."""


def new_run_directory(configs: list[str], root: str = "runs") -> Path:
    """Return `runs/<method>/<config>/<timestamp>`, named after the folder and the file of the first configuration."""
    config = Path(configs[0]).resolve() if configs else Path("unnamed/command_line")
    return Path(root, config.parent.name, config.stem, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def latest_run(config: str | None, root: str = "runs") -> Path:
    """Find the most recently started run of `fit`, among all runs or among the runs of one configuration file."""
    below = Path(root) if config is None else new_run_directory([config], root).parent
    found = sorted(
        below.glob("*/*/*/config.yaml" if config is None else "*/config.yaml"), key=lambda path: path.parts[-2]
    )
    found = [path.parent for path in found if re.fullmatch(r"\d{4}-\d\d-\d\d_[\d-]+", path.parts[-2])]
    if not found:
        raise FileNotFoundError(f"--resume latest: there is no run in {below}; give the run directory")
    return found[-1]


def make_directory(directory: Path) -> None:
    """Create a run directory and check that it is writable."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"the run directory {directory} cannot be written: {error.strerror}; set --run_directory"
        ) from error


def writing(directory: Path) -> AbstractContextManager[int]:
    """Return a context manager that locks a run directory, so that no other process writes to it."""
    return owned_folder(directory, remedy="set another --run_directory")


def has_checkpoint(directory: Path) -> bool:
    """Return whether a run has a checkpoint from which it can be resumed."""
    return any(directory.glob("checkpoints/*.ckpt"))


def clear(directory: Path) -> None:
    """Remove incomplete files that a killed process left behind.

    If the run has no checkpoint, also remove `metrics.csv` and event files.
    """
    left = [*directory.rglob(".*.partial*"), *directory.glob("checkpoints/*.partial")]
    if not has_checkpoint(directory):
        left += [directory / "metrics.csv", *directory.glob("tensorboard/events.out.tfevents.*")]
    for path in left:
        path.unlink(missing_ok=True)


def refuse_fewer_epochs(path: Path, max_epochs: int | None) -> None:
    """Raise an error if training has fewer epochs than the checkpoint has completed.

    This is checked before anything in the run directory changes.
    """
    try:
        done = int(read_checkpoint(path)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, IndexError):
        raise ValueError(f"{path} contains no training progress and cannot be resumed") from None
    if max_epochs is not None and 0 <= max_epochs < done:
        raise ValueError(f"trainer.max_epochs is {max_epochs}, but {path} was already trained for {done} epochs")


def tested_weights(directory: Path, checkpoint: str) -> Path:
    """Return the path of a run's weights: a checkpoint or, for a pushed run, `model.safetensors`.

    Args:
        directory: the run directory.
        checkpoint: `best` or `last`. A pushed run has the weights of only one of these checkpoints.
    """
    path = directory / "checkpoints" / f"{checkpoint}.ckpt"
    pushed = directory / WEIGHTS
    return pushed if pushed.is_file() and not path.is_file() else path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with memory-mapped tensors, without unpickling code.

    The safetensors file of a pushed run is read as a checkpoint that has no training progress.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            checkpoint = _read_safetensors(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        wrong = _what_is_wrong(checkpoint)
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint of this project, or is damaged ({type(error).__name__})"
        ) from error
    if wrong:
        raise ValueError(f"{path} is not a checkpoint of this project, or is damaged: {wrong}")
    return checkpoint


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        described = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    named = {"class_path": described["class_path"]} if "class_path" in described else {}
    return {"state_dict": state, "global_step": 0, **named}


def _what_is_wrong(checkpoint: Any) -> str | None:
    """Describe the first value in a checkpoint whose type is invalid, or return None if all types are valid."""
    for key, value, kind in _values_to_check(checkpoint):
        if kind is int and (type(value) is not int or not 0 <= value < 2**62):
            return f"{key} is {str(value)[:100]!r}, but must be a count"
        if not isinstance(value, kind):
            return f"{key[:100]} is a {type(value).__name__}, but must be a {getattr(kind, '__name__', kind)}"
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
            return f"{key} is a tensor that has no values of its own"
    version = checkpoint.get("pytorch-lightning_version", "2.0")
    return None if re.fullmatch(r"\d+(\.\d+)+[\w.+-]*", version) else f"it is of version {version[:100]!r} of Lightning"


def _values_to_check(checkpoint: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the key, the value and the type of all values whose type matters. `int` means a count.

    A value is checked before the values that it contains are yielded.
    """
    yield "it", checkpoint, dict
    yield "state_dict", checkpoint.get("state_dict"), dict
    for name, tensor in checkpoint["state_dict"].items():
        yield f"the name {name!r} in state_dict", name, str
        yield f"state_dict.{name}", tensor, Tensor
    yield "global_step", checkpoint.get("global_step"), int
    yield "epoch", checkpoint.get("epoch", 0), int
    plain = {"callbacks": dict, "loops": dict, "lr_schedulers": list, "pytorch-lightning_version": str}
    for key, kind in plain.items():
        yield key, checkpoint.get(key, kind()), kind
    waiting = [("loops", checkpoint.get("loops", {}))]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}", each) for name, each in value.items()]
        elif "progress." in key and key.endswith(("ready", "started", "processed", "completed")):
            yield key, value, int
    states = checkpoint.get("optimizer_states", [])
    yield "optimizer_states", states, list
    for key, each in ((f"optimizer_states[{index}]", each) for index, each in enumerate(states)):
        yield key, each, dict
        yield f"{key}.param_groups", each.get("param_groups"), list
        yield f"{key}.state", each.get("state"), dict
        yield from ((f"{key}.state[{name}]", own, dict) for name, own in each["state"].items())
    table = checkpoint.get("metrics_table", {"kept": 0, "digest": "", "rows": [], "means": {}})
    yield "metrics_table", table, dict
    for key, expected in {"kept": int, "digest": str, "rows": list, "means": dict}.items():
        yield f"metrics_table.{key}", table.get(key), expected
    for row in table["rows"]:
        yield "a row of metrics_table", row, dict
        for name, value in row.items():
            yield "a name in a row of metrics_table", name, str
            yield f"a value in a row of metrics_table, {name},", value, str | int | float | None
    for name, pair in table["means"].items():
        yield f"metrics_table.means.{name}", pair, tuple | list
        total, count = pair  # another length is an error, as is a tensor of several values
        for each in (total, count):
            yield f"a value of metrics_table.means.{name}", each, Tensor
            each.item()


def latest_checkpoint(directory: Path) -> Path:
    """Return the checkpoint from which to resume: the one with the most training steps."""
    found = [path for name in ("last", "step") if (path := directory / "checkpoints" / f"{name}.ckpt").is_file()]
    if not found and (best := directory / "checkpoints/best.ckpt").is_file():
        return best  # of the first epoch: the run was killed before it wrote last.ckpt
    if not found:
        raise FileNotFoundError(f"{directory} cannot be resumed: it has no checkpoints/last.ckpt or step.ckpt")
    return max(found, key=lambda path: read_checkpoint(path)["global_step"])


def check_checkpoint(path: Path, model: LightningModule) -> None:
    """Reject a checkpoint with a different model class or different tensor shapes, before it is loaded."""
    checkpoint = read_checkpoint(path)
    expected = f"{type(model).__module__}.{type(model).__qualname__}"
    found = checkpoint.get("class_path", expected)
    if found != expected:
        raise ValueError(f"{path} is a checkpoint of {found}, but the configuration's model is {expected}")
    own, saved = model.state_dict(), checkpoint["state_dict"]
    problems = [f"{key} is missing" for key in own if key not in saved]
    every = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    known = own.keys() | every.keys()  # a state dict may lack frozen tensors, which Pretraining saves
    problems += [f"{key} is not part of the model" for key in saved if key not in known]
    problems += [
        f"{key} is {list(saved[key].shape)} and should be {list(own[key].shape)}"
        for key in own
        if key in saved and saved[key].shape != own[key].shape
    ]
    problems += [
        f"{key} is {saved[key].dtype} and should be {own[key].dtype}"
        for key in own
        if key in saved and Tensor.is_complex(saved[key]) != Tensor.is_complex(own[key])
    ]
    if problems and model.strict_loading:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit the configured model: {'; '.join(problems[:3])}{more}")


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint plugin that writes checkpoints atomically.

    Lightning writes a checkpoint to the system's temporary folder and then moves it. If the temporary folder is on a
    different disk, the file is copied instead of moved. If the disk is full or the process is killed during the copy,
    the last good checkpoint is replaced with an incomplete file.

    Args:
        directory: run directory. Outside this directory, only files that this run has saved are removed, because the
            checkpoint from which a run starts could name arbitrary files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.saved: set[str] = set()

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, but only if this run has saved it.

        Lightning would remove any path that the state of a callback contains.
        """
        found = os.path.realpath(path)
        own = found.endswith(".ckpt") and Path(found).is_relative_to(os.path.realpath(self.directory))
        if own or found in self.saved:
            super().remove_checkpoint(found)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        partial = Path(f"{path}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            self.saved.add(os.path.realpath(path))
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError if the disk is full
            partial.unlink(missing_ok=True)
            free = shutil.disk_usage(partial.parent).free
            raise OSError(
                f"the checkpoint {path} could not be written ({str(error).splitlines()[0]}); "
                f"{free / 1e6:.0f} MB are free: make room and resume with --resume"
            ) from error


def name_in_errors(trainer: Trainer) -> None:
    """Replace errors that occur while a checkpoint is restored with a sentence that names the checkpoint file."""
    connector = restoring(trainer)
    steps = ("resume_start", "restore_datamodule", "restore_model", "restore_callbacks", "restore_training_state")

    def named(restore: Any) -> Any:
        def restored(*args: Any, **kwargs: Any) -> Any:
            try:
                return restore(*args, **kwargs)
            except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
                path = checkpoint_path(connector)
                if path is None or isinstance(error, torch.OutOfMemoryError):
                    raise
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                raise ValueError(f"{path} cannot be restored: it is damaged or from another model ({said})") from error

        return restored

    for name in steps:
        setattr(connector, name, named(getattr(connector, name)))
    restore_optimizers = connector.restore_optimizers

    def as_many() -> None:
        saved, own = len(loaded_checkpoint(connector)["optimizer_states"]), len(trainer.strategy.optimizers)
        if saved != own:  # Lightning would ignore additional states
            raise RuntimeError(f"it contains the states of {saved} optimizers, but the model has {own}")
        restore_optimizers()

    connector.restore_optimizers = as_many


def add_test_metrics(directory: Path, metrics: Mapping[str, float]) -> None:
    """Add the new metrics of a later test to `test_metrics.csv`, without changing existing metrics.

    Comparisons read `test_metrics.csv`. If an existing metric has a different new value, for example after a test with
    different settings, all metrics are written to `test_metrics_<time>.csv` instead.
    """
    path = directory / "test_metrics.csv"
    if not path.is_file():
        write_test_metrics(directory, metrics)
        return
    known = read_test_metrics(path)
    if any(not math.isclose(value, known.get(name, value), rel_tol=1e-5) for name, value in metrics.items()):
        other = f"test_metrics_{datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}.csv"
        write_test_metrics(directory, metrics, other)
        rank_zero_info(f"{path} was measured with other settings and is unchanged; this test's metrics are in {other}")
    elif metrics.keys() - known.keys():
        write_test_metrics(directory, {**metrics, **known})


def write_test_metrics(directory: Path, metrics: Mapping[str, float], name: str = "test_metrics.csv") -> None:
    """Write `test_metrics.csv` atomically, because its presence marks a run as complete."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["metric", "value"])
    writer.writerows(sorted(metrics.items()))
    write_text(directory / name, text.getvalue())
