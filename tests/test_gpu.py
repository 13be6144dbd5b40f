"""Tests of `make gpu` on a machine without a GPU: its parts, and a rehearsal of a few items on the CPU."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.command import environment
from tests.gpu import test_memory as memory
from tests.gpu.draws_on_the_host import DrawsOnTheHost
from tests.gpu.page import REHEARSAL, Measured, section, write_page
from tests.gpu.place import Place, largest, largest_difference


def test_a_page_has_a_section_for_each_card_and_never_a_rehearsals_figures(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"

    def write(card: str, figure: str) -> None:
        rows = [["speed", figure, "<= 1", False]]
        found: list[Measured] = [
            {"title": "Steps", "outcome": "failed: not as expected", "rows": rows},
            {"title": "Steps", "outcome": "passed", "rows": rows},
        ]
        write_page(page, card, section(f"{card}, a machine.", found))

    write(REHEARSAL, "12345")
    assert "not a measurement" in page.read_text()
    assert "Nothing has been measured on a GPU yet" in page.read_text()
    assert "| Steps | failed: not as expected; 2 rows |" in page.read_text()
    assert "12345" not in page.read_text()
    for card, figure in (("H100", "0.97"), ("A100", "0.91"), ("H100", "0.95")):
        write(card, figure)
    text = page.read_text()
    assert [figure in text for figure in ("0.97", "0.91", "0.95")] == [False, True, True]
    assert text.count("**no**") == 4
    assert "rehearsal" not in text
    write(REHEARSAL, "12345")
    assert page.read_text() == text


@pytest.mark.parametrize("most", [0, 1, 2, 7, 100, 129, 4096])
def test_the_largest_batch_is_found_to_an_eighth(most: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= most

    found = largest(fits, 8192)
    assert found <= most <= found + max(1, found // 8)
    assert len(tried) < 20
    assert largest(lambda batch: True, 100) in range(88, 101)


def test_a_batch_out_of_memory_does_not_fit_and_leaves_no_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory.gc, "collect", lambda: 0)  # it takes half a second per call once everything is imported
    most, fits = 37, memory.fits
    network, at = nn.Linear(3, 2), Place(True, tmp_path, 0.0)

    def step(batch: int) -> None:
        network(torch.ones(batch, 3)).sum().backward()
        if batch > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    found = largest(partial(fits, step, network, 2**30, at), 8192)
    assert found <= most <= found + max(1, found // 8)
    assert network.weight.grad is None
    of_bytes = largest(partial(fits, lambda batch: network(torch.ones(batch, 3)), network, 40 * 3 * 4, at), 8192)
    assert of_bytes <= 40 <= of_bytes + of_bytes // 8  # the step keeps references to its inputs


@pytest.mark.nightly
def test_wta_crs_has_larger_batches_and_less_memory_in_a_rehearsal(tmp_path: Path) -> None:
    at = Place(True, tmp_path, 0.0)
    memory.test_wta_crs(at)
    figures = {row.name: float(row.figure.split("(")[1][:-1]) for row in at.rows}
    assert len(figures) == 2 * len(memory.VARIANTS)
    for name, (_, ratio, _) in memory.VARIANTS.items():
        gains = [figure for row, figure in figures.items() if row.startswith(f"T5-base, {name}: ")]
        assert len(gains) == 2
        assert all(gain > 1.1 for gain in gains) == (ratio is not None), (name, gains)


def test_differences_are_over_the_largest_number_and_infinite_between_kinds() -> None:
    one = {"a": torch.tensor([100.0, 1.0]), "b": [torch.tensor(float("nan"))]}
    other = {"a": torch.tensor([101.0, 1.0]), "b": [torch.tensor(float("nan"))]}
    assert largest_difference(one, other) == pytest.approx(0.01)
    assert largest_difference(one, {"a": one["a"]}) == float("inf")
    assert largest_difference({"a": torch.zeros(2)}, {"a": torch.zeros(3)}) == float("inf")


def test_numbers_of_a_device_are_those_of_the_cpu_in_the_same_order() -> None:
    torch.manual_seed(3)
    torch.randn(4), torch.rand(2)
    expected = torch.randn(5)
    torch.manual_seed(3)
    with DrawsOnTheHost("meta"):
        assert torch.randn(4, device="meta").is_meta
        torch.rand(2, device="meta")
        assert torch.equal(torch.randn(5), expected)


class DeviceGenerator:
    """Imitates those attributes of a GPU generator that the CPU generator with the same seed is made from."""

    device = torch.device("cuda")

    def __init__(self) -> None:
        self.seed, self.offset = 7, 0

    def initial_seed(self) -> int:
        return self.seed

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset


def test_a_generator_of_the_device_has_a_twin_until_it_is_seeded_anew() -> None:
    drawn, generator = DrawsOnTheHost("cuda"), DeviceGenerator()

    def number() -> float:
        return torch.rand((), generator=drawn.twin(generator)).item()  # type: ignore[arg-type]

    plain = torch.Generator().manual_seed(7)
    first, second = (torch.rand((), generator=plain).item() for _ in range(2))
    assert [number(), number()] == [first, second]
    generator.offset = 0  # as manual_seed does
    assert number() == first


SUITE = """
import time
from pathlib import Path

import pytest

@pytest.mark.gpu(minutes=1)
def test_first(at):
    "First title."
    with open("counted", "a") as file:
        file.write("once ")
    at.keep("speed", "1", "<= 1", True)

@pytest.mark.gpu(minutes=0.01)
@pytest.mark.parametrize("seconds", [0, 100])
def test_second(at, seconds):
    "Second title."
    time.sleep(seconds)
    at.keep("speed", "2", "<= 1", seconds > 0)
"""


@pytest.mark.nightly
def test_a_rehearsal_goes_on_after_a_test_that_fails_or_is_stopped(tmp_path: Path) -> None:
    """Of a small suite with the hooks of tests/gpu, one test passes, one has an unexpected row, and one hangs."""
    (tmp_path / "conftest.py").write_text("from tests.gpu.conftest import *\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    page = tmp_path / "gpu.md"
    call = [sys.executable, "-m", "pytest", "-m", "gpu", "--rehearse", "--page", page, "--rootdir", tmp_path]
    for options in ([], ["--numprocesses", "1"]):  # the second call continues, in another process
        done = subprocess.run([*call, *options, "test_suite.py"], cwd=tmp_path, env=environment(), check=False)
        assert done.returncode == 1
        assert (tmp_path / "counted").read_text() == "once "
        assert "| First title | 1 row |" in page.read_text()
        [second] = [line for line in page.read_text().splitlines() if line.startswith("| Second title")]
        assert "failed: " in second
        assert "not as expected" in second
        assert "the limit of 0.01 minutes was reached; 1 row |" in second
