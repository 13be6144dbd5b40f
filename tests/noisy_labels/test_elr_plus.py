import copy
import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import Symmetric
from datamodules.loading import Loading
from lightning_modules.losses.mixing import Mixing
from lightning_modules.networks.mlp import MLP
from lightning_modules.noisy_labels import elr_plus
from lightning_modules.noisy_labels.elr_plus import ELRPlus, averaging_decay, sigmoid_ramp, weighted_by_target
from tests.trainers import quiet


def test_ramp_goes_from_e_to_the_minus_5_to_one() -> None:
    values = [sigmoid_ramp(step, 40) for step in range(60)]
    assert values[0] == pytest.approx(math.exp(-5), rel=1e-12)
    assert values[40:] == [1.0] * 20
    assert all(a < b for a, b in itertools.pairwise(values[:41]))
    assert sigmoid_ramp(0, 0) == 1.0


def test_averaging_without_a_ramp_is_the_mean_of_all_weights_so_far() -> None:
    torch.manual_seed(0)
    values = torch.randn(20, dtype=torch.float64)
    average = torch.tensor(123.0, dtype=torch.float64)
    for step, value in enumerate(values, start=1):
        decay = averaging_decay(step, decay=0.9999, ramp_steps=None)
        average = decay * average + (1 - decay) * value
    # The initial value counts as one of the steps + 1 values.
    torch.testing.assert_close(average, (values.sum() + 123.0) / 21)


def test_ramped_averaging_begins_by_replacing_the_weights() -> None:
    assert averaging_decay(1, 0.997, 40000) == pytest.approx(0.997 * math.exp(-5 * (1 - 2 / 40000) ** 2))
    assert averaging_decay(50000, 0.997, 40000) == 0.997


def test_weighting_by_a_uniform_target_changes_nothing() -> None:
    label = torch.rand(4, 3, dtype=torch.float64).softmax(dim=1)
    torch.testing.assert_close(weighted_by_target(label, torch.full((4, 3), 0.2, dtype=torch.float64)), label)
    torch.testing.assert_close(weighted_by_target(label, torch.rand(4, 3).double()).sum(dim=1), torch.ones(4).double())


def two_networks(**options: float | bool | None) -> ELRPlus:
    torch.manual_seed(0)
    networks = [MLP(64, [16], 10) for _ in range(2)]
    return ELRPlus(*networks, num_classes=10, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), **options)


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("reweight_labels", [False, True])
@pytest.mark.parametrize(("weight", "ramp_steps"), [(1.0, 0), (0.7, 0), (0.7, 8)])
def test_value_and_gradient_of_a_step_are_elr_of_mixed_images_with_the_other_average_as_teacher(
    weight: float, ramp_steps: int, reweight_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elr_plus, "draw_mixing", lambda size, *_: Mixing(weight, torch.arange(size).roll(1)))
    module = two_networks(momentum=0.7, ramp_steps=ramp_steps, reweight_labels=reweight_labels)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    module.trainer = SimpleNamespace(num_training_batches=2)  # type: ignore[assignment]
    for targets in module.targets:
        targets.allocate(20, "cpu", torch.float64)
    image = torch.rand(5, 1, 8, 8)
    batch: Any = {
        "image": image,
        "label": torch.tensor([3, 1, 4, 1, 5]),
        "index": torch.arange(5),
        "global_batch_size": 5,
    }
    reference = copy.deepcopy(module)
    out = module.training_step(batch, 0)
    out["loss"].backward()

    def mixed(value: torch.Tensor) -> torch.Tensor:
        return weight * value + (1 - weight) * value.roll(1, dims=0)

    teacher = reference.averages[1](image)
    label, target = mixed(torch.eye(10)[batch["label"]]), mixed(0.3 * teacher.softmax(dim=1))
    if reweight_labels:
        label = label * target / (label * target).sum(dim=1, keepdim=True)
    logits = reference.network(mixed(image))
    p = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
    strength = 3.0 * (math.exp(-5 * (1 - 1 / ramp_steps) ** 2) if ramp_steps else 1.0)  # in the first step, n = 1
    expected = -(label * logits.log_softmax(dim=1)).sum(dim=1).mean()
    expected = expected + strength * (1 - (target.detach() * p).sum(dim=1)).log().mean()
    expected.backward()
    torch.testing.assert_close(out["loss"], expected, rtol=1e-12, atol=0)
    assert torch.equal(out["logits"], teacher)
    for own, other in zip(module.parameters(), reference.parameters(), strict=True):
        if other.grad is None:
            assert own.grad is None  # the second network and both averages get no gradient
        else:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("in_float64")
def test_each_network_ramps_its_term_by_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elr_plus, "draw_mixing", lambda size, *_: Mixing(1.0, torch.arange(size)))
    batch: Any = {"image": torch.rand(5, 1, 8, 8), "label": torch.arange(5), "index": torch.arange(5)}
    terms = {}
    for steps, ramp_steps, strength in (([3, 5], 8, 3.0), ([3, 5], 0, 3.0), ([3, 5], 8, 0.0)):
        module = two_networks(ramp_steps=ramp_steps, strength=strength)
        module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
        module.trainer = SimpleNamespace(num_training_batches=2)  # type: ignore[assignment]
        for targets in module.targets:
            targets.allocate(5, "cpu", torch.float64)
        module.steps = steps
        terms[ramp_steps, strength] = float(module.training_step(batch, 1)["loss"])
    ramped, whole = (terms[ramp_steps, 3.0] - terms[8, 0.0] for ramp_steps in (8, 0))
    assert ramped / whole == pytest.approx(math.exp(-5 * (1 - 6 / 8) ** 2), rel=1e-10)  # second network's sixth step


def test_each_pass_trains_one_network_and_its_average() -> None:
    module, states = two_networks(average_ramp_steps=None), []
    step = module.training_step

    def watching(batch, batch_idx):
        if batch_idx in (0, 13):
            states.append(copy.deepcopy(module.state_dict()))
        return step(batch, batch_idx)

    module.training_step = watching
    data = LabelledImages(Digits(), batch_size=100, loading=Loading(passes_per_epoch=2), label_noise=Symmetric(0.4))
    quiet(max_epochs=1).fit(module, data)
    assert module.steps == [13, 13]
    initial, halfway = states
    for name, value in module.named_parameters():
        second = name.startswith(("second_network", "averages.1"))
        assert torch.equal(halfway[name], initial[name]) == second, name
        assert torch.equal(value, halfway[name]) != second, name


@pytest.mark.parametrize(
    ("options", "passes", "message"),
    [({"accumulate_grad_batches": 2}, 2, "accumulate_grad_batches"), ({}, 1, "passes_per_epoch")],
)
def test_what_cannot_work_is_refused_by_name(options: dict, passes: int, message: str) -> None:
    trainer = quiet(max_epochs=1, **options)
    with pytest.raises(ValueError, match=message):
        trainer.fit(two_networks(), LabelledImages(Digits(), batch_size=100, loading=Loading(passes_per_epoch=passes)))
