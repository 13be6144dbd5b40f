import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.early_learning.watch import EarlyLearning
from callbacks.guards.seeding import SeedEveryBatch
from lightning_modules.backbones.layer_features import logits_and_features, named_layer, pool_features
from lightning_modules.networks.preact_resnet import PreActResNet18
from lightning_modules.networks.unit_embedding import UnitEmbeddingClassifier
from lightning_modules.noisy_labels.lsa.correction_steps import Correction, Heads, logits_without_trace
from lightning_modules.noisy_labels.lsa.detection import Detection, agreement, detect
from lightning_modules.noisy_labels.lsa.objective import StepLoss, sharpen
from lightning_modules.noisy_labels.lsa.training_images import sweep
from lightning_modules.optim.schedules import CosineSchedule
from tests.noisy_labels.lsa.small import NOISY, PLAIN, Step, data, fit, one_network, two_networks

SENSITIVE = Detection(threshold=0.6, feature_layer="3")


def classification(z: Tensor, t: Tensor, u: Tensor) -> Tensor:
    return -(u[:, None] * t * z.log_softmax(dim=1)).sum() / u.sum()


def contrastive(h: Tensor, other: Tensor, a: Tensor, temperature: float = 0.2) -> Tensor:
    similarity = F.normalize(h, dim=1) @ F.normalize(other, dim=1).T / temperature
    return F.cross_entropy(similarity, a / a.sum(dim=1, keepdim=True))


def same(t: Tensor) -> Tensor:
    return (t.argmax(dim=1)[:, None] == t.argmax(dim=1)).double()


@pytest.mark.parametrize("penalty", [False, True])
def test_a_corrected_step_is_the_equations(penalty: bool) -> None:
    loss = StepLoss(penalty, contrast_weight=0.7, temperature=0.3, mixup_alpha=0.0)
    step = Step(one_network(**{**PLAIN, "loss": loss}, correction=Correction(gamma=3.0)))
    z, features = logits_and_features(step.module.network, step.batch["image"])
    guess = z.softmax(dim=1) ** 3 / (z.softmax(dim=1) ** 3).sum(dim=1, keepdim=True)
    t, h = step.target(guess), step.module.projections[0](features)
    expected = classification(z, t, step.weight) + 0.7 * contrastive(h, h, same(t), 0.3)
    if penalty:
        expected = expected + (1 / 6 / z.softmax(dim=1).mean(dim=0)).log().mean()
    step.expect(expected)
    torch.testing.assert_close(step.kept_guess(0), guess.detach())


def test_pls_guesses_from_several_views_and_draws_doubtful_images_to_themselves() -> None:
    loss = StepLoss(penalty=True, confidence=True, mixup_alpha=0.0)
    step = Step(one_network(**{**PLAIN, "loss": loss}, correction=Correction(guess_views=2)))
    z, features = logits_and_features(step.module.network, step.batch["image"])
    u, h = step.weight, step.module.projections[0](features)
    t = step.target(sharpen(z.softmax(dim=1), 2.0))
    rows = torch.cat([u[:, None] * F.one_hot(t.argmax(dim=1), 6), torch.diag(1 - u)], dim=1)
    penalty = (1 / 6 / z.softmax(dim=1).mean(dim=0)).log().mean()
    step.expect(classification(z, t, u) + penalty + contrastive(h, h, rows @ rows.T))


