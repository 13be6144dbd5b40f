"""Process the list of arguments before it is parsed: configurations, the latest run, and restarts by torchrun."""

import inspect
import os
import re
from itertools import pairwise
from pathlib import Path

from lightning.pytorch import loggers

from experiments.config_files import locate_config, settings_of
from experiments.run_directory import has_checkpoint, latest_run, new_run_directory


def config_files(args: list[str]) -> list[str]:
    """List the values of the option `--config`."""
    found = [value for flag, value in pairwise(args) if flag in ("--config", "-c")]
    return found + [arg.split("=", 1)[1] for arg in args if arg.startswith("--config=")]


def with_latest(args: list[str]) -> list[str]:
    """Replace `--resume latest` with the directory of the most recently started run.

    If `--config` contains a model, only runs of this configuration file are considered. Such a `--config` is then
    dropped, because the settings of the run are used. A `--config` without a model is kept.
    """
    if value_of(args, "--resume") != "latest":
        return args
    paths = {file: locate_config(Path(file)) for file in config_files(args)}
    of = [
        file
        for file, path in paths.items()
        if path.is_file() and any(key.startswith("model") for key in settings_of(path))
    ]
    directory = str(latest_run(of[0] if of else None))
    kept: list[str] = []
    for arg in args:
        if arg in of and kept[-1] in ("--config", "-c"):
            kept.pop()
        elif arg not in [f"--config={file}" for file in of]:
            kept.append(arg)
    position = kept.index("latest", kept.index("--resume")) if "--resume" in kept else kept.index("--resume=latest")
    kept[position] = kept[position].replace("latest", directory)
    return kept


def with_restart(args: list[str]) -> list[str]:
    """If `torchrun --max_restarts` restarts a `fit` whose run has saved a checkpoint, resume the run.

    torchrun restarts the same command, and the run directory contains the settings of the run. torchrun's restart count
    cannot be used to detect a restart, because it remains 0 on a node whose processes were ended by the failure of a
    different node.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if args[0] != "fit" or restarts == "0":
        return args
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        raise ValueError(
            f"torchrun --max_restarts {restarts} can hang, since restarted ranks use addresses of dead ranks: set "
            f"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, with --standalone or --rdzv_backend c10d"
        )
    if value_of(args, "--resume") is not None:
        return args
    directory = value_of(args, "--run_directory")
    if directory is None:
        raise ValueError(
            f"torchrun --max_restarts {restarts} restarts the same command, which must find its run: add "
            f"--run_directory"
        )
    if not has_checkpoint(Path(directory)):
        return args
    tested = value_of(args, "--test_after_fit")
    return ["fit", "--resume", directory, *([] if tested is None else ["--test_after_fit", tested])]


def with_folder_of_logger(args: list[str]) -> list[str]:
    """Let a Lightning logger that needs a folder, such as `--trainer.logger CSVLogger`, write to the run directory."""
    named = value_of(args, "--trainer.logger") or ""
    kind = getattr(loggers, named.removeprefix("lightning.pytorch.loggers."), None)
    needed = inspect.signature(kind).parameters.get("save_dir") if isinstance(kind, type) else None
    given = any(re.match(r"--trainer\.logger\.(init_args\.)?save_dir\b", each) for each in args)
    if needed is None or needed.default is not needed.empty or given:
        return args
    directory = value_of(args, "--run_directory") or value_of(args, "--resume")
    directory = directory or str(new_run_directory(config_files(args)))
    return [*args, "--run_directory", directory, "--trainer.logger.save_dir", directory]


def value_of(args: list[str], flag: str) -> str | None:
    """Return the value of an option, or None if the option is not given."""
    for position, arg in enumerate(args):
        if arg.startswith(flag + "="):
            return arg.split("=", 1)[1]
        if arg == flag:
            if position + 1 == len(args):
                raise ValueError(f"{flag} needs a run directory")
            return args[position + 1]
    return None
