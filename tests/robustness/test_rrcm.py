import copy
import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from scipy import stats
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from callbacks.guards.seeding import SeedEveryBatch
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.interfaces import Classifier, SmoothedClassifier
from lightning_modules.losses.contrastive import contrastive_loss
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.networks.time_conditioned_vit import TimeConditionedViT
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.robustness.rrcm.finetuning import RRCM
from lightning_modules.robustness.rrcm.noise_conditioned import NoiseConditionedClassifier, represent
from lightning_modules.robustness.rrcm.noise_schedule import (
    input_scale,
    kept_by_target,
    nearest_level,
    noise_level,
    num_levels,
)
from lightning_modules.robustness.rrcm.pretrained import pretrained_encoder
from lightning_modules.robustness.rrcm.pretraining import RRCMPretraining
from lightning_modules.robustness.rrcm.projector import Projector
from lightning_modules.robustness.rrcm.retrieval import Retrieval, retrieval
from lightning_modules.robustness.smoothed_training.consistency_regularization import consistency, loss_on_copies
from lightning_modules.training.parameter_groups import layer_of, optimizer_with_layer_decay
from lightning_modules.training.schedules import WarmupCosine
from lightning_modules.views.byol import AffineJitter, BYOLView, Solarize, blurred
from tests.command import ROOT


def small_encoder(final_norm: bool = True) -> TimeConditionedViT:
    return TimeConditionedViT(8, 4, width=12, depth=2, num_heads=2, in_channels=1, final_norm=final_norm)


