"""Measure the items on the GPUs of this machine, the most valuable ones first, and write docs/gpu.md.

    python -m tests.gpu                    40 minutes
    python -m tests.gpu --minutes 9        the items that fit; the same command continues later
    python -m tests.gpu --rehearse         the same code on the CPU with small sizes
    python -m tests.gpu --only ranks elr   only some items

An item is skipped with a reason if its estimate exceeds the remaining minutes, or if its hardware or data are missing.
If an item fails, this is reported, and the other items continue. A stopped item continues after its saved rows, and a
finished item is not measured again.
"""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.arguments import ArgumentParser
from experiments.run_request import machine
from tests.command import ROOT, environment
from tests.gpu.items import ITEMS, Item
from tests.gpu.outcomes import DONE, FAILED, SKIPPED, STOPPED, Outcome, keep_outcome, read_outcomes
from tests.gpu.page import REHEARSAL, section, write_page
from tests.gpu.place import Place, read_rows

SLACK = 1.5
"""Factor by which an item may exceed its estimate."""
GRACE = 60.0
"""Seconds for which an item may continue after its time limit, to end by itself."""
FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Makes PyTorch detect GPUs without initialising CUDA; a process that has initialised CUDA cannot be forked."""
OUT_OF_TIME = 9
"""Exit status of an item that has saved its rows but is not finished."""


def parser() -> ArgumentParser:
    made = ArgumentParser("python -m tests.gpu", __doc__)
    made.add_argument("--minutes", type=float, default=40.0, help="time limit in minutes")
    made.add_argument("--rehearse", action="store_true", help="run on the CPU with small numbers")
    made.add_argument("--only", nargs="+", choices=[*ITEMS], metavar="ITEM", help=f"of {', '.join(ITEMS)}")
    made.add_argument("--again", action="store_true", help="repeat finished items, too")
    data = os.environ.get("NOISEWORKS_DATA")
    made.add_argument("--data", type=Path, default=data and Path(data), help="folder that contains cifar10")
    made.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder in which rows are saved")
    made.add_argument("--page", type=Path, default=ROOT / "docs" / "gpu.md", help="page to write")
    return made


def card(rehearse: bool) -> str | None:
    """Return the name of the GPU; if there is no GPU, return None."""
    if rehearse:
        return REHEARSAL
    if not torch.cuda.is_available():
        return None
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{len(names)} x {names[0]}" if len(names) > 1 else names[0]


def main(argv: Sequence[str]) -> int:
    """Measure the items, and write the page after each.

    Returns:
        Exit status: 0; 1 if an item failed or a row is not as expected; 2 for invalid input, or if there is no GPU.
    """
    if argv[:1] == ["--child"]:
        return child(argv[1:])
    try:
        asked = parser().parse_args(argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    end = time.time() + 60 * asked.minutes
    name = card(asked.rehearse)
    if name is None:
        print("error: this machine has no GPU: --rehearse runs the same code on the CPU", file=sys.stderr)
        return 2
    folder = Path(asked.output, re.sub(r"\W+", "_", name)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    made = machine()
    where = f"{name}, {made['machine']}, torch {made['torch']}, {made['date']}."
    for key, item in ITEMS.items():
        if asked.only and key not in asked.only:
            continue
        if asked.again:
            (folder / f"{key}.jsonl").unlink(missing_ok=True)
        elif read_outcomes(folder).get(key, Outcome("")).state == DONE:
            print(f"{key}: it has ended before", flush=True)
            continue
        at = Place(asked.rehearse, folder, asked.data and asked.data.absolute(), end, key)
        outcome = measured(key, item, at)
        keep_outcome(folder, key, outcome)
        print(
            f"{key}: {outcome.state}{': ' * bool(outcome.said)}{outcome.said} ({outcome.minutes:.1f} min)", flush=True
        )
        rows = {each: read_rows(folder / f"{each}.jsonl") for each in ITEMS}
        write_page(asked.page, name, section(where, read_outcomes(folder), rows, asked.rehearse))
    failed = any(each.state == FAILED for each in read_outcomes(folder).values())
    wrong = any(row.ok is False for key in ITEMS for row in read_rows(folder / f"{key}.jsonl"))
    return int(failed or wrong)


def measured(name: str, item: Item, at: Place) -> Outcome:
    """Measure an item in a separate process, or skip it if a requirement is missing or too little time is left."""
    if reason := item.missing(at):
        return Outcome(SKIPPED, reason)
    minutes = item.minutes / at.of(1, 10)
    if minutes * 60 > at.left:
        return Outcome(SKIPPED, f"it takes about {minutes:g} minutes, and {max(0.0, at.left / 60):.1f} were left")
    start = time.time()
    slack = 1.0 if item.exact else SLACK
    until = at.until if item.to_the_end or at.rehearse else min(at.until, start + slack * 60 * item.minutes)
    print(f"{name}: {item.title}, about {minutes:g} minutes", flush=True)
    call = [sys.executable, "-m", "tests.gpu", "--child", name, str(at.folder), str(until), str(int(at.rehearse))]
    with (at.folder / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*call, str(at.data or "")], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": environment()["PYTHONPATH"], **FORKABLE},
        )  # fmt: skip
        try:
            status: int | None = process.wait(max(1.0, until - time.time()) + GRACE)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # including the processes that it has started
                process.wait()
    taken = (time.time() - start) / 60
    if status == 0:
        return Outcome(DONE, "", taken)
    text = (at.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
    last = text.splitlines()[-1] if text else f"it ended with status {status} and printed no message"
    if status is None:
        return Outcome(STOPPED, "the time limit was reached; the rows so far are kept", taken)
    return Outcome(STOPPED if status == OUT_OF_TIME else FAILED, last[-300:], taken)


def child(arguments: Sequence[str]) -> int:
    """Measure one item in this process."""
    name, folder, until, rehearse, data = arguments
    at = Place(rehearse == "1", Path(folder), Path(data) if data else None, float(until), name)
    module, _, function = ITEMS[name].run.partition(".")
    try:
        getattr(importlib.import_module(f"tests.gpu.{module}"), function)(at)
    except TimeoutError as error:
        print(error, flush=True)
        return OUT_OF_TIME
    return 0
