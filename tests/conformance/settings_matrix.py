"""Every method class with every strategy, precision and Trainer option: which work, and why others do not.

    python -m tests.conformance.settings_matrix                       write all cells of the table in docs/clusters.md
    python -m tests.conformance.settings_matrix ELR LSA --columns ddp update only these cells

Each cell consists of two optimizer steps of a demo in separate processes on the CPU.
"""

import argparse
import contextlib
import functools
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.config_files import dump_yaml, load_yaml
from experiments.pages import replace_section, split_readme
from experiments.results import markdown
from tests.command import ROOT
from tests.conformance.attempts import FAULT, attempt, sentence
from tests.conformance.runs import class_path, methods, state, written
from tests.distributed.methods import LEFT_OUT
from tests.two_processes import start_two

PAGE, SECTION = ROOT / "docs" / "clusters.md", "settings"
LONGEST = 180.0
"""Seconds after which a cell is considered to hang."""
STEPS = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.num_sanity_val_steps": 0,
}
DDP = "lightning.pytorch.strategies.DDPStrategy"
SHARDED = {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False}
HALF = {  # on a CPU, Lightning's own flag uses bf16 instead
    "class_path": "lightning.pytorch.plugins.precision.MixedPrecision",
    "init_args": {
        "precision": "16-mixed",
        "device": "cpu",
        "scaler": {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu"}},
    },
}
EMA = {
    "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
    "init_args": {"decay": 0.9, "use_buffers": False},
}


class Setting(NamedTuple):
    """A column of the table: changed settings, the number of processes, and an optional additional callback."""

    changes: Mapping[str, Any]
    processes: int = 1
    callback: Mapping[str, Any] | None = None


SETTINGS = {
    "ddp": Setting({"trainer.strategy": "ddp", "trainer.devices": 2}, 2),
    "ddp, static graph, bucket view": Setting(
        {
            "trainer.strategy": {
                "class_path": DDP,
                "init_args": {"static_graph": True, "gradient_as_bucket_view": True},
            },
            "trainer.devices": 2,
        },
        2,
    ),
    "FSDP2": Setting(
        {
            "trainer.strategy": {
                "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
                "init_args": SHARDED,
            },
            "trainer.devices": 2,
            "trainer.callbacks": [],  # FID needs an unsharded network
        },
        2,
    ),
    "bf16-mixed": Setting({"trainer.precision": "bf16-mixed"}),
    "16-mixed": Setting({"trainer.plugins": [HALF], "trainer.precision": LEFT_OUT}),
    "bf16-true": Setting({"trainer.precision": "bf16-true"}),
    "accumulate_grad_batches": Setting({"trainer.accumulate_grad_batches": 2, "trainer.limit_train_batches": 4}),
    "gradient_clip_val": Setting({"trainer.gradient_clip_val": 0.01}),
    "compile": Setting({"compile": "aot_eager", "trainer.limit_train_batches": 1.0}),
    "EMA": Setting({}, callback=EMA),
    "sync_batchnorm": Setting(
        {"trainer.sync_batchnorm": True, "trainer.devices": 2},
        2,
    ),
}
WORKS = "yes"


class Outcome(NamedTuple):
    """Result of a cell: `yes`, or a reason in one sentence; for unexpected errors also the traceback."""

    said: str
    trace: str = ""


@functools.cache
def classes() -> dict[str, str]:
    """Return the module classes that demos train, each with the name of its first row in the table of methods."""
    found: dict[str, str] = {}
    for name, method in methods().items():
        found.setdefault(class_path(method).rpartition(".")[-1], name)
    return found


def two_steps(command: Sequence[str], directory: Path) -> tuple[int, str]:
    """Train in this process; return the exit status, and the error message or the traceback."""
    torch.set_num_threads(1)
    status, said = attempt(*command)
    if status == 0:
        weights = state(directory)["state_dict"].values()
        if not all(bool(weight.isfinite().all()) for weight in weights if weight.is_floating_point()):
            return FAULT, "weights are not finite after two steps"
    return status, said


def outcome(name: str, setting: Setting, directory: Path) -> Outcome:
    """Train a method's demo for two steps with a setting."""
    strategy = load_yaml(methods()[name].strategy) if setting.processes > 1 else "auto"
    path = written(name, directory, {**STEPS, "trainer.strategy": strategy, **setting.changes})
    if setting.callback is not None:
        settings = load_yaml(path.read_text())
        settings["trainer"]["callbacks"] = [*(settings["trainer"].get("callbacks") or []), dict(setting.callback)]
        path.write_text(dump_yaml(settings))
    command = ("fit", "--config", str(path), "--run_directory", str(directory / "run"))
    processes = start_two(two_steps, command, directory / "run", count=setting.processes)
    try:
        results, ended = [], time.monotonic() + LONGEST
        waiting = [process.result for process in processes]
        while waiting and (ready := connection.wait(waiting, max(0.0, ended - time.monotonic()))):
            for result in ready:
                waiting.remove(result)  # type: ignore[arg-type]
                with contextlib.suppress(EOFError):
                    results.append(pickle.loads(result.recv_bytes()))  # type: ignore[union-attr]
            if any(status for status, _ in results) and waiting:  # the other ranks wait for the failed one
                ended = min(ended, time.monotonic() + 5)
    finally:
        for process in processes:
            process.kill()
    failed = [(status, text) for status, text in results if status]
    if not failed and len(results) == setting.processes:
        return Outcome(WORKS)
    if not failed:
        return Outcome("hangs" if waiting else "the process died", "".join(each.output() for each in processes)[-3000:])
    status, text = min(failed)
    kind = next(kind for kind, row in classes().items() if row == name)
    return Outcome(re.sub(rf"\b{kind}\b", "this class", sentence(text)), text if status == FAULT else "")


def measured(kind: str, columns: Iterable[str] = SETTINGS, report: Any = print) -> dict[str, Outcome]:
    """Run the cells of a module class."""
    found: dict[str, Outcome] = {}
    for column in columns:
        with tempfile.TemporaryDirectory() as directory:
            start = time.monotonic()
            found[column] = outcome(classes()[kind], SETTINGS[column], Path(directory))
        report(f"{kind} | {column} | {found[column].said} | {time.monotonic() - start:.0f} s", flush=True)
        if found[column].trace:
            report(found[column].trace[-1500:], flush=True)
    return found


def page(table: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Write the table with a number for each reason, and list the reasons below it."""
    reasons: dict[str, int] = {}
    rows = []
    for kind, cells in sorted(table.items()):
        shown = [
            WORKS if cell.said == WORKS else f"[{reasons.setdefault(cell.said, len(reasons) + 1)}]"
            for cell in (cells[column] for column in SETTINGS)
        ]
        rows.append([kind, *shown])
    listed = "".join(f"\n{number}. {reason}" for reason, number in reasons.items())
    return f"\n{markdown(['class', *SETTINGS], rows)}{listed}\n"


def read_page(text: str) -> dict[str, dict[str, Outcome]]:
    """Read the output of `page`."""
    lines = text.splitlines()
    reasons = {f"[{n}]": why for n, _, why in (line.partition(". ") for line in lines) if n.isdigit()}
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    return {
        kind: {column: Outcome(reasons.get(cell, cell)) for column, cell in zip(SETTINGS, row, strict=True)}
        for kind, *row in cells
        if kind in classes()
    }


def on_page() -> dict[str, dict[str, Outcome]]:
    """Read the table of docs/clusters.md."""
    before, after = split_readme(PAGE, SECTION)
    text = PAGE.read_text(encoding="utf-8")
    return read_page(text[len(before) : len(text) - len(after)])


def write(kind: str, cells: Mapping[str, Outcome]) -> None:
    """Insert the cells of a class into the page, and keep the other cells."""
    known = {name: row for name, row in on_page().items() if name in classes()}
    missing = dict.fromkeys(SETTINGS, Outcome("it was not tried yet, as the table was not complete"))
    known[kind] = missing | known.get(kind, {}) | cells
    replace_section(PAGE, SECTION, page(known))


def main(arguments: Sequence[str]) -> None:
    asked = argparse.ArgumentParser("python -m tests.conformance.settings_matrix", description=__doc__)
    asked.add_argument("classes", nargs="*", metavar="CLASS")
    asked.add_argument("--columns", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    given = asked.parse_args(arguments)
    for kind in given.classes or sorted(classes()):
        write(kind, measured(kind, given.columns))


if __name__ == "__main__":
    main(sys.argv[1:])
