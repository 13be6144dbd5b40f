from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.attacks.robust_accuracy import RobustAccuracy
from tests.callbacks.attacks.half_space import (
    L2,
    LINF,
    NORMAL,
    HalfSpace,
    Images,
    blocks,
    callback,
    known,
    run,
    signed_distance,
)

Finished = tuple[Path, dict[str, float]]


def test_the_robust_accuracy_of_a_half_space_is_the_exact_one(finished: Finished) -> None:
    directory, metrics = finished
    box, ball = known(LINF, NORMAL.abs().sum()), known(L2, NORMAL.norm())
    assert 0 < box < 24 / 31
    assert 0 < ball < 24 / 31
    assert box != ball
    assert metrics["test/robust_accuracy_box"] == pytest.approx(box, abs=1e-6)
    assert metrics["test/robust_accuracy_ball"] == pytest.approx(ball, abs=1e-6)
    table = pd.read_csv(directory / "robust_accuracy.csv")
    expected = {
        **{"attack": ["box", "ball"], "checkpoint": ["none"] * 2, "norm": ["linf", "l2"], "epsilon": [LINF, L2]},
        **{"steps": [10, 20], "restarts": [2, 1], "num_images": [31, 31]},
    }
    assert table[[*expected]].to_dict("list") == expected
    np.testing.assert_allclose(table["clean_accuracy"], 24 / 31)
    np.testing.assert_allclose(table["robust_accuracy"], [box, ball])
    np.testing.assert_allclose(table["largest_perturbation"], [LINF, L2], rtol=1e-5)
    assert metrics["test/accuracy"] == pytest.approx(24 / 31)  # the trainer's own test loop has run


def test_rows_tell_each_image_apart(finished: Finished) -> None:
    assert len(blocks(finished[0])) == 4
    rows = pd.concat([pd.read_csv(path) for path in blocks(finished[0])])
    images = Images()
    for name, budget, length in (("box", LINF, NORMAL.abs().sum()), ("ball", L2, NORMAL.norm())):
        part = rows[rows["attack"] == name]
        assert part["index"].tolist() == list(range(31))
        assert part["label"].tolist() == images.label.tolist()
        score = signed_distance(images.image)
        right = (score > 0) == (images.label == 1)
        assert part["prediction"].tolist() == (score > 0).long().tolist()
        turned = right & (score.abs() / length < budget)
        assert ((part["prediction_under_attack"] != part["prediction"]).to_numpy() == turned.numpy()).all()
        assert (part["perturbation"].to_numpy()[~right.numpy()] == 0).all()
        assert (part["perturbation"] <= budget + 1e-6).all()


def test_the_module_and_the_generator_are_left_as_they_were(tmp_path: Path) -> None:
    module = HalfSpace()
    attacker = callback()
    seen = []

    def on_test_start(trainer: Trainer, pl_module: LightningModule) -> None:
        before = torch.get_rng_state()
        RobustAccuracy.on_test_start(attacker, trainer, pl_module)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.is_inference_mode_enabled()
        assert not pl_module.training
        seen.append(trainer)

    attacker.on_test_start = on_test_start  # type: ignore[method-assign]
    run(tmp_path, attacker, module)
    assert len(seen) == 1
    assert torch.equal(module.weight, NORMAL)
    assert module.weight.grad is None
    assert module.weight.requires_grad
    assert not module.trained_on


def test_skip_and_max_choose_positions(tmp_path: Path) -> None:
    metrics = run(tmp_path, callback(skip=3, max=20))
    rows = pd.concat([pd.read_csv(path) for path in blocks(tmp_path)])
    assert sorted(set(rows["index"])) == list(range(0, 20, 3))
    assert metrics["test/robust_accuracy_box"] == pytest.approx(
        known(LINF, NORMAL.abs().sum(), slice(0, 20, 3)), abs=1e-6
    )


def test_the_picture_is_written(finished: Finished) -> None:
    assert (finished[0] / "figures" / "adversarial.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished[0].rglob("*.partial*"))


def test_a_block_without_a_right_image_is_no_problem(tmp_path: Path) -> None:
    class Wrong(Images):
        def __init__(self) -> None:
            super().__init__()
            self.label = 1 - (signed_distance(self.image) > 0).long()

    metrics = run(tmp_path, callback(), data=DataLoader(Wrong(), batch_size=4))
    assert metrics["test/robust_accuracy_box"] == 0
    assert (pd.read_csv(tmp_path / "robust_accuracy.csv")["largest_perturbation"] == 0).all()


def test_fast_dev_run_attacks_one_image_and_leaves_nothing(tmp_path: Path) -> None:
    class Counted(HalfSpace):
        attacked = 0

        def forward(self, image: Tensor) -> Tensor:
            self.attacked += len(image) == 1  # the trainer's own test loop has batches of four
            return super().forward(image)

    module = Counted()
    metrics = run(tmp_path, callback(max=4, skip=3), module, fast_dev_run=True)  # the first image has a wrong label
    assert module.evaluated == module.attacked + 4
    assert metrics["test/robust_accuracy_box"] == 0
    assert not list(tmp_path.iterdir())
