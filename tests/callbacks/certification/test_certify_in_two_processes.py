"""Certification with several processes, including processes that are killed, fail, or receive a stop signal."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from callbacks.certification.log import CertificationLog
from lightning_modules.robustness.certificates.modes import FixedSampling
from tests.callbacks.certification.planes import Planes, certification, run, same_rows
from tests.two_processes import TwoProcesses, in_two_processes

Finished = tuple[Path, dict[str, float]]


def two_main(directory: str, share: str, rest: float = 0.0, failing: str = "") -> tuple[dict[str, float], int]:
    """Run one of two processes, and return its metrics and the number of images that it evaluated."""
    module = Planes(rest, failing=failing == os.environ["RANK"])
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": True}
    return run(Path(directory), certification(share=share), module, **options), module.evaluated


@pytest.mark.parametrize(("share", "lines"), [("images", [7, 7]), ("draws", [13])])
def test_two_processes_share_images_or_draws_and_write_the_same_file(
    finished: Finished, tmp_path: Path, share: str, lines: list[int]
) -> None:
    results = in_two_processes(two_main, str(tmp_path), share)
    assert same_rows(tmp_path, finished[0])
    for metrics, evaluated in results:
        assert metrics == pytest.approx(finished[1], abs=1e-6)
        assert evaluated == pytest.approx(12 * 620 / 2, rel=0.05)
    written = sorted((tmp_path / "certification_rows").iterdir())
    assert [len(path.read_text().splitlines()) for path in written] == lines


@pytest.mark.nightly
def test_killed_processes_lose_only_what_was_under_way(
    finished: Finished, tmp_path: Path, two_processes: TwoProcesses
) -> None:
    files = [tmp_path / "certification_rows" / f"rank{rank}.tsv" for rank in range(2)]
    processes = two_processes(two_main, str(tmp_path), "images", 0.05)
    deadline = time.monotonic() + 600
    while not all(path.is_file() and path.read_text().count("\n") > 1 for path in files):
        assert time.monotonic() < deadline, "no row was written"
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
        time.sleep(0.02)
    for process in processes:
        process.kill()
    done = sum(path.read_text().count("\n") - 1 for path in files)
    assert 2 <= done < 12
    assert not (tmp_path / "certification.csv").exists()
    with files[1].open("a") as file:
        file.write("11\t0\t0\t0.")  # as if the process was killed while writing a row
    module = Planes()
    run(tmp_path, certification(), module)
    assert module.evaluated == (12 - done) * 620 + 1 + 12
    assert same_rows(tmp_path, finished[0])


def test_nobody_waits_for_a_process_that_fails(tmp_path: Path, two_processes: TwoProcesses) -> None:
    processes = two_processes(two_main, str(tmp_path), "images", 0.0, "0")
    outputs = [process.communicate()[0] for process in processes]
    assert all(process.returncode not in (0, None) for process in processes), outputs
    assert "ValueError: the network's logits are NaN" in outputs[0]
    assert "PeerFailure: rank 0 failed: ValueError" in outputs[1]


@pytest.mark.parametrize(("n", "after", "most"), [(600, 1000, 3000), (20_000, 500, 1500)])
def test_a_run_that_is_told_to_end_keeps_what_is_finished_and_does_not_wait_for_a_slow_image(
    finished: Finished, tmp_path: Path, n: int, after: int, most: int
) -> None:
    module = Planes()

    def tell(module: Planes, inputs: tuple[Tensor]) -> None:
        if module.evaluated > after and len(inputs[0]) > 12:
            os.kill(os.getpid(), signal.SIGTERM)

    module.register_forward_pre_hook(tell)
    with pytest.raises(SIGTERMException):
        run(tmp_path, certification(FixedSampling(n0=20, n=n)), module)
    assert module.evaluated < most
    if n == 600:
        assert len(CertificationLog(tmp_path, {}, with_radius=True).rows()) in (1, 2, 3)
        assert run(tmp_path, certification()) == finished[1]
