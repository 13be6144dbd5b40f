import copy
import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from callbacks.guards.seeding import SeedEveryBatch
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.optim.schedules import WarmupCosine
from lightning_modules.robustness.rrcm.finetuning import pretrained_encoder
from lightning_modules.robustness.rrcm.noise_conditioned import kept_by_target, noise_level, num_levels
from lightning_modules.robustness.rrcm.pretraining import (
    GradientClipping,
    MovingAverages,
    Projector,
    Retrieval,
    RRCMPretraining,
    retrieval,
)
from lightning_modules.views.byol import AffineJitter
from tests.robustness.rrcm.small import digits_like, pretraining
from tests.robustness.smoothed_training.by_hand import assert_same_with_gradients
from tests.trainers import quiet, standing


@pytest.mark.parametrize("batch_norm", [True, False])
def test_no_linear_layer_of_the_projector_has_a_bias(batch_norm: bool) -> None:
    projector = Projector(3, 5, 2, batch_norm).double()
    first, second, last = [layer.weight for layer in projector.layers if isinstance(layer, nn.Linear)]
    feature = torch.randn(4, 3, dtype=torch.float64)

    def rectified(x: Tensor) -> Tensor:
        return F.relu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() if batch_norm else x)

    torch.testing.assert_close(projector(feature), rectified(rectified(feature @ first.T) @ second.T) @ last.T)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 3 * 5 + 5 * 5 + 5 * 2 + 20 * batch_norm


def test_images_are_found_again_by_the_cosine() -> None:
    clean = torch.eye(4)
    noisy = torch.tensor([[5.0, 1, 0, 0], [0, 0.2, 0.1, 0], [0, 0, 0.1, 0.2], [1, 0, 0, 0.9]])
    assert retrieval(noisy, clean) == 0.5
    metric = Retrieval()
    for rows in (slice(0, 1), slice(1, 4)):
        metric.update(noisy[rows], clean[rows])
    assert metric.compute() == 0.5


def test_levels_of_a_step_are_neighbours_and_the_same_for_everyone() -> None:
    module, other = pretraining(num_steps=1000), pretraining(num_steps=1000)
    drawn = set()
    for step in range(60):
        module.steps_taken = other.steps_taken = step
        count = num_levels(step, 1000)
        grid = [noise_level(index, count) for index in range(count)]
        t, less = module.levels()
        assert (t, less) in itertools.pairwise(grid)
        assert other.levels() == (t, less)
        drawn.add(t)
    assert len(drawn) > 20


