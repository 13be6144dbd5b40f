import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.early_learning.watch import EarlyLearning
from callbacks.guards.seeding import SeedEveryBatch
from callbacks.pretraining import Pretraining
from datamodules.batches import UNVERIFIED
from datamodules.classification.clustered import Clustered
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading.augmentation import Augmentation
from lightning_modules.baselines.simclr import SimCLR
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.networks import Normalized
from lightning_modules.networks.layer_features import logits_and_features, named_layer, pooled
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.preact_resnet import PreActResNet18
from lightning_modules.networks.unit_embedding import UnitEmbeddingClassifier
from lightning_modules.noisy_labels.lsa.correction_steps import logits_without_trace
from lightning_modules.noisy_labels.lsa.detection import agreement, detect
from lightning_modules.noisy_labels.lsa.objective import sharpened
from lightning_modules.noisy_labels.lsa.pls_lsa import PLSLSA
from lightning_modules.noisy_labels.lsa.pls_lsa_plus import PLSLSAPlus
from lightning_modules.noisy_labels.lsa.training_images import TrainingImages, sweep
from lightning_modules.training.schedules import CosineSchedule
from lightning_modules.views import AddedNoise, ContrastiveView, StrongView, WeakView

QUIET: dict[str, Any] = {
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"accelerator": "cpu", "precision": "64-true", "use_distributed_sampler": False, "num_sanity_val_steps": 0},
}
PLAIN: dict[str, Any] = {"weak_view": nn.Identity(), "contrastive_view": nn.Identity(), "mixup_alpha": 0.0}
NOISY: dict[str, Any] = {"weak_view": AddedNoise(0.05), "contrastive_view": AddedNoise(0.1)}


