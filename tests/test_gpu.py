"""Tests of `make gpu` on a machine without a GPU: its parts, and a rehearsal of a few items on the CPU."""

import json
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conformance.runs import CONFIGS
from tests.gpu import command
from tests.gpu.command import main
from tests.gpu.draws_on_the_host import DrawsOnTheHost
from tests.gpu.items import ITEMS
from tests.gpu.outcomes import DONE, SKIPPED, Outcome, keep_outcome, read_outcomes
from tests.gpu.page import REHEARSAL, section, write_page
from tests.gpu.place import Place, Row, largest, largest_difference, read_rows


def rows(figure: str) -> dict[str, list[Row]]:
    return {name: [Row("speed", figure, "<= 1", False)] if name == "steps" else [] for name in ITEMS}


def test_a_page_has_a_section_for_each_card_and_never_a_rehearsals_figures(tmp_path: Path) -> None:
    page, outcomes = tmp_path / "gpu.md", {"steps": Outcome(DONE)}
    write_page(page, REHEARSAL, section("a CPU", outcomes, rows("12345"), rehearse=True))
    assert "not a measurement" in page.read_text()
    assert "Nothing has been measured on a GPU yet" in page.read_text()
    assert "12345" not in page.read_text()
    for card, figure in (("H100", "0.97"), ("A100", "0.91"), ("H100", "0.95")):
        write_page(page, card, section(card, outcomes, rows(figure), rehearse=False))
    text = page.read_text()
    assert [figure in text for figure in ("0.97", "0.91", "0.95")] == [False, True, True]
    assert text.count("**no**") == 2
    assert "rehearsal" not in text
    write_page(page, REHEARSAL, section("a CPU", outcomes, rows("12345"), rehearse=True))
    assert page.read_text() == text


def test_rows_are_kept_in_pieces_and_the_latest_counts(tmp_path: Path) -> None:
    at = Place(True, tmp_path, None, 0.0, "steps")
    for row in (Row("a", "1"), Row("b", "2"), Row("a", "3")):
        at.keep(row)
    with at.file.open("a") as file:
        file.write('{"name": "c", "fig')  # as if a process was killed while writing
    assert read_rows(at.file) == [Row("a", "3"), Row("b", "2")]
    at.forget(lambda row: row.figure == "2")
    assert read_rows(at.file) == [Row("a", "3")]


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
    from tests.gpu import memory

    monkeypatch.setattr(memory.gc, "collect", lambda: 0)  # it takes half a second per call once everything is imported
    most, fits = 37, memory.fits
    network, at = nn.Linear(3, 2), Place(True, tmp_path, None, 0.0, "wta_crs")

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
    from tests.gpu.memory import VARIANTS, wta_crs

    at = Place(True, tmp_path, None, time.time() + 1000, "wta_crs")
    wta_crs(at)
    figures = {row.name: float(row.figure.split("(")[1][:-1]) for row in read_rows(at.file)}
    assert len(figures) == 2 * len(VARIANTS)
    for name, (_, ratio, _) in VARIANTS.items():
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


def test_what_does_not_fit_or_is_missing_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    options = ["--rehearse", "--output", str(tmp_path), "--page", str(tmp_path / "gpu.md")]
    assert main([*options, "--only", "steps", "--minutes", "0.01"]) == 0
    [folder] = [each for each in tmp_path.iterdir() if each.is_dir()]
    state = read_outcomes(folder)["steps"]
    assert (state.state, "minutes, and 0.0 were left" in state.said) == (SKIPPED, True)
    assert main([*options, "--only", "elr", "--data", str(tmp_path)]) == 0
    assert "CIFAR-10 is not in" in read_outcomes(folder)["elr"].said
    keep_outcome(folder, "steps", Outcome(DONE))
    assert main([*options, "--only", "steps", "--minutes", "0.01"]) == 0
    assert read_outcomes(folder)["steps"].state == DONE
    assert "skipped: CIFAR-10 is not in" in (tmp_path / "gpu.md").read_text()


def test_without_a_gpu_it_says_how_it_is_rehearsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    assert main(["--output", str(tmp_path)]) == 2
    assert "error: this machine has no GPU: --rehearse runs the same code" in capsys.readouterr().err


def test_an_unknown_item_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: argument --only: invalid choice: 'nothing'")


def test_rows_that_are_kept_are_not_gone_through_again_and_time_that_is_up_is_said(tmp_path: Path) -> None:
    at = Place(True, tmp_path, None, time.time() + 1000, "steps")
    at.keep(Row("first row", "1", "<= 1", True))
    labels = {"first": "first row", "second": "second row"}
    assert list(at.pending(labels)) == [("second", "second row")]
    at = Place(True, tmp_path, None, time.time() + 10, "steps")
    with pytest.raises(TimeoutError, match="from second on are missing"):
        list(at.pending(labels))


def test_every_item_names_a_function_and_the_configurations_exist() -> None:
    import importlib

    for item in ITEMS.values():
        module, _, function = item.run.partition(".")
        assert callable(getattr(importlib.import_module(f"tests.gpu.{module}"), function))
    for name in ("elr/cifar10", "cross_entropy/cifar10", "consistency/cifar10", "score_sde/cifar10_vp"):
        assert (CONFIGS / f"{name}.yaml").is_file()
    assert sum(item.minutes for item in ITEMS.values()) <= 40


@pytest.mark.nightly
def test_a_rehearsal_goes_on_after_an_item_that_fails_and_after_a_stop(tmp_path: Path) -> None:
    page, folder = tmp_path / "gpu.md", tmp_path / REHEARSAL
    options = ["--rehearse", "--output", str(tmp_path), "--page", str(page), "--only", "targets", "steps", "kernels"]
    (folder / "targets.jsonl").mkdir(parents=True)  # rows cannot be written to a directory
    (folder / "steps.jsonl").write_text("")
    keep_outcome(folder, "steps", Outcome(DONE))
    assert main(options) == 1
    states = read_outcomes(folder)
    assert states["targets"].state == "failed"
    assert "Is a directory" in states["targets"].said
    assert states["kernels"].state == DONE
    assert "failed: IsADirectoryError" in page.read_text()
    kept = (folder / "kernels.jsonl").read_bytes()
    (folder / "targets.jsonl").rmdir()
    assert main(options) == 0
    assert read_outcomes(folder)["targets"].state == DONE
    assert (folder / "kernels.jsonl").read_bytes() == kept
    assert (folder / "steps.jsonl").read_text() == ""
    assert json.loads((folder / "items.json").read_text()).keys() == {"targets", "steps", "kernels"}
    assert "not a measurement" in page.read_text()
