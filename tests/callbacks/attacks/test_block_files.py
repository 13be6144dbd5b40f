import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_modules.robustness.attacks import PGD
from tests.callbacks.attacks.half_space import (
    L2,
    LINF,
    NORMAL,
    Broken,
    HalfSpace,
    attacks,
    blocks,
    callback,
    known,
    run,
    save,
)
from tests.two_processes import TwoProcesses, in_two_processes

Finished = tuple[Path, dict[str, float]]
pytestmark = pytest.mark.usefixtures("small_pictures")


def test_an_interrupted_evaluation_goes_on(finished: Finished, tmp_path: Path) -> None:
    whole = HalfSpace()
    assert run(tmp_path, callback(), whole) == finished[1]
    again = HalfSpace()
    assert run(tmp_path, callback(), again) == finished[1]
    assert again.evaluated == 31  # evaluations of the trainer's own test loop
    blocks(tmp_path)[2].unlink()
    (tmp_path / "robust_accuracy.csv").unlink()
    part = HalfSpace()
    assert run(tmp_path, callback(), part) == finished[1]
    assert 31 < part.evaluated < whole.evaluated / 2
    for one, other in zip(blocks(tmp_path), blocks(finished[0]), strict=True):
        assert one.read_bytes() == other.read_bytes()
    table = "robust_accuracy.csv"
    assert (tmp_path / table).read_bytes() == (finished[0] / table).read_bytes()


def test_each_checkpoint_keeps_its_picture_and_its_rows(tmp_path: Path) -> None:
    """This holds for any order and any number of tests."""
    pictures: dict[str, list[bytes]] = {"last": [], "best": []}
    checkpoints = {"last": save(tmp_path, "last"), "best": save(tmp_path, "best", -1.0)}
    for name in ("last", "best", "last"):
        run(tmp_path, callback(), ckpt_path=checkpoints[name])
        for other, seen in pictures.items():
            path = tmp_path / "figures" / f"adversarial_{other}.png"
            if path.is_file():
                seen.append(path.read_bytes())
    assert [len(seen) for seen in pictures.values()] == [3, 2]
    assert [len(set(seen)) for seen in pictures.values()] == [1, 1]
    assert pictures["last"][0] != pictures["best"][0]
    assert not (tmp_path / "figures" / "adversarial.png").exists()
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert table["checkpoint"].tolist() == ["best", "best", "last", "last"]
    np.testing.assert_allclose(table["clean_accuracy"], [7 / 31, 7 / 31, 24 / 31, 24 / 31])


@pytest.mark.parametrize("changed", [{"seed": 1}, {"batch_size": 9}, {"max": 20}, {"attacks": attacks()[:1]}])
def test_rows_of_other_settings_are_not_used(finished: Finished, tmp_path: Path, changed: dict[str, Any]) -> None:
    run(tmp_path, callback())
    before = len(blocks(tmp_path))
    run(tmp_path, callback(**changed))
    assert len({path.parent for path in blocks(tmp_path)}) == 2
    settings = [json.loads(path.read_text()) for path in tmp_path.rglob("settings.json")]
    assert settings[0] != settings[1]
    assert len(blocks(tmp_path)) > before


def test_random_numbers_of_an_attack_do_not_depend_on_the_one_before(tmp_path: Path) -> None:
    perturbations = []
    for restarts in (1, 2):
        first = PGD("linf", LINF, steps=1, restarts=restarts, name="first")
        second = PGD("l2", L2, steps=1, step_size=1e-4, name="second")  # stays near its starting point
        run(tmp_path / str(restarts), callback(attacks=[first, second]))
        rows = pd.concat([pd.read_csv(path) for path in blocks(tmp_path / str(restarts))])
        perturbations.append(rows["perturbation"][rows["attack"] == "second"].tolist())
    assert perturbations[0] == perturbations[1]
    assert len(set(perturbations[0])) > 10


def test_another_attack_on_a_checkpoint_adds_its_row(tmp_path: Path) -> None:
    """A repeated attack replaces its own row; new weights in a checkpoint replace all rows of this checkpoint."""
    box, ball = attacks()
    shorter = PGD("linf", LINF, steps=5, restarts=2, name="box")
    checkpoint = save(tmp_path, "12")  # a name that looks like a number
    for attack in (box, ball, shorter, ball):
        run(tmp_path, callback(attacks=[attack]), ckpt_path=checkpoint)
    table = pd.read_csv(tmp_path / "robust_accuracy.csv", dtype={"checkpoint": str})
    assert table["checkpoint"].tolist() == ["12"] * 3
    assert table["attack"].tolist() == ["box", "box", "ball"]
    assert table["steps"].tolist() == [10, 5, 20]
    assert table["weights"].nunique() == 1
    np.testing.assert_allclose(table["robust_accuracy"][2], known(L2, NORMAL.norm()))
    run(tmp_path, callback(attacks=[ball]), ckpt_path=save(tmp_path, "12", -1.0))
    run(tmp_path, callback(attacks=[box]), ckpt_path=save(tmp_path, "13"))
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert list(zip(table["checkpoint"], table["attack"], strict=True)) == [(12, "ball"), (13, "box")]


@pytest.mark.parametrize("name", ["8", "0.5", "NA", "nan"])
def test_an_attack_may_have_any_name(finished: Finished, tmp_path: Path, name: str) -> None:
    metrics = run(tmp_path, callback(attacks=[replace(attacks()[0], name=name)]))
    assert metrics[f"test/robust_accuracy_{name}"] == finished[1]["test/robust_accuracy_box"]
    run(tmp_path, callback(attacks=[replace(attacks()[0], name=name)]))
    table = pd.read_csv(tmp_path / "robust_accuracy.csv", dtype=str, keep_default_na=False)
    assert table["attack"].tolist() == [name]


def test_two_processes_find_the_same(finished: Finished, tmp_path: Path) -> None:
    each = in_two_processes(process_main, str(tmp_path), None)
    for one, other in zip(blocks(tmp_path), blocks(finished[0]), strict=True):
        assert one.read_bytes() == other.read_bytes()
    table = "robust_accuracy.csv"
    assert (tmp_path / table).read_bytes() == (finished[0] / table).read_bytes()
    for _, metrics in each:
        for name in ("test/robust_accuracy_box", "test/robust_accuracy_ball"):
            assert metrics[name] == pytest.approx(finished[1][name], abs=1e-6)
    assert min(evaluated for evaluated, _ in each) > 100  # both processes ran attacks


def test_nobody_waits_for_a_process_that_fails(tmp_path: Path, two_processes: TwoProcesses) -> None:
    processes = two_processes(process_main, str(tmp_path), 0)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert all(process.returncode not in (0, None) for process in processes), outputs
    assert "PeerFailure: rank 0 failed: ValueError" in outputs[1]


def test_a_run_that_is_told_to_end_ends_with_the_block(finished: Finished, tmp_path: Path) -> None:
    module = HalfSpace()

    def tell(module: HalfSpace, inputs: tuple[Tensor]) -> None:
        if module.evaluated == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    module.register_forward_pre_hook(tell)
    with pytest.raises(SIGTERMException):
        run(tmp_path, callback(), module)
    assert [path.stem for path in blocks(tmp_path)] == ["block_00000"]
    assert run(tmp_path, callback()) == finished[1]


def process_main(directory: str, failing: int | None) -> tuple[int, dict[str, float]]:
    """Run one of two processes; return the number of images that it evaluates, and its metrics."""
    module = (Broken if os.environ["RANK"] == str(failing) else HalfSpace)()
    metrics = run(Path(directory), callback(), module, devices=2, strategy="ddp")
    return module.evaluated, metrics
