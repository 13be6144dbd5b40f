"""Training with scaled and learned rates: when rates change, what is logged, resumed runs, and rejections."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.dynamics.batch_lr import BatchLR, BatchSpectra, OnlineLearner
from lightning_modules.dynamics.batch_lr.learner import learner_settings
from lightning_modules.networks.mlp import MLP
from lightning_modules.optim.schedules import CosineOverSteps
from tests.grouped import grouped
from tests.metrics.test_curvature import Attending
from tests.trainers import quiet

MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.5)


def module(network: nn.Module | None = None, **arguments: Any) -> BatchLR:
    torch.manual_seed(0)
    return BatchLR(network or MLP(64, [4], 10, "tanh"), 10, **{"optimizer": MOMENTUM, **arguments})


def digits(**arguments: Any) -> LabelledImages:
    return LabelledImages(Digits(train_size=60), **grouped(LabelledImages, {"batch_size": 20, "seed": 0, **arguments}))


def learner(**arguments: Any) -> OnlineLearner:
    return OnlineLearner(**{"every_n_epochs": 2, "first_epoch": 1, "samples": 40, "steps": 8, **arguments})


class Watched(Callback):
    """Records the rate and momentum of each group in each step, and the latest logged values."""

    def __init__(self) -> None:
        self.groups: list[list[tuple[float, float]]] = []
        self.logged: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.groups.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def trained(net: BatchLR, epochs: int, data: Any = None, **options: Any) -> Watched:
    watched = Watched()
    trainer = quiet(max_epochs=epochs, callbacks=[watched, *options.pop("callbacks", [])], **options)
    trainer.fit(net, datamodule=data or digits(), ckpt_path=options.get("ckpt_path"))
    return watched


@pytest.mark.parametrize("schedule", [partial(CosineOverSteps, T_max=12), None])
def test_what_is_learned_holds_until_it_is_measured_again_whatever_the_schedule(schedule: Any) -> None:
    net = module(learner=learner(rule="ssgdm"), **({"lr_scheduler": schedule} if schedule else {}))
    watched = trained(net, 6)  # learns before epochs 2 and 4 of 0...5
    assert [row["epoch"] for row in net._rows] == [2, 4]
    assert watched.groups[0] == [(0.1, 0.5)]
    for row, steps in zip(net._rows, (watched.groups[6:12], watched.groups[12:]), strict=True):
        expected = learner_settings("ssgdm", row["greatest_curvature"], row["least_curvature"])
        assert steps == [[(pytest.approx(expected["lr"]), pytest.approx(expected["momentum"]))]] * 6
    for name in ("lr", "momentum"):
        assert watched.logged[f"train/learned_{name}"] == pytest.approx(net._rows[-1][name])
    assert net.tables["learned"].columns["lr"] == [row["lr"] for row in net._rows]


def test_all_groups_are_set() -> None:
    def two_groups(parameters: Any) -> torch.optim.SGD:
        first, *others = list(parameters)
        return torch.optim.SGD([{"params": [first], "lr": 0.3}, {"params": others}], lr=0.1, momentum=0.5)

    watched = trained(module(learner=learner(first_epoch=0), optimizer=two_groups), 1)
    assert watched.groups[0][0] == watched.groups[0][1] != (0.1, 0.5)


def test_the_rate_is_that_of_the_whole_batch_and_the_schedule_begins_with_it() -> None:
    halved = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    net = module(reference_batch_size=5, lr_scheduler=halved)
    watched = trained(net, 2, accumulate_grad_batches=3)
    assert [groups[0][0] for groups in watched.groups] == pytest.approx([0.1 * 60 / 5, 0.1 * 60 / 5 / 2])
    net = module(reference_batch_size=5, scaling="square_root")
    assert trained(net, 1).groups[0][0][0] == pytest.approx(0.1 * 2)


def test_an_interrupted_run_learns_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    def new() -> BatchLR:
        spectra = BatchSpectra([4, 8], draws=2, steps=3, noise_batch=8, directions=1)
        return module(learner=learner(rule="ssgdm"), spectra=spectra)

    kept = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    whole = new()
    trained(whole, 4, callbacks=[kept], enable_checkpointing=True)
    resumed, trainer = new(), quiet(max_epochs=4)
    trainer.fit(resumed, datamodule=digits(), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=True)
    assert resumed._rows == whole._rows
    assert resumed._measured == whole._measured
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert ours.equal(theirs)
    [found] = trainer.test(resumed, datamodule=digits(), verbose=False)
    assert found["test/greatest_eigenvalue_b4"] == pytest.approx(whole._measured.greatest[0].value)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"learner": learner(samples=61)}, {}, r"samples of OnlineLearner must be in \[1, 60\], got 61"),
        ({"spectra": BatchSpectra([4], samples=61)}, {}, r"samples of BatchSpectra must be in \[1, 60\], got 61"),
        ({"spectra": BatchSpectra([60])}, {}, "must be below 60, the sample count, got 60"),
        ({"learner": learner(rule="ssgdm"), "optimizer": torch.optim.Adam}, {}, "sets momentum, which Adam lacks"),
        ({"learner": learner()}, {"precision": "bf16-true"}, "needs single precision or better, and .* is in half"),
        (
            {"learner": learner(), "network": Attending(64, 10, True)},
            {},
            "needs second derivatives, which Attending lacks",
        ),
        ({"learner": learner(), "network": Attending(64, 10, False)}, {}, "Linear uses autocast"),
    ],
)
def test_what_does_not_fit_is_named_before_training(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(module(**arguments), 1, **options)