class Shifted(nn.Module):
    """An augmentation that shifts images by a larger distance in each call."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.calls = by, 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return image + self.by * self.calls


@pytest.mark.parametrize("strong_view", [Shifted(0.25), None])
@pytest.mark.parametrize("guess_views", [1, 2])
def test_each_view_goes_where_it_belongs(guess_views: int, strong_view: Shifted | None) -> None:
    """Clean images use the first weak view, noisy ones the strong view if any; guesses use the second view or both.

    PLS has no strong view, and its authors train noisy images on the first of the two views that produce the guess.
    """
    views = {"weak_view": Shifted(0.1), "strong_view": copy.copy(strong_view), "contrastive_view": Shifted(-0.125)}
    step = Step(one_network(**{**PLAIN, **views}, correction=Correction(guess_views=guess_views)))
    image, network = step.batch["image"], step.module.network
    predicted = [network(image + shift).softmax(dim=1) for shift in ((0.2,) if guess_views == 1 else (0.1, 0.2))]
    t = step.target(sharpen(torch.stack(predicted).mean(dim=0), 2.0))
    shift = torch.full((50, 1, 1, 1), 0.1, dtype=torch.float64)
    if strong_view:
        shift[step.noisy] = 0.25
    z, features = logits_and_features(network, image + shift)
    _, others = logits_and_features(network, image - 0.125)
    h, other = step.module.projections[0](features), step.module.projections[0](others)
    step.expect(classification(z, t, step.weight) + contrastive(h, other, same(t)))


def test_the_step_of_two_networks_is_that_of_one_with_the_guess_of_both() -> None:
    step = Step(two_networks(**PLAIN))  # the step is in the first half of an epoch
    first, second = step.module.network, step.module.second_network
    predicted = [each(step.batch["image"]).softmax(dim=1) for each in (first, second)]
    guess = sharpen((predicted[0] + predicted[1]) / 2, 2.0)
    z, features = logits_and_features(first, step.batch["image"])
    t, h = step.target(guess), step.module.projections[0](features)
    step.expect(classification(z, t, step.weight) + contrastive(h, h, same(t)))
    torch.testing.assert_close(step.kept_guess(0), guess.detach())
    assert not step.kept_guess(1).any()


def test_the_first_epochs_are_plain_cross_entropy_and_each_of_two_networks_guesses_alone() -> None:
    step = Step(two_networks(**PLAIN), epoch=0)
    image, label = step.batch["image"], step.batch["label"]
    for which, network in enumerate((step.module.network, step.module.second_network)):
        step.outputs = step.module.training_step(step.batch, which)  # the epoch has two batches
        logits = network(image)
        step.expect(F.cross_entropy(logits, label))
        torch.testing.assert_close(step.outputs["logits"], logits.detach())
        torch.testing.assert_close(step.kept_guess(which), sharpen(logits.softmax(dim=1), 2.0).detach())
    step = Step(one_network(**PLAIN), epoch=0)
    step.expect(F.cross_entropy(step.module.network(image), label))


class Watching(EarlyLearning):
    """A user's own subclass of the callback, which the module must also recognise."""


@pytest.mark.parametrize("make", [one_network, two_networks])
def test_early_learning_sees_every_epoch_and_changes_none(make: Any, tmp_path: Path) -> None:
    watcher = Watching()
    trained = [make(**NOISY, correction=Correction(warmup_epochs=3), batch_norm=True) for _ in range(2)]
    for module, watchers in zip(trained, ([], [watcher]), strict=True):
        trainer = fit(module, 4, callbacks=[SeedEveryBatch(3), *watchers], default_root_dir=tmp_path)
        assert ("train/fit_given" in trainer.callback_metrics) == bool(watchers)
    assert (watcher.history.counts.sum(dim=(1, 2)) > 0).tolist() == [True] * 4
    torch.testing.assert_close(trained[1].state_dict(), trained[0].state_dict(), rtol=0, atol=0)


def test_logits_that_are_watched_are_those_of_training_and_leave_no_trace() -> None:
    network = one_network(batch_norm=True, **PLAIN).network
    before, image = copy.deepcopy(network.state_dict()), torch.rand(7, 1, 1, 24)
    logits = logits_without_trace(network, image)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(logits, network(image))
    assert not logits.requires_grad


def test_verdicts_and_weights_are_those_of_the_sweep_and_detectors_take_turns() -> None:
    module = one_network(**NOISY, detection=SENSITIVE)
    end, found, others = module.on_train_epoch_end, [], []

    def watched() -> None:
        table = sweep(module.trainer, module.network, nn.Identity(), "3", module.images.guesses[0])
        linear, loss = (detect(name, table.loss, table.pseudo_loss, table.feature, 0.6) for name in ("linear", "loss"))
        expected, other = (linear, loss) if len(found) % 2 == 0 else (loss, linear)
        end()
        np.testing.assert_array_equal(module.images.is_noisy, expected.is_noisy)
        np.testing.assert_allclose(module.images.weight, expected.weight, rtol=1e-6)
        found.append(expected.is_noisy)
        others.append(other.is_noisy)

    module.on_train_epoch_end = watched
    fit(module, 4)
    assert (np.array(found) != np.array(others)).any(axis=1).sum() >= 2


def test_warm_up_epochs_neither_detect_nor_guess_before_the_last() -> None:
    for epochs in (1, 2):
        module = one_network(**NOISY, correction=Correction(warmup_epochs=2))
        assert ("train/noisy" in fit(module, epochs).callback_metrics) == (epochs == 2)
        assert bool(module.images.guesses[0].gather().any()) == (epochs == 2)


