"""Each test measures rows of docs/gpu.md; a run keeps them in pytest's cache and writes the page after each test.

    make gpu                                          everything, the most valuable first
    pytest -m gpu --override-ini addopts=-ra tests/gpu -k wta_crs
    ... --rehearse                                    the same code on the CPU with small sizes
    ... --cache-clear                                 measure again what was measured before

A test that has passed on a card is skipped there, so a run that was stopped continues when the command is repeated.
"""

import faulthandler
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run_request import machine
from tests.command import ROOT
from tests.gpu.page import PASSED, REHEARSAL, Measured, section, write_page
from tests.gpu.place import Place

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a process that has initialised CUDA cannot fork ranks
GRACE = 60.0
"""Seconds after its limit at which a test that hangs in a kernel ends the process."""
CARD = pytest.StashKey[str]()
KEY = "gpu/{}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rehearse", action="store_true", help="run on the CPU with small sizes")
    parser.addoption("--page", type=Path, default=ROOT / "docs" / "gpu.md", help="page to write")


def card() -> str:
    """Return the names of the GPUs, found by another process, because finding them initialises CUDA."""
    code = "import torch; print(*map(torch.cuda.get_device_name, range(torch.cuda.device_count())), sep='\\n')"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    return f"{len(names) - 1} x {names[0]}" if len(names) > 2 else names[0]


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--rehearse") and not torch.cuda.is_available():
        raise pytest.UsageError("this machine has no GPU: --rehearse runs the same code on the CPU")
    if worker := getattr(config, "workerinput", None):
        config.stash[CARD] = worker["card"]
        return
    config.stash[CARD] = REHEARSAL if config.getoption("--rehearse") else card()
    config.pluginmanager.register(Keeper(config))


@pytest.fixture
def at(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Return the place of a measurement; end the test after its limit, and fail it if a row is not as expected."""
    config, node = request.config, request.node
    minutes = node.get_closest_marker("gpu").kwargs["minutes"]
    node.user_properties.append(("title", request.function.__doc__.partition("\n")[0].rstrip(".")))
    name = config.stash[CARD]
    if config.cache.get(KEY.format(name), {}).get(node.nodeid, {}).get("outcome") == PASSED:
        pytest.skip("it was measured before: --cache-clear measures it again")
    folder = config.rootpath / "runs" / "gpu" / re.sub(r"\W+", "_", name)

    def over(*_: object) -> None:
        raise TimeoutError(f"the limit of {minutes:g} minutes was reached")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    faulthandler.dump_traceback_later(60 * minutes + GRACE, exit=True, file=sys.__stderr__)
    place = Place(config.getoption("--rehearse"), folder, time.time() + 60 * minutes)
    yield place
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    faulthandler.cancel_dump_traceback_later()
    torch.cuda.empty_cache()
    node.user_properties.append(("rows", [list(row) for row in place.rows]))
    assert not (wrong := [row for row in place.rows if row.ok is False]), f"not as expected: {wrong}"


class Keeper:
    """Keeps what each test has measured in pytest's cache, and writes the page after each test."""

    def __init__(self, config: pytest.Config) -> None:
        made = machine()
        self.config = config
        self.card = config.stash[CARD]
        self.made = f"{self.card}, {made['machine']}, torch {made['torch']}, {made['date']}."
        self.failures: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["card"] = self.card

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != PASSED:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext.strip()
            said = (crash.message if crash else said.removeprefix("Skipped: ")).splitlines()[0][:300]
            self.failures.setdefault(report.nodeid, f"{report.outcome}: {said}")
        if report.when in ("setup", "call"):
            return  # the end of a test is its teardown, or the crash of its process
        found = dict(report.user_properties)
        assert self.config.cache is not None
        known: dict[str, Measured] = self.config.cache.get(KEY.format(self.card), {})
        outcome = self.failures.pop(report.nodeid, PASSED)
        if known.get(report.nodeid, {}).get("outcome") == PASSED:
            return
        known[report.nodeid] = {
            "title": found.get("title", report.nodeid.partition("::")[2]),
            "outcome": outcome,
            "rows": found.get("rows", []),
        }
        self.config.cache.set(KEY.format(self.card), known)
        write_page(self.config.getoption("--page"), self.card, section(self.made, known.values()))
