"""Training under masks, then tuning: which networks are trained in which phase, what is kept, and rejections."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.counter import CounterRNG
from lightning_modules.dynamics.noise_mask import MaskPolicy, NoiseMask
from lightning_modules.dynamics.noise_mask.module import MaskSettings
from lightning_modules.dynamics.noise_mask.policy import drawn_cells
from lightning_modules.networks.mlp import MLP
from tests.conformance.runs import CONFIGS, rows, run
from tests.grouped import grouped
from tests.trainers import quiet

MASK: dict[str, Any] = {"grid": 4, "kernel": 3, "sigma": 1.0, "mean": [0.0]}


def module(policy: bool = True, **arguments: Any) -> NoiseMask:
    torch.manual_seed(0)
    chosen = MaskPolicy(MLP(64, [], 6), 6, grid=4) if policy else None
    shape = {key: arguments.pop(key, default) for key, default in MASK.items()}
    options = {"mask": MaskSettings(**shape), "mask_epochs": 1, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    return NoiseMask(MLP(64, [16], 10), 10, policy=chosen, **{**options, **arguments})


def digits(**arguments: Any) -> LabelledImages:
    return LabelledImages(Digits(train_size=60), **grouped(LabelledImages, {"batch_size": 20, "seed": 0, **arguments}))


class Watched(Callback):
    """Records the weights at the start of each epoch and at the end of training, and the logged terms."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.states.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def trained(net: NoiseMask, epochs: int) -> Watched:
    watched = Watched()
    quiet(max_epochs=epochs, callbacks=[watched]).fit(net, datamodule=digits())
    watched.states.append(copy.deepcopy(net.state_dict()))
    return watched


def moves(watched: Watched, part: str, epoch: int) -> list[bool]:
    """Return, for each weight of a part or for the buffer of this name, whether an epoch changes it."""
    before, after = watched.states[epoch : epoch + 2]
    names = [name for name in before if name == part or (name.startswith(f"{part}.") and name.endswith("weight"))]
    return [not after[name].equal(before[name]) for name in names]


@pytest.mark.parametrize("objective", ["paper_code", "reinforce"])
def test_both_networks_learn_under_masks_and_the_classifier_alone_in_tuning(objective: Any) -> None:
    watched = trained(module(objective=objective), 2)
    assert all(moves(watched, "policy", 0))
    assert all(moves(watched, "network", 0))
    assert moves(watched, "base", 0) == [True]
    assert moves(watched, "baseline", 0) == [objective == "reinforce"]
    assert not any(moves(watched, "policy", 1))
    assert not any(moves(watched, "base", 1))
    assert all(moves(watched, "network", 1))


def test_the_base_is_a_buffer_that_follows_the_policy_and_is_restored() -> None:
    net = module()
    assert {"base", "baseline"} <= set(dict(net.named_buffers()))
    start, batch = net.base.clone(), torch.rand(20, 1, 8, 8)
    _, own = copy.deepcopy(net).train().laws(batch)
    net.log = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    net._trainer = quiet()
    loss = net.training_step(
        {"image": batch, "label": torch.zeros(20).long(), "index": torch.arange(20), "global_batch_size": 20}, 0
    )
    torch.testing.assert_close(net.base, 0.99 * start + 0.01 * own.mean(dim=0))
    loss["loss"].backward()
    assert all(bool(parameter.grad.any()) for parameter in net.policy.parameters() if parameter.ndim > 1)  # type: ignore[union-attr]
    other = module()
    other.load_state_dict(net.state_dict())
    assert other.base.equal(net.base)


def test_the_classifier_needs_no_policy() -> None:
    net, image = module().eval(), torch.rand(3, 1, 8, 8)
    logits = net(image)
    del net.policy
    assert net(image).equal(logits)


def test_uniform_cells_have_the_factor_log_k() -> None:
    watched = trained(module(policy=False), 1)
    found = watched.logged[0]
    assert found["train/log_density"] == pytest.approx(math.log(16), rel=1e-6)
    assert found["train/loss"] == pytest.approx(math.log(16) * found["train/cross_entropy"], rel=1e-6)
    assert not any(moves(watched, "base", 0))