class Scaled(nn.Module):
    """A view that draws nothing."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        return self.factor * image


def pretraining(**more: Any) -> RRCMPretraining:
    arguments: dict[str, Any] = {
        "network": TimeConditionedMLP(64, width=12, depth=1),
        "projector": Projector(12, 10, 6),
        "first_view": Scaled(0.9),
        "second_view": Scaled(0.7),
        "num_steps": 100,
    }
    return RRCMPretraining(**arguments | more)


def digits_like(size: int = 5) -> dict[str, Any]:
    return {"image": torch.rand(size, 1, 8, 8, dtype=torch.float64), "global_size": size}


# schedules


@pytest.mark.parametrize("count", [21, 41, 81])
def test_levels_fall_from_80_to_a_500th(count: int) -> None:
    levels = [noise_level(index, count) for index in range(count)]
    assert levels[0] == pytest.approx(80, rel=1e-12)
    assert levels[-1] == pytest.approx(0.002, rel=1e-12)
    assert all(first > second for first, second in itertools.pairwise(levels))
    roots = np.array(levels) ** (1 / 7)  # evenly spaced
    np.testing.assert_allclose(np.diff(roots), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / (count - 1), rtol=1e-9)


@pytest.mark.parametrize(("num_steps", "last_of_41"), [(300_000, 129_203), (600_000, 258_406)])
def test_curriculum_of_the_papers(num_steps: int, last_of_41: int) -> None:
    at = {0: 21, 1: 41, last_of_41: 41, last_of_41 + 1: 81, num_steps: 81}
    assert {step: num_levels(step, num_steps) for step in at} == at


@pytest.mark.parametrize("steepness", [10.0, 15.0])
def test_the_target_keeps_more_and_more(steepness: float) -> None:
    kept = [kept_by_target(step, 1000, steepness) for step in range(1201)]
    assert kept[0] == pytest.approx(0.99, abs=1e-15)
    assert all(first <= second for first, second in itertools.pairwise(kept))
    end = math.tanh(steepness / 2)  # 2 sigmoid(A) - 1
    assert kept[1000] == kept[1200] == pytest.approx(end * 0.9999 + (1 - end) * 0.99, abs=1e-14)
    e = math.sqrt((0.9999**2 + 0.99**2) / 2)
    c = math.tanh(steepness * (e - 0.99) / 0.0099 / 2)
    assert kept[500] == pytest.approx(c * 0.9999 + (1 - c) * 0.99, abs=1e-12)


@pytest.mark.parametrize(("sigma", "index", "level"), [(0.25, 53, 0.4927), (0.5, 48, 0.9654), (1.0, 42, 2.0036)])
def test_the_level_that_a_network_is_told(sigma: float, index: int, level: float) -> None:
    assert nearest_level(2 * sigma, 81) == index
    assert noise_level(index, 81) == pytest.approx(level, abs=5e-5)


@given(t=st.floats(0.002, 80))
def test_networks_see_unit_variance_and_the_nearest_level_is_nearest(t: float) -> None:
    assert input_scale(t) ** 2 * (0.5**2 + t**2) == pytest.approx(1, rel=1e-12)
    chosen = abs(noise_level(nearest_level(t, 81), 81) - t)
    assert all(chosen <= abs(noise_level(index, 81) - t) for index in range(81))


def test_networks_are_shown_scaled_images_and_times() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(image: Tensor, time: Tensor) -> Tensor:
        seen.append((image, time))
        return image.flatten(1)

    image, noise = torch.randint(0, 2, (64, 1, 16, 16)).double() - 0.5, torch.randn(64, 1, 16, 16).double()
    features = represent(network, [image + t * noise for t in (0.002, 1.0, 80.0)], [0.002, 1.0, 80.0])  # type: ignore[arg-type]
    [(shown, time)] = seen
    for part, feature in zip(shown.chunk(3), features, strict=True):
        assert torch.equal(part.flatten(1), feature)
        torch.testing.assert_close(part.std(), torch.tensor(1.0).double(), rtol=0.02, atol=0)
    expected = torch.tensor([250 * math.log(t) for t in (0.002, 1.0, 80.0)]).double().repeat_interleave(64)
    torch.testing.assert_close(time, expected)


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


@given(warmup=st.integers(0, 20), rest=st.integers(1, 50))
@settings(max_examples=30)
def test_learning_rates_rise_and_fall_along_a_cosine(warmup: int, rest: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    schedule = WarmupCosine(optimizer, warmup, warmup + rest)
    for k in range(warmup + rest + 3):
        expected = 2.0 * (k + 1) / warmup if k < warmup else 1 + math.cos(math.pi * min((k - warmup) / rest, 1))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        schedule.step()
    with pytest.raises(ValueError, match="warmup"):
        WarmupCosine(optimizer, 5, 5)


# contrastive loss


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_orthonormal_features_have_the_closed_form(temperature: float) -> None:
    basis = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q[:6]
    loss = contrastive_loss(basis, basis, basis, temperature)
    expected = torch.tensor(math.log1p(5 * math.exp(-1 / temperature)), dtype=torch.float64)
    torch.testing.assert_close(loss, expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 6), others=st.integers(0, 6))
def test_the_loss_is_cross_entropy_of_cosines_whatever_the_lengths_and_the_order(
    seed: int, size: int, others: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    f, g = torch.randn(2, size, 5, dtype=torch.float64, generator=random)
    more = torch.randn(others, 5, dtype=torch.float64, generator=random)
    cosines = F.cosine_similarity(f[:, None], torch.cat([g, more])[None], dim=2)
    expected = F.cross_entropy(cosines / 0.2, torch.arange(size))
    length = 0.1 + torch.rand(size, 1, dtype=torch.float64, generator=random)
    found = contrastive_loss(length * f, g / length, torch.cat([3 * more, g]), 0.2)
    torch.testing.assert_close(found, expected)


def test_the_loss_is_not_computed_in_half_precision() -> None:
    f, g = torch.randn(2, 7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = contrastive_loss(f, g, g, 0.2)
    assert torch.equal(mixed, contrastive_loss(f, g, g, 0.2))


# a step of pre-training


@pytest.mark.parametrize("batch_norm", [True, False])
def test_no_linear_layer_of_the_projector_has_a_bias(batch_norm: bool) -> None:
    projector = Projector(3, 5, 2, batch_norm).double()
    first, second, last = [layer.weight for layer in projector.layers if isinstance(layer, nn.Linear)]
    feature = torch.randn(4, 3, dtype=torch.float64)

    def rectified(x: Tensor) -> Tensor:
        return F.relu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() if batch_norm else x)

    torch.testing.assert_close(projector(feature), rectified(rectified(feature @ first.T) @ second.T) @ last.T)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 3 * 5 + 5 * 5 + 5 * 2 + 20 * batch_norm


def expected_loss(module: RRCMPretraining, image: Tensor, weight: float) -> Tensor:
    """The algorithm box, term by term, with its own formulas."""

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
    with torch.no_grad():  # the target is another network
        for parameter in [*module.target_network.parameters(), *module.target_projector.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    module.steps_taken = 7
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    batch = digits_like()
    expected = expected_loss(module, batch["image"], weight)
    trained = [*module.network.parameters(), *module.projector.parameters()]
    gradients = torch.autograd.grad(expected, trained)
    torch.manual_seed(3)
    loss = module.training_step(batch, 0)["loss"]  # type: ignore[arg-type]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for parameter, gradient in zip(trained, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for copied in (module.target_network, module.target_projector, module.average):
        assert all(parameter.grad is None for parameter in copied.parameters())


def test_averages_move_parameters_and_no_statistics() -> None:
    module = pretraining(average_decay=0.75).double()
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


# a whole pre-training


def fitted(
    tmp_path: Path, max_epochs: int, ckpt_path: str | None = None, **more: Any
) -> tuple[RRCMPretraining, Trainer]:
    callbacks = more.pop("callbacks", [])
    torch.manual_seed(0)
    module = pretraining(first_view=AffineJitter(), second_view=AffineJitter(), **more)
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[SeedEveryBatch(), *callbacks],
    )
    trainer.fit(module, datamodule=LabelledImages(Digits(train_size=250), batch_size=100, seed=0), ckpt_path=ckpt_path)
    return module, trainer


def schedule(optimizer: torch.optim.Optimizer) -> WarmupCosine:
    return WarmupCosine(optimizer, warmup=2, length=12)


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
    """How far each step moves the parameters."""

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
    clipped: dict[str, Any] = {"gradient_clip": 1e-2, "clip_after": 3}
    fitted(tmp_path, 2, optimizer=descent, lr_scheduler=constant, callbacks=[moves], **clipped)
    assert len(moves.lengths) == 6
    assert min(moves.lengths[:3]) > 1.5e-5
    assert moves.lengths[3:] == pytest.approx([1e-5] * 3, rel=0.02)


def test_a_training_without_end_needs_its_number_of_steps() -> None:
    module = pretraining(num_steps=None)
    module.trainer = type("Endless", (), {"estimated_stepping_batches": math.inf})()
    with pytest.raises(ValueError, match="num_steps"):
        module.setup("fit")


# retrieval


def test_averages_are_not_kept_in_half_precision() -> None:
    module = pretraining().bfloat16()
    module.trainer = type("Half", (), {"precision": "bf16-true"})()
    with pytest.raises(ValueError, match=r"precision bf16-true keeps averages in 16 bits.*use bf16-mixed"):
        module.setup("fit")


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_fine_tuning_decays_no_weight(name: str) -> None:
    config = yaml.safe_load((ROOT / "configs" / "rrcm" / f"{name}.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.0


def test_images_are_found_again_by_the_cosine() -> None:
    clean = torch.eye(4)
    noisy = torch.tensor([[5.0, 1, 0, 0], [0, 0.2, 0.1, 0], [0, 0, 0.1, 0.2], [1, 0, 0, 0.9]])
    assert retrieval(noisy, clean) == 0.5
    metric = Retrieval()
    for rows in (slice(0, 1), slice(1, 4)):
        metric.update(noisy[rows], clean[rows])
    assert metric.compute() == 0.5


def test_retrieval_at_sigma_is_at_the_level_of_twice_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    """In [-1, 1], where networks see images, noise is twice as large as in pixel units."""
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


# weights for fine-tuning


def test_the_last_norm_may_be_left_behind_and_what_is_missing_is_named(tmp_path: Path) -> None:
    module = pretraining(network=small_encoder(), projector=Projector(12, 10, 6))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "run.ckpt")
    encoder = pretrained_encoder(small_encoder(final_norm=False), str(tmp_path / "run.ckpt"))
    assert torch.equal(encoder.get_parameter("pos_embed"), module.average.get_parameter("pos_embed"))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*elsewhere\.ckpt"):
        pretrained_encoder(small_encoder(), str(tmp_path / "elsewhere.ckpt"))
    other = TimeConditionedViT(8, 4, width=12, depth=3, num_heads=2, in_channels=1)
    with pytest.raises(ValueError, match=r"missing: blocks\.2"):
        pretrained_encoder(other, str(tmp_path / "run.ckpt"))
    torch.save({"state_dict": small_encoder().state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="average"):
        pretrained_encoder(small_encoder(), str(tmp_path / "other.ckpt"))


# fine-tuning


def test_regulariser_of_equal_copies_and_of_equal_weights() -> None:
    logits = torch.randn(1, 5, 7, dtype=torch.float64).expand(2, 5, 7)
    label = torch.arange(5)
    entropy = torch.distributions.Categorical(logits=logits[0]).entropy().mean()
    found = loss_on_copies(logits, label, 10.0, 0.5) - F.cross_entropy(logits[0], label)
    torch.testing.assert_close(found, 0.5 * entropy)
    different = torch.randn(2, 5, 7, dtype=torch.float64)
    divergence, entropy = consistency(different)
    mean = different.softmax(-1).mean(dim=0)
    crossed = -(mean * different.log_softmax(-1)).sum(-1).mean(dim=0)  # cross-entropy of the copies with their mean
    torch.testing.assert_close(divergence + entropy, crossed)


def test_soft_labels_that_are_certain_are_labels() -> None:
    logits, label = torch.randn(2, 5, 7, dtype=torch.float64), torch.arange(5)
    soft = F.one_hot(label, 7).double()
    torch.testing.assert_close(loss_on_copies(logits, soft, 10.0, 0.5), loss_on_copies(logits, label, 10.0, 0.5))


def test_noise_on_pixels_is_twice_the_noise_on_the_trajectory() -> None:
    encoder = small_encoder().double()
    module = RRCM(encoder, num_features=12, num_classes=3, sigma=0.25).double()
    nn.init.normal_(module.network.head.weight)
    assert isinstance(module, SmoothedClassifier)
    assert isinstance(module, Classifier)
    image, noise = torch.rand(4, 1, 8, 8).double(), torch.randn(4, 1, 8, 8).double()
    for sigma, level in ((0.25, noise_level(53, 81)), (0.5, noise_level(48, 81)), (1.0, noise_level(42, 81))):
        x = 2 * image - 1 + 2 * sigma * noise
        time = torch.full((4,), 250 * math.log(level), dtype=torch.float64)
        expected = module.network.head(encoder(x / math.sqrt(level**2 + 0.25), time))
        torch.testing.assert_close(module.smoothed_logits(image, noise, sigma), expected[None])
        assert module.certified_radius([0.9], sigma) == gaussian_radius(0.9, sigma)
    torch.testing.assert_close(module(image + 0.25 * noise), module.smoothed_logits(image, noise, 0.25)[0])


def test_a_step_of_fine_tuning_regularises_independent_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    module = RRCM(TimeConditionedMLP(64, 12, 1), 12, 3, sigma=0.5, num_copies=2, consistency_weight=4.0).double()
    nn.init.normal_(module.network.head.weight)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    batch = {**digits_like(), "label": torch.tensor([0, 1, 2, 1, 0])}
    torch.manual_seed(1)
    step = module.training_step(batch, 0)  # type: ignore[arg-type]
    torch.manual_seed(1)
    noise = torch.randn(2, 5, 1, 8, 8, dtype=torch.float64)
    logits = torch.stack([module(batch["image"] + 0.5 * e) for e in noise])
    p = logits.softmax(-1)
    mean = p.mean(dim=0)
    cross_entropy = -torch.stack([each.log()[torch.arange(5), batch["label"]] for each in p]).mean()
    divergence = torch.stack([(mean * (mean / each).log()).sum(-1) for each in p]).mean()
    entropy = -(mean * mean.log()).sum(-1).mean()
    torch.testing.assert_close(step["loss"], cross_entropy + 4 * divergence + 0.5 * entropy)
    torch.testing.assert_close(step["logits"], logits[0])


def test_layers_of_a_transformer_and_their_learning_rates() -> None:
    encoder, head = small_encoder(), nn.Linear(12, 3)
    names = dict(encoder.named_parameters())
    layers = {name: layer_of(name, 2) for name in names}
    assert {layers[name] for name in ("cls_token", "pos_embed", "patch_embed.weight", "patch_embed.bias")} == {0}
    assert {layer for name, layer in layers.items() if name.startswith("blocks.")} == {1, 2}
    assert layers["blocks.0.attn.qkv.weight"] == 1
    assert layers["norm.weight"] == 3
    encoder.patch_embed.requires_grad_(False)
    optimizer = optimizer_with_layer_decay(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3), encoder, head, 0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in names.items():
        if name.startswith("patch_embed"):
            assert id(parameter) not in found
        else:
            decay = 0.3 if parameter.ndim > 1 else 0.0
            assert found.pop(id(parameter)) == (pytest.approx(0.1 * 0.5 ** (3 - layers[name])), decay)
    assert sorted(found.values()) == [(0.1, 0.0), (0.1, 0.3)]  # the head's


@settings(max_examples=20, deadline=None)
@given(
    mixup=st.sampled_from([0.0, 0.8]),
    cutmix=st.sampled_from([0.0, 1.0]),
    smoothing=st.floats(0, 0.9),
    size=st.integers(1, 5),
)
def test_soft_labels_are_distributions_of_the_mixed_images(
    mixup: float, cutmix: float, smoothing: float, size: int
) -> None:
    """An image that is its class everywhere shows what is mixed."""
    label = torch.arange(size) % 3
    image = F.one_hot(label, 3).double()[:, :, None, None].expand(-1, -1, 6, 6)
    mixed, soft = SoftLabels(mixup, cutmix, smoothing)(image, label, 3)
    torch.testing.assert_close(soft, mixed.mean(dim=(2, 3)) * (1 - smoothing) + smoothing / 3)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(size, dtype=torch.float64))


# views


def test_an_image_is_mixed_as_a_whole_or_in_a_rectangle() -> None:
    """MixUp blends every pixel; CutMix leaves each one whole. Half of the batches are mixed by either."""
    label = torch.tensor([0, 1])
    image = label.double()[:, None, None, None].expand(-1, 1, 8, 8)
    torch.manual_seed(0)
    mixed = [SoftLabels(mixup_alpha=8.0, cutmix_alpha=1.0)(image, label, 2)[0] for _ in range(200)]
    blended = [bool(((each > 0) & (each < 1)).any()) for each in mixed]
    assert stats.binomtest(sum(blended), 200).pvalue > 1e-3


def test_blur_is_that_of_scipy_and_each_image_has_its_own() -> None:
    image, sigma = torch.rand(3, 2, 12, 10, dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0])
    found = blurred(image, sigma, radius=6)
    for each, own, width in zip(found, image, sigma.tolist(), strict=True):
        expected = own.numpy()
        for axis in (1, 2):
            expected = gaussian_filter1d(expected, width, axis=axis, radius=6, mode="mirror")
        np.testing.assert_allclose(each, expected, atol=1e-6)


def test_solarising_inverts_what_is_bright() -> None:
    image = torch.tensor([0.1, 0.5, 0.8]).view(1, 1, 1, 3)
    torch.testing.assert_close(Solarize(1.0)(image).flatten(), torch.tensor([0.1, 0.5, 0.2]))
    assert torch.equal(Solarize(0.0)(image), image)


def test_views_stay_in_range_and_differ_from_image_to_image() -> None:
    photographs, drawings = torch.rand(6, 3, 32, 32), torch.rand(1, 1, 8, 8).expand(6, -1, -1, -1)
    for view, image in ((BYOLView(1.0, 0.2), photographs), (AffineJitter(), drawings)):
        seen = view(image)
        assert seen.shape == image.shape
        assert 0 <= seen.min() <= seen.max() <= 1
        assert len(seen.flatten(1).unique(dim=0)) == 6
    torch.testing.assert_close(AffineJitter(0.0, 0.0, 0.0)(drawings), drawings)


def test_a_jitter_turns_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 1, 8, 8)
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.tensor([1.0, 0.5, 0.5, 0.5])[:, None])
    torch.testing.assert_close(AffineJitter(degrees=90.0)(image), image.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.tensor([0.5, 0.5, 1.0, 0.5])[:, None])
    shifted = AffineJitter(shift=2.0)(image)
    torch.testing.assert_close(shifted[..., :6], image[..., 2:], atol=1e-5, rtol=0)


# arguments


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_steps", 0),
        ("temperature", 0.0),
        ("consistency_weight", -1.0),
        ("average_decay", 1.0),
        ("gradient_clip", 0.0),
        ("retrieval_sigmas", [0.0]),
    ],
)
def test_bad_arguments_of_pre_training_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        pretraining(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("sigma", 0.0), ("num_copies", 0), ("layer_decay", 0.0), ("entropy_weight", -0.1)]
)
def test_bad_arguments_of_fine_tuning_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        RRCM(**{"network": small_encoder(), "num_features": 12, "num_classes": 3, key: value})


def test_the_head_begins_near_zero() -> None:
    classifier = NoiseConditionedClassifier(small_encoder(), 12, 50, 0.25)
    assert classifier.head.bias.abs().max() == 0
    assert 1e-5 < classifier.head.weight.std() < 3e-5