def expected_loss(module: RRCMPretraining, image: Tensor, weight: float) -> Tensor:
    """Compute the paper's algorithm term by term, with independent formulas."""

    def call(network: nn.Module, x: Tensor, t: float) -> Tensor:
        return network(x / math.sqrt(t**2 + 0.25), torch.full((len(x),), 250 * math.log(t), dtype=torch.float64))

    def nce(f: Tensor, g: Tensor) -> Tensor:
        return F.cross_entropy(F.normalize(f) @ F.normalize(g.detach()).T / 0.2, torch.arange(len(f)))

    torch.manual_seed(3)
    e = torch.randn_like(image)
    x, a, b = 2 * image - 1, 2 * 0.9 * image - 1, 2 * 0.7 * image - 1
    t, less = module.levels()
    z = lambda v: module.projector(call(module.network, v + 0.002 * e, 0.002))  # noqa: E731
    target = lambda v: module.target_projector(call(module.target_network, v + 0.002 * e, 0.002))  # noqa: E731
    contrast = nce(z(a), target(b)) + nce(z(b), target(a))
    return contrast + weight * nce(call(module.network, x + t * e, t), call(module.network, x + less * e, less))


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5])
def test_a_step_is_the_papers(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pretraining(consistency_weight=weight).double().train()
    with torch.no_grad():  # the target is a different network
        for parameter in [*module.target_network.parameters(), *module.target_projector.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.steps_taken = 7
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    batch = digits_like()
    expected = expected_loss(module, batch["image"], weight)
    torch.manual_seed(3)
    loss = module.training_step(batch, 0)["loss"]  # type: ignore[arg-type]
    assert_same_with_gradients(loss, expected, [*module.network.parameters(), *module.projector.parameters()])
    loss.backward()
    for copied in (module.target_network, module.target_projector, module.average):
        assert all(parameter.grad is None for parameter in copied.parameters())


def test_averages_move_parameters_and_no_statistics() -> None:
    module = pretraining(averages=MovingAverages(decay=0.75)).double()
    module.steps_taken = 30
    copies = ("target_network", "target_projector", "average")
    online = {"target_network": "network", "target_projector": "projector", "average": "network"}
    optimizer = module.configure_optimizers()[0][0]
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.randn_like(parameter)
    statistics = dict(module.projector.named_buffers())
    statistics["layers.1.running_mean"].fill_(5.0)
    before = {name: copy.deepcopy(getattr(module, name)) for name in copies}
    optimizer.step()
    for name in copies:
        kept = 0.75 if name == "average" else kept_by_target(30, 100, 15.0)
        pairs = zip(
            before[name].parameters(),
            getattr(module, name).parameters(),
            getattr(module, online[name]).parameters(),
            strict=True,
        )
        for old, new, now in pairs:
            torch.testing.assert_close(new, kept * old + (1 - kept) * now)
            assert not torch.equal(new, old)
        for old, new in zip(before[name].buffers(), getattr(module, name).buffers(), strict=True):
            assert torch.equal(old, new)
    assert module.steps_taken == 31
    assert int(module.step) == 1


def test_a_step_that_the_scaler_skips_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pretraining()
    [optimizer], [schedule] = module.configure_optimizers()
    stepped: list[int] = []
    monkeypatch.setattr(schedule["scheduler"], "step", lambda *args: stepped.append(module.steps_taken))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(module.target_network.state_dict())
    for factor, taken in ((math.inf, 0), (1.0, 1), (math.nan, 1)):
        optimizer.zero_grad()
        loss = sum(parameter.sum() for parameter in optimizer.param_groups[0]["params"])
        scaler.scale(factor * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        module.lr_scheduler_step(schedule["scheduler"], None)
        assert module.steps_taken == int(module.step) == taken
        unchanged = all(torch.equal(v, before[k]) for k, v in module.target_network.state_dict().items())
        assert unchanged == (taken == 0)
    assert stepped == [1]


def fitted(
    tmp_path: Path, max_epochs: int, ckpt_path: str | None = None, **more: Any
) -> tuple[RRCMPretraining, Trainer]:
    callbacks = more.pop("callbacks", [])
    torch.manual_seed(0)
    module = pretraining(first_view=AffineJitter(), second_view=AffineJitter(), **more)
    trainer = quiet(max_epochs=max_epochs, default_root_dir=tmp_path, callbacks=[SeedEveryBatch(), *callbacks])
    trainer.fit(
        module,
        datamodule=LabelledImages(Digits(train_size=250), batch_size=100, loading=Loading(seed=0)),
        ckpt_path=ckpt_path,
    )
    return module, trainer


def schedule(optimizer: torch.optim.Optimizer) -> WarmupCosine:
    return WarmupCosine(optimizer, warmup=2, length=12, interval="step")


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_training_ends_as_the_whole_one(tmp_path: Path) -> None:
    whole, _ = fitted(tmp_path, 4, num_steps=None, lr_scheduler=schedule)
    _, trainer = fitted(tmp_path, 2, num_steps=12, lr_scheduler=schedule)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, trainer = fitted(tmp_path, 4, str(tmp_path / "half.ckpt"), num_steps=12, lr_scheduler=schedule)
    assert whole.steps_taken == resumed.steps_taken == int(resumed.step) == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)

    weights = {"average": resumed.average, "network": resumed.network, "target_network": resumed.target_network}
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    for which, network in weights.items():
        encoder = pretrained_encoder(TimeConditionedMLP(64, width=12, depth=1), str(tmp_path / "end.ckpt"), which)  # type: ignore[arg-type]
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, network.state_dict()[name])
    first, second = (
        dict(each.named_parameters())["embed.weight"] for each in (resumed.average, resumed.target_network)
    )
    assert not torch.equal(first, second)


class Moves(Callback):
    """Records by how much each step changes the parameters."""

    def __init__(self) -> None:
        self.lengths: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.before = [parameter.detach().clone() for parameter in trainer.optimizers[0].param_groups[0]["params"]]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        after = trainer.optimizers[0].param_groups[0]["params"]
        moved = torch.cat([(new.detach() - old).flatten() for new, old in zip(after, self.before, strict=True)])
        self.lengths.append(float(moved.norm()))


@pytest.mark.filterwarnings("ignore")
def test_gradients_are_clipped_once_the_warm_up_has_ended(tmp_path: Path) -> None:
    moves = Moves()

    def descent(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-3)

    constant = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    clipping = GradientClipping(norm=1e-2, after=3)
    fitted(tmp_path, 2, optimizer=descent, lr_scheduler=constant, callbacks=[moves], clipping=clipping)
    assert len(moves.lengths) == 6
    assert min(moves.lengths[:3]) > 1.5e-5
    assert moves.lengths[3:] == pytest.approx([1e-5] * 3, rel=0.02)


def test_retrieval_at_sigma_is_at_the_level_of_twice_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    """In [-1, 1], the input range of the networks, the noise is twice as large as in pixel units."""
    module = pretraining(retrieval_sigmas=[0.25, 0.5]).double().eval()
    logged: list[str] = []
    monkeypatch.setattr(module, "log", lambda name, *args, **kwargs: logged.append(name))
    batch = digits_like()
    torch.manual_seed(3)
    module.test_step(batch, 0)
    assert logged == ["test/retrieval_0.25", "test/retrieval_0.50"]
    torch.manual_seed(3)
    noise = torch.randn_like(batch["image"])
    for metric, t in zip(module.retrieval, (0.5, 1.0), strict=True):
        assert isinstance(metric, Retrieval)
        for found, level, shown in (
            (metric.noisy, t, 2 * batch["image"] - 1 + t * noise),
            (metric.clean, 0.002, 2 * batch["image"] - 1),
        ):
            time = torch.full((5,), 250 * math.log(level), dtype=torch.float64)
            torch.testing.assert_close(found, [module.network(shown / math.sqrt(0.25 + level**2), time)])


@pytest.mark.parametrize(
    ("module", "steps", "message"),
    [
        (pretraining(num_steps=None), math.inf, "num_steps must be given"),
        (pretraining().bfloat16(), 9, r"precision bf16-true keeps averages in 16 bits.*use bf16-mixed"),
    ],
)
def test_what_cannot_be_trained_is_refused(module: RRCMPretraining, steps: float, message: str) -> None:
    module.trainer = standing(estimated_stepping_batches=steps, precision="bf16-true")
    with pytest.raises(ValueError, match=message):
        module.setup("fit")