def network(batch_norm: bool = False) -> nn.Module:
    layers = [nn.Linear(24, 16), nn.BatchNorm1d(16) if batch_norm else nn.Identity(), nn.ReLU(), nn.Linear(16, 6)]
    return Normalized(nn.Sequential(nn.Flatten(), *layers), [0.5], [0.125])


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def one_network(batch_norm: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    options = {"feature_layer": "3", "projection_features": 8, "optimizer": sgd, **options}
    return PLSLSA(network(batch_norm), num_classes=6, **options)


def two_networks(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"feature_layer": "3", "projection_features": 8, "optimizer": sgd, **options}
    return PLSLSAPlus(network(), network(), num_classes=6, **options)


def data(**options: Any) -> LabelledImages:
    images = Clustered(num_clean=120, num_foreign=81, num_test=30)
    return LabelledImages(images, **{"batch_size": 50, "seed": 3, **options})


def fit(module: LightningModule, epochs: int, into: Any = None, checkpoint: Path | None = None, **options: Any) -> Any:
    trainer = Trainer(max_epochs=epochs, callbacks=[SeedEveryBatch(3)], **{**QUIET, **options})
    into = into or data(passes_per_epoch=2 if isinstance(module, PLSLSAPlus) else 1)
    trainer.fit(module.double(), datamodule=into, ckpt_path=checkpoint, weights_only=True)
    return trainer


class Standing:
    """A trainer that stands still in an epoch of two batches."""

    num_training_batches = 2
    datamodule = None
    callbacks = ()

    def __init__(self, epoch: int) -> None:
        self.current_epoch = epoch


class Step:
    """A step of a module in double precision, on 50 images of 201, with a third of them noisy, of weights 0 to 1."""

    def __init__(self, module: Any, epoch: int = 1) -> None:
        generator = torch.Generator().manual_seed(1)
        index = torch.randperm(201, generator=generator)[:50]
        image = torch.rand(50, 1, 1, 24, generator=generator, dtype=torch.float64)
        self.batch: Any = {"image": image, "label": index % 6, "index": index, "global_size": 50}
        self.module = module.double()
        module.trainer = Standing(epoch)
        module.log_dict = lambda *args, **kwargs: None
        module.images.allocate(201, "cpu", torch.float64)
        module.images.is_noisy[::3] = True
        module.images.weight[::3] = torch.linspace(0, 1, 67, dtype=torch.float64)
        self.noisy, self.weight = module.images.is_noisy[index], module.images.weight[index]
        self.outputs = module.training_step(self.batch, 0)

    def target(self, guess: Tensor) -> Tensor:
        """The guess for noisy images, the given label for others."""
        return torch.where(self.noisy[:, None], guess, F.one_hot(self.batch["label"], 6)).detach()

    def kept_guess(self, network: int) -> Tensor:
        return self.module.images.guesses[network].gathered()[self.batch["index"]]

    def expect(self, loss: Tensor) -> None:
        """The step's loss and its gradients are those of an equation."""
        torch.testing.assert_close(self.outputs["loss"], loss, rtol=1e-10, atol=0)
        parameters = list(self.module.parameters())
        own, expected = (
            torch.autograd.grad(each, parameters, allow_unused=True, materialize_grads=True)
            for each in (self.outputs["loss"], loss)
        )
        for gradient, other in zip(own, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-12)


def classification(z: Tensor, t: Tensor, u: Tensor) -> Tensor:
    return -(u[:, None] * t * z.log_softmax(dim=1)).sum() / u.sum()


def contrastive(h: Tensor, other: Tensor, a: Tensor, temperature: float = 0.2) -> Tensor:
    similarity = F.normalize(h, dim=1) @ F.normalize(other, dim=1).T / temperature
    return F.cross_entropy(similarity, a / a.sum(dim=1, keepdim=True))


def same(t: Tensor) -> Tensor:
    return (t.argmax(dim=1)[:, None] == t.argmax(dim=1)).double()


def saved(images: TrainingImages) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {}
    images.save(checkpoint)
    return checkpoint["images"]


# the steps


def test_the_first_epoch_is_plain_cross_entropy() -> None:
    step = Step(one_network(**PLAIN), epoch=0)
    logits = step.module.network(step.batch["image"])
    step.expect(F.cross_entropy(logits, step.batch["label"]))
    torch.testing.assert_close(step.outputs["logits"], logits.detach())
    torch.testing.assert_close(step.kept_guess(0), sharpened(logits.softmax(dim=1), 2.0).detach())


@pytest.mark.parametrize("penalty", [False, True])
def test_a_corrected_step_is_the_equations(penalty: bool) -> None:
    step = Step(one_network(**PLAIN, penalty=penalty, gamma=3.0, contrast_weight=0.7, temperature=0.3))
    z, features = logits_and_features(step.module.network, step.batch["image"])
    guess = z.softmax(dim=1) ** 3 / (z.softmax(dim=1) ** 3).sum(dim=1, keepdim=True)
    t, h = step.target(guess), step.module.projections[0](features)
    expected = classification(z, t, step.weight) + 0.7 * contrastive(h, h, same(t), 0.3)
    if penalty:
        expected = expected + (1 / 6 / z.softmax(dim=1).mean(dim=0)).log().mean()
    step.expect(expected)
    torch.testing.assert_close(step.kept_guess(0), guess.detach())


def test_pls_guesses_from_several_views_and_draws_doubtful_images_to_themselves() -> None:
    step = Step(one_network(**PLAIN, guess_views=2, confidence_contrast=True, penalty=True, detectors=["loss"]))
    z, features = logits_and_features(step.module.network, step.batch["image"])
    u, h = step.weight, step.module.projections[0](features)
    t = step.target(sharpened(z.softmax(dim=1), 2.0))
    rows = torch.cat([u[:, None] * F.one_hot(t.argmax(dim=1), 6), torch.diag(1 - u)], dim=1)
    penalty = (1 / 6 / z.softmax(dim=1).mean(dim=0)).log().mean()
    step.expect(classification(z, t, u) + penalty + contrastive(h, h, rows @ rows.T))


class Shifted(nn.Module):
    """Each call shifts images further."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.calls = by, 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return image + self.by * self.calls


@pytest.mark.parametrize("strong_view", [Shifted(0.25), None])
@pytest.mark.parametrize("guess_views", [1, 2])
def test_each_view_goes_where_it_belongs(guess_views: int, strong_view: Shifted | None) -> None:
    """Trained on the first weak view, or where noisy the strong one if there is one; guessed from the second, or both.

    PLS has no strong view, and its authors train noisy images on the first of the two views that it guesses from.
    """
    views = {"weak_view": Shifted(0.1), "strong_view": copy.copy(strong_view), "contrastive_view": Shifted(-0.125)}
    step = Step(one_network(**views, mixup_alpha=0.0, guess_views=guess_views))
    image, network = step.batch["image"], step.module.network
    predicted = [network(image + shift).softmax(dim=1) for shift in ((0.2,) if guess_views == 1 else (0.1, 0.2))]
    t = step.target(sharpened(torch.stack(predicted).mean(dim=0), 2.0))
    shift = torch.full((50, 1, 1, 1), 0.1, dtype=torch.float64)
    if strong_view:
        shift[step.noisy] = 0.25
    z, features = logits_and_features(network, image + shift)
    _, others = logits_and_features(network, image - 0.125)
    h, other = step.module.projections[0](features), step.module.projections[0](others)
    step.expect(classification(z, t, step.weight) + contrastive(h, other, same(t)))


def test_the_step_of_two_networks_is_that_of_one_with_the_guess_of_both() -> None:
    step = Step(two_networks(**PLAIN))  # in the first half of an epoch
    first, second = step.module.network, step.module.second_network
    predicted = [each(step.batch["image"]).softmax(dim=1) for each in (first, second)]
    guess = sharpened((predicted[0] + predicted[1]) / 2, 2.0)
    z, features = logits_and_features(first, step.batch["image"])
    t, h = step.target(guess), step.module.projections[0](features)
    step.expect(classification(z, t, step.weight) + contrastive(h, h, same(t)))
    torch.testing.assert_close(step.kept_guess(0), guess.detach())
    assert not step.kept_guess(1).any()


def test_while_nothing_is_corrected_each_of_two_networks_guesses_alone() -> None:
    step = Step(two_networks(**PLAIN), epoch=0)
    own = step.module.network(step.batch["image"])
    torch.testing.assert_close(step.kept_guess(0), sharpened(own.softmax(dim=1), 2.0).detach())
    torch.testing.assert_close(step.outputs["logits"], own.detach())
    step.module.training_step(step.batch, 1)
    other = step.module.second_network(step.batch["image"])
    assert not torch.allclose(own, other)
    torch.testing.assert_close(step.kept_guess(1), sharpened(other.softmax(dim=1), 2.0).detach())


class Watching(EarlyLearning):
    """A user's own, which counts as well."""


@pytest.mark.parametrize("make", [one_network, two_networks])
def test_early_learning_sees_every_epoch_and_changes_none(make: Any, tmp_path: Path) -> None:
    trained = []
    for watchers in ([], [Watching()]):
        module = make(**NOISY, warmup_epochs=3, **({"batch_norm": True} if make is one_network else {}))
        into = data(passes_per_epoch=1 if make is one_network else 2)
        options = {**QUIET, "default_root_dir": tmp_path}
        trainer = Trainer(max_epochs=4, callbacks=[SeedEveryBatch(3), *watchers], **options)
        trainer.fit(module.double(), datamodule=into)
        assert ("train/fit_given" in trainer.callback_metrics) == bool(watchers)
        trained.append(module.state_dict())
    assert watchers[0].history.counts.shape[0] == 4
    assert (watchers[0].history.counts.sum(dim=(1, 2)) > 0).all()
    for name, value in trained[0].items():
        assert torch.equal(trained[1][name], value), name


def test_logits_that_are_watched_are_those_of_training_and_leave_no_trace() -> None:
    module = one_network(batch_norm=True, **PLAIN)
    before = copy.deepcopy(module.network.state_dict())
    image = torch.rand(7, 1, 1, 24)
    logits = logits_without_trace(module.network, image)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(logits, module.network(image))
    assert not logits.requires_grad


# the sweep


def test_a_sweep_judges_each_image_once_in_its_own_order_and_leaves_the_network_as_it_was() -> None:
    module = one_network(batch_norm=True, **NOISY)
    trainer = fit(module, 1)
    before = copy.deepcopy(module.state_dict())
    found = sweep(trainer, module.network, nn.Identity(), "3", module.images.guesses[0])
    assert found is not None
    source = data().images.prepared(3, torch.device("cpu")).training()
    module.eval()
    image = source.image.double() / 255
    logits = module(image)
    guess = module.images.guesses[0].gathered()
    loss = F.cross_entropy(logits, source.label, reduction="none")
    assert (guess.sum(dim=1) > 0.999).sum() == 200  # the last of 201 samples is in no batch of the epoch
    unseen = guess.sum(dim=1) == 0
    guess[unseen] = F.one_hot(source.label[unseen], 6).double()
    np.testing.assert_allclose(found.loss, loss.detach(), rtol=1e-10)
    np.testing.assert_allclose(found.pseudo_loss, -(guess * logits.log_softmax(dim=1)).sum(dim=1).detach(), rtol=1e-10)
    hidden = module.network.network[:4](module.network.normalized(image))
    np.testing.assert_allclose(found.feature, F.normalize(hidden, dim=1).detach(), rtol=1e-10)
    assert found.wrong is not None
    np.testing.assert_array_equal(found.wrong, np.arange(201) >= 120)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_true_labels_a_sweep_knows_nothing_of_them() -> None:
    module: Any = PLSLSA(MLP(64, [8], 10), 10, **PLAIN, feature_layer="layers.1", optimizer=sgd)
    trainer = fit(module, 1, LabelledImages(Digits(), batch_size=400))
    found = sweep(trainer, module.network, nn.Identity(), "layers.1", module.images.guesses[0])
    assert found is not None
    assert found.wrong is None
    assert set(trainer.callback_metrics) == {"train/loss", "train/classification", "train/contrast", "train/noisy"}


def test_of_a_set_that_is_verified_in_part_a_sweep_says_nothing_of_the_truth() -> None:
    module, into = one_network(**NOISY), data()
    trainer = fit(module, 1, into)
    assert into.train_set is not None
    assert into.train_set.clean_label is not None
    into.train_set.clean_label[7] = UNVERIFIED
    found = sweep(trainer, module.network, nn.Identity(), "3", module.images.guesses[0])
    assert found is not None
    assert found.wrong is None


def test_verdicts_and_weights_are_those_of_the_sweep_and_detectors_take_turns() -> None:
    module = one_network(**NOISY, threshold=0.6)
    verdicts: list[tuple[Any, Any]] = []
    end = module.on_train_epoch_end

    def watched() -> None:
        table = sweep(module.trainer, module.network, nn.Identity(), "3", module.images.guesses[0])
        end()
        verdicts.append((table, copy.deepcopy(module.images)))

    module.on_train_epoch_end = watched
    fit(module, 4)
    differ = 0
    for epoch, (table, images) in enumerate(verdicts):
        inputs = (table.loss, table.pseudo_loss, table.feature, 0.6)
        expected, other = (
            detect(each, *inputs) for each in (("linear", "loss") if epoch % 2 == 0 else ("loss", "linear"))
        )
        np.testing.assert_array_equal(images.is_noisy, expected.is_noisy)
        np.testing.assert_allclose(images.weight, expected.weight, rtol=1e-6)
        differ += (expected.is_noisy != other.is_noisy).any()
    assert differ >= 2


def test_warm_up_epochs_neither_detect_nor_guess_before_the_last() -> None:
    module = one_network(**NOISY, warmup_epochs=2)
    assert "train/noisy" not in fit(module, 1).callback_metrics
    assert not module.images.guesses[0].gathered().any()
    module = one_network(**NOISY, warmup_epochs=2)
    assert "train/noisy" in fit(module, 2).callback_metrics
    assert module.images.guesses[0].gathered().any()


def test_two_networks_flag_what_both_flag_with_the_guesses_of_the_other_ones_pass() -> None:
    module = two_networks(**NOISY, threshold=0.6)
    trainer = fit(module, 2)
    tables = [
        sweep(trainer, each, nn.Identity(), "3", guess)
        for each, guess in zip((module.network, module.second_network), reversed(module.images.guesses), strict=True)
    ]
    found = [detect("loss", each.loss, each.pseudo_loss, each.feature, 0.6) for each in tables if each is not None]
    both = agreement(*found)
    assert 0 < both.is_noisy.sum() < min(each.is_noisy.sum() for each in found)
    np.testing.assert_array_equal(module.images.is_noisy, both.is_noisy)
    np.testing.assert_allclose(module.images.weight, both.weight, rtol=1e-6)
    first, second = (guess.gathered() for guess in module.images.guesses)
    assert not torch.equal(first, second)


def test_each_pass_trains_one_of_two_networks() -> None:
    module = two_networks(**NOISY)
    initial = {name: value.detach().clone().double() for name, value in module.named_parameters()}
    halfway: dict[str, Tensor] = {}
    step = module.training_step

    def watched(batch: Any, batch_idx: int) -> Any:
        if batch_idx == 4:
            halfway.update({name: value.detach().clone() for name, value in module.named_parameters()})
        return step(batch, batch_idx)

    module.training_step = watched
    fit(module, 1)
    for name, value in module.named_parameters():
        if name.startswith("projections"):
            continue  # which are at rest in the first epoch
        second = name.startswith("second_network")
        assert torch.equal(halfway[name], initial[name]) == second, name
        assert torch.equal(value, halfway[name]) != second, name
    image = torch.rand(5, 1, 1, 24, dtype=torch.float64)
    torch.testing.assert_close(module(image), (module.network(image) + module.second_network(image)) / 2)


# what must not matter, and what must stay


def test_true_labels_are_for_metrics_alone_and_given_ones_are_never_changed() -> None:
    trained = []
    for known in (True, False):
        module, into = one_network(**NOISY, threshold=0.6), data()
        into.setup("fit")
        assert into.train_set is not None
        given = into.train_set.label.clone()
        if not known:
            into.train_set.clean_label = None
        fit(module, 3, into)
        assert torch.equal(into.train_set.label, given)
        trained.append(module.state_dict())
    for name, value in trained[0].items():
        assert torch.equal(trained[1][name], value), name


@pytest.mark.parametrize("make", [one_network, two_networks])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(make: Any, tmp_path: Path) -> None:
    whole, first, second = (make(**NOISY, threshold=0.6) for _ in range(3))
    fit(whole, 4)
    trainer = fit(first, 2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert first.images.is_noisy.any()
    fit(second, 4, checkpoint=tmp_path / "two.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    for key, value in saved(whole.images).items():
        other = saved(second.images)[key]
        for ours, theirs in zip(
            *((each if isinstance(each, list) else [each]) for each in (value, other)), strict=True
        ):
            assert torch.equal(ours, theirs), key


def test_state_of_another_training_set_is_refused() -> None:
    of_ten, of_eleven = TrainingImages(6, 1), TrainingImages(6, 1)
    of_ten.allocate(10, "cpu", torch.float32)
    of_eleven.restore({"images": saved(of_ten)})
    with pytest.raises(ValueError, match="per-sample state"):
        of_eleven.allocate(11, "cpu", torch.float32)


def test_a_corrected_step_of_a_convolutional_network_never_waits_for_the_device() -> None:
    """On the meta device there are no values to wait for; the network is that of the paper at its own scale."""
    with torch.device("meta"):
        body = Normalized(PreActResNet18(10), [0.5] * 3, [0.25] * 3)
        module = PLSLSA(body, 10, WeakView(), ContrastiveView(), StrongView(), penalty=True, confidence_contrast=True)
    module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]

    module.trainer = Standing(5)  # type: ignore[assignment]
    module.images.allocate(100, "meta", torch.float32)
    batch: Any = {"image": torch.empty(8, 3, 32, 32, device="meta"), "global_size": 8}
    batch |= {key: torch.empty(8, dtype=torch.int64, device="meta") for key in ("label", "index")}
    outputs = module.training_step(batch, 0)
    outputs["loss"].backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not outputs["logits"].requires_grad


# features


def test_features_are_what_the_classifier_and_the_named_layer_have() -> None:
    body = Normalized(PreActResNet18(10), [0.5] * 3, [0.25] * 3).eval()
    image = torch.rand(2, 3, 32, 32)
    logits, features = logits_and_features(body, image)
    torch.testing.assert_close(features, body.forward_features(image))
    torch.testing.assert_close(logits, body(image))
    assert named_layer(body, "layer2") is body.network.layer2
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = maps.mean(dim=(2, 3))
    torch.testing.assert_close(pooled(maps), expected)
    torch.testing.assert_close(pooled(maps.flatten(2).mT), pooled(maps))


def test_the_encoder_is_the_network_without_its_classifier() -> None:
    module = one_network(**PLAIN)
    encoder = module.encoder
    image = torch.rand(3, 1, 1, 24)
    torch.testing.assert_close(encoder(image), logits_and_features(module.network, image)[1])
    shared = {id(parameter) for parameter in module.network.parameters()}
    assert {id(parameter) for parameter in encoder.parameters()} < shared
    assert logits_and_features(module.network, image)[0].shape == (3, 6)


def test_simclr_is_a_first_stage_whose_features_the_module_begins_with() -> None:
    module = one_network(**NOISY)
    head = copy.deepcopy(module.network.network[-1].state_dict())
    pretrained = SimCLR(network(), 6, AddedNoise(0.05), hidden_features=16, projection_features=8, optimizer=sgd)
    drawn = copy.deepcopy(pretrained.network.state_dict())
    stage = Pretraining(pretrained, data(), max_epochs=2)
    trainer = Trainer(max_epochs=1, limit_train_batches=0, callbacks=[stage], **{**QUIET, "precision": "32-true"})
    trainer.fit(module, datamodule=data())
    for name, value in pretrained.network.state_dict().items():
        is_head = name.startswith("network.4.")
        assert torch.equal(value, drawn[name]) == is_head, name
        own = module.network.state_dict()[name]
        assert torch.equal(own, head[name.removeprefix("network.4.")] if is_head else value), name


def test_a_sweep_reads_guesses_and_leaves_them() -> None:
    guess = PerSample(2).allocate(4, "cpu")
    from lightning_modules.noisy_labels.lsa.training_images import keep_old

    guess.update(torch.tensor([1]), torch.tensor([[0.25, 0.75]]), lambda old, new: new)
    read = guess.update(torch.tensor([1, 3]), torch.ones(2, 2), keep_old)
    assert torch.equal(read, torch.tensor([[0.25, 0.75], [0, 0]]))
    assert not guess.gathered()[3].any()


# pre-trained towers


@pytest.mark.parametrize(("make", "num_heads"), [(one_network, 2), (two_networks, 4)])
def test_heads_may_learn_faster_and_the_schedule_is_of_all(make: Any, num_heads: int) -> None:
    module = make(**PLAIN, head_lr_factor=100.0, lr_scheduler=lambda each: CosineSchedule(each, 3))
    [optimizer], [schedule] = module.configure_optimizers()
    body, heads = optimizer.param_groups
    assert len(heads["params"]) == 2 * num_heads
    assert len(body["params"]) + len(heads["params"]) == len(list(module.parameters()))
    assert {tuple(parameter.shape) for parameter in heads["params"]} == {(6, 16), (6,), (8, 16), (8,)}
    assert heads["lr"] == pytest.approx(100 * body["lr"])
    optimizer.step()
    schedule["scheduler"].step()
    assert body["lr"] == pytest.approx(0.05 * (1 + np.cos(np.pi / 2)) / 2)
    assert heads["lr"] == pytest.approx(100 * body["lr"])
    assert len(make(**PLAIN).configure_optimizers()[0][0].param_groups) == 1


def test_a_classifier_on_unit_embeddings_ignores_their_length() -> None:
    tower = nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=False))
    body = UnitEmbeddingClassifier(tower, 5, 3)
    image = torch.rand(2, 1, 2, 2)
    torch.testing.assert_close(body(image), body(7 * image))
    logits, features = logits_and_features(body, image)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert logits.shape == (2, 3)


# refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("detectors", []), ("detectors", ["small"]), ("threshold", 1.0), ("warmup_epochs", 0), ("gamma", 0.0)),
        *(("guess_views", 0), ("mixup_alpha", -1.0), ("contrast_weight", -1.0), ("temperature", 0.0)),
        *(("projection_features", 0), ("feature_layer", "layer2"), ("head_lr_factor", 0.0)),
    ],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        one_network(**{**PLAIN, key: value})


def test_a_name_of_several_layers_is_refused() -> None:
    twice = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2)), "b": nn.Sequential(nn.Linear(2, 2))})
    with pytest.raises(ValueError, match="2 layers named 0"):
        named_layer(twice, "0")


@pytest.mark.parametrize(
    ("make", "into", "message"),
    [
        (one_network, {"augmentation": {"flip": True}}, "PLSLSA draws its own views: data.augmentation.flip must be"),
        (two_networks, {"passes_per_epoch": 1}, "PLSLSAPlus needs data.passes_per_epoch 2"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_name(make: Any, into: dict[str, Any], message: str) -> None:
    into = {key: Augmentation(**value) if key == "augmentation" else value for key, value in into.items()}
    with pytest.raises(ValueError, match=message):
        fit(make(**PLAIN), 1, data(**into))