def test_weights_at_the_last_ends_of_epochs_are_averaged() -> None:
    plain, averaged = (trained(module(policy=False, mask_epochs=4, averaged_epochs=k), 4) for k in (1, 3))
    for name in (name for name in plain.states[0] if name.startswith("network")):
        expected = sum(state[name] for state in plain.states[2:5]) / 3
        torch.testing.assert_close(averaged.states[4][name], expected)
        assert averaged.states[3][name].equal(plain.states[3][name])


def test_pictures_show_masks_that_do_not_change() -> None:
    net, batch = module(mean=[0.5]).eval(), {"image": torch.rand(3, 1, 8, 8), "index": torch.arange(3)}
    with torch.no_grad():
        columns, again = net.image_columns(batch, None), net.image_columns(batch, None)
    image, mask, masked = (columns[name] for name in ("image", "mask", "masked"))
    assert mask.equal(again["mask"])  # type: ignore[union-attr, arg-type]
    assert 0 <= float(mask.min()) < float(mask.max()) <= 1  # type: ignore[union-attr]
    torch.testing.assert_close(masked, 0.5 + mask * (image - 0.5))


def test_a_policy_of_another_grid_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"policy\.grid must equal mask\.grid, 5, got 4"):
        module(grid=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": 9}, "grid must be at most 8, the side of an image, got 9"),
        ({"kernel": 17}, "kernel must be less than"),
    ],
)
def test_masks_that_do_not_fit_the_images_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet(max_epochs=1).fit(module(policy=False, **arguments), datamodule=digits())


def test_a_policy_at_rest_needs_a_ddp_that_expects_it() -> None:
    net = module()
    net._trainer = quiet(max_epochs=2, strategy="ddp", devices=1)
    with pytest.raises(ValueError, match=r"does not train its policy .* trainer.strategy must be ddp_find_unused"):
        net.setup("fit")


@pytest.mark.data
def test_pneumonia_is_told_apart_after_two_epochs_under_masks_and_one_of_tuning(tmp_path: Path) -> None:
    """The test takes half a minute on one core."""
    stages = ("--trainer.max_epochs", "3", *(f"--model.{key}=2" for key in ("mask_epochs", "averaged_epochs")))
    rates = ("--model.lr_scheduler.mask_epochs", "2", "--trainer.accelerator", "cpu")
    config = CONFIGS / "noise_mask" / "pneumoniamnist.yaml"
    run("fit", "--config", config, "--run_directory", tmp_path, "--test_after_fit", "true", *stages, *rates)
    found = {str(row["metric"]): row["value"] for row in rows(tmp_path / "test_metrics.csv")}
    assert found["test/accuracy"] > 0.7  # the more frequent class has 62.5 %
    assert found["test/accuracy_smooth_masks"] > 0.625


def test_the_density_of_a_mask_is_that_of_all_its_cells_together(monkeypatch: pytest.MonkeyPatch) -> None:
    net, index = module(objective="reinforce"), torch.arange(5)
    net.log = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    net._trainer = quiet()
    found: list[torch.Tensor] = []
    monkeypatch.setattr(net, "_objective", lambda cost, density: found.append(density) or cost.mean())
    image = torch.rand(5, 1, 8, 8)
    batch: Any = {"image": image, "label": torch.zeros(5).long(), "index": index, "global_batch_size": 5}
    law, _ = copy.deepcopy(net).laws(image)
    net.training_step(batch, 0)
    log_a, log_b = law.unbind(1)
    cells = drawn_cells(log_a, log_b, CounterRNG(run_seed(), 0, index))
    joint = torch.distributions.Independent(torch.distributions.Beta(log_a.exp(), log_b.exp()), 1)
    torch.testing.assert_close(found[0], joint.log_prob(cells), rtol=1e-5, atol=1e-4)
