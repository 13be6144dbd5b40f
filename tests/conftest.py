"""Test setup: one thread, memory that is reused, parsers that are built once, and a cost report at the end of the run.

With one thread, sums are computed in a fixed order, and other cores are free for the processes that the suite starts.
`OMP_NUM_THREADS` is set as well. Without it, a trainer that starts processes would set one thread per core for the rest
of the suite, and a process forked from a process with several OpenMP threads would wait for these threads forever.
"""

import contextlib
import ctypes
import functools
import gc
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from PIL import Image

from experiments.calls.parse import Grammar
from tests import BEGAN
from tests.parsed_once import parsed_once
from tests.tiny_pipelines import PIPELINES
from tests.two_processes import Process, TwoProcesses, start_two

# Lightning's messages reach `caplog` only if the root logger has a handler before Lightning is imported, and whether it
# has one depends on the version of pytest.
logging.getLogger("lightning.pytorch").propagate = True

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Freed memory of large tensors is kept for later tensors: clearing new pages in the kernel took a third of the
# computing time of tests with two processes.
for parameter in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc; other C libraries lack `mallopt`
    getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)(parameter, 1 << 30)
gc.set_threshold(50_000, 20, 50)  # scan the million objects of the libraries less often


@pytest.fixture(autouse=True)
def _every_test_begins_with_the_same_numbers() -> None:
    """Seed torch, so that no test depends on earlier tests in the same process."""
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_group_is_left() -> Iterator[None]:
    """After each test, destroy the process group; otherwise, processes forked later would join it and wait forever."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(autouse=True)
def _no_rank_is_left() -> Iterator[None]:
    """Restore the environment variables that a test, or a trainer with DDP, changes.

    Lightning starts no second process if `LOCAL_RANK` is set, and the first process would then wait for the second one
    forever.
    """
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def two_processes() -> Iterator[TwoProcesses]:
    """Return a function that starts two processes of one group; both are killed at the end of the test."""
    started: list[Process] = []

    def start(*arguments: Any, **options: Any) -> list[Process]:
        started.extend(start_two(*arguments, **options))
        return started

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session", autouse=True)
def _parsers_are_built_once() -> Iterator[None]:
    """Share one parser among command lines in the test process, because building a parser takes two seconds."""
    built: dict[str, tuple[Any, ...]] = {}
    build = Grammar.setup_parser

    def setup_parser(self: Grammar, *options: Any) -> None:
        if self.requested not in built:
            build(self, *options)
            built[self.requested] = (self.parser, self._subcommand_method_arguments, self._subcommand_parsers)
        self.parser, self._subcommand_method_arguments, self._subcommand_parsers = built[self.requested]
        self.parser._instantiators = None  # remove the instantiators of the last command line

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grammar, "setup_parser", setup_parser)
        yield


READING = (
    "parsing",
    *(f"test_{each}" for each in ("command_line", "config_files", "hostile", "strangers", "sweep_speed", "texts_of")),
)
"""Tests of reading settings; settings are parsed again in each of them."""


@pytest.fixture(scope="module", autouse=True)
def _settings_are_parsed_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reuse parsed settings, above all nested classes, because parsing took a third of the time of short runs."""
    with contextlib.nullcontext() if any(f"/{each}" in str(request.path) for each in READING) else parsed_once():
        yield


@pytest.fixture(scope="module")
def small_pictures() -> Iterator[None]:
    """Draw figures at a fifth of their resolution, for tests that do not inspect them: full size takes 0.5 s."""
    save = Figure.savefig

    @functools.wraps(save)
    def small(self: Figure, *args: Any, dpi: float = 150, **options: Any) -> None:
        self.set_layout_engine("none")  # computing the layout costs as much as drawing
        save(self, *args, dpi=min(dpi, 30), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", small)
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a single pixel instead of each figure, in tests that repeat a run whose figures were already drawn."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Image.new("L", (1, 1)).save(path))


# tiny diffusers pipelines


def pipeline_fixture(name: str, save: Callable[[Path], Path]) -> Any:
    """Make a fixture that saves a tiny pipeline once per session, and returns its folder."""

    @pytest.fixture(scope="session", name=name)
    def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return save(tmp_path_factory.mktemp(name))

    return saved


globals().update({name: pipeline_fixture(name, save) for name, save in PIPELINES.items()})

# cost of each test

COST = defaultdict[str, float](float)


def core_seconds() -> float:
    """Return the CPU time used so far by this process and its finished child processes.

    At the end of a run, the child processes are the xdist workers and the processes that tests started. Processes whose
    end was never waited for are not counted.
    """
    return sum(os.times()[:4])


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.stash[STARTED] = core_seconds()
    yield


STARTED = pytest.StashKey[float]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "teardown":
        outcome.get_result().user_properties.append(("core_seconds", core_seconds() - item.stash[STARTED]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    COST[report.nodeid] += dict(report.user_properties).get("core_seconds", 0.0) if report.when == "teardown" else 0.0


def pytest_collection_finish() -> None:
    """Exclude the objects of all imports from garbage collection: there are a million, and they are never freed."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cost", action="store_true", help="print the core-seconds of every test file at the end")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    terminalreporter.section("what the run has cost")
    terminalreporter.write_line(
        f"{core_seconds():.0f} core-seconds in {monotonic() - BEGAN:.0f} seconds: {sum(COST.values()):.0f} in tests, "
        f"the others in imports, collection, and shared fixtures"
    )
    terminalreporter.section("the ten dearest tests, in core-seconds")
    files = defaultdict[str, float](float)
    for test, seconds in COST.items():
        files[test.split("::")[0]] += seconds
    for test, seconds in sorted(COST.items(), key=lambda pair: -pair[1])[:10]:
        terminalreporter.write_line(f"{seconds:6.1f}  {test}")
    for file, seconds in sorted(files.items(), key=lambda pair: -pair[1]) if config.getoption("cost") else []:
        terminalreporter.write_line(f"{seconds:6.1f}  {file}")