def test_two_networks_flag_what_both_flag_with_the_guesses_of_the_other_ones_pass() -> None:
    module = two_networks(**NOISY, detection=SENSITIVE)
    trainer = fit(module, 2)
    found = []
    for network, guess in zip(module.networks(), reversed(module.images.guesses), strict=True):
        table = sweep(trainer, network, nn.Identity(), "3", guess)
        assert table is not None
        found.append(detect("loss", table.loss, table.pseudo_loss, table.feature, 0.6))
    both = agreement(*found)
    assert 0 < both.is_noisy.sum() < min(each.is_noisy.sum() for each in found)
    np.testing.assert_array_equal(module.images.is_noisy, both.is_noisy)
    np.testing.assert_allclose(module.images.weight, both.weight, rtol=1e-6)
    first, second = (guess.gather() for guess in module.images.guesses)
    assert not torch.equal(first, second)


def test_each_pass_trains_one_of_two_networks() -> None:
    module, states = two_networks(**NOISY), []
    step = module.training_step

    def watched(batch: Any, batch_idx: int) -> Any:
        if batch_idx in (0, 4):
            states.append(copy.deepcopy(module.state_dict()))
        return step(batch, batch_idx)

    module.training_step = watched
    fit(module, 1)
    initial, halfway = states
    for name, value in module.named_parameters():
        if not name.startswith("projections"):  # they are not trained in the first epoch
            second = name.startswith("second_network")
            assert torch.equal(halfway[name], initial[name]) == second, name
            assert torch.equal(value, halfway[name]) != second, name
    image = torch.rand(5, 1, 1, 24, dtype=torch.float64)
    torch.testing.assert_close(module(image), (module.network(image) + module.second_network(image)) / 2)


def test_true_labels_are_for_metrics_alone_and_given_ones_are_never_changed() -> None:
    trained = []
    for known in (True, False):
        module, into = one_network(**NOISY, detection=SENSITIVE), data()
        into.setup("fit")
        assert into.train_set is not None
        given = into.train_set.label.clone()
        into.train_set.clean_label = into.train_set.clean_label if known else None
        fit(module, 3, into)
        assert torch.equal(into.train_set.label, given)
        trained.append(module.state_dict())
    torch.testing.assert_close(trained[1], trained[0], rtol=0, atol=0)


@pytest.mark.parametrize(("make", "num_heads"), [(one_network, 2), (two_networks, 4)])
def test_heads_may_learn_faster_and_the_schedule_is_of_all(make: Any, num_heads: int) -> None:
    module = make(**PLAIN, heads=Heads(8, 100.0), lr_scheduler=lambda each: CosineSchedule(each, 3))
    [optimizer], [schedule] = module.configure_optimizers()
    body, heads = optimizer.param_groups
    shapes = sorted(tuple(parameter.shape) for parameter in heads["params"])
    assert shapes == sorted([(6, 16), (6,), (8, 16), (8,)] * (num_heads // 2))
    assert len(body["params"]) + len(heads["params"]) == len(list(module.parameters()))
    optimizer.step()
    schedule["scheduler"].step()
    assert body["lr"] == pytest.approx(0.05 * (1 + np.cos(np.pi / 2)) / 2)
    assert heads["lr"] == pytest.approx(100 * body["lr"])
    assert len(make(**PLAIN).configure_optimizers()[0][0].param_groups) == 1


def test_a_layer_is_found_by_its_name_and_pooled_and_the_encoder_is_what_the_classifier_is_given() -> None:
    body = PreActResNet18(10).eval()
    image, maps = torch.rand(2, 3, 32, 32), torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(logits_and_features(body, image), (body(image), body.forward_features(image)))
    torch.testing.assert_close(pool_features(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(pool_features(maps.flatten(2).mT), maps.mean(dim=(2, 3)))
    assert named_layer(body, "layer2") is body.layer2
    with pytest.raises(ValueError, match="2 layers named 0"):
        named_layer(nn.ModuleDict({"a": nn.Sequential(nn.ReLU()), "b": nn.Sequential(nn.ReLU())}), "0")
    module, image = one_network(**PLAIN), torch.rand(3, 1, 1, 24)
    torch.testing.assert_close(module.encoder(image), logits_and_features(module.network, image)[1])
    assert {*module.encoder.parameters()} < {*module.network.parameters()}


def test_a_classifier_on_unit_embeddings_ignores_their_length() -> None:
    body = UnitEmbeddingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=False)), 5, 3)
    image = torch.rand(2, 1, 2, 2)
    torch.testing.assert_close(body(image), body(7 * image))
    logits, features = logits_and_features(body, image)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert logits.shape == (2, 3)
