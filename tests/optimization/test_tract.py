"""TrAct's gradient compared with its closed form, its optimality, its limits, and plain layers."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from timm.layers import Conv2dSame
from torch import Tensor, nn

from lightning_modules.baselines import CrossEntropy
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.optimization import tract
from lightning_modules.optimization.tract import TrAct, TrActConv2d, TrActLinear, layer_rows, train_pre_activations
from tests.numbers import numbers

RIDGE = 0.1


def gradients(layer: nn.Module, inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a mean loss with respect to weights and inputs; layer and inputs are not changed."""
    inputs = inputs.clone().requires_grad_()
    output = layer(inputs)
    ((output - target) ** 2).flatten(1).sum(dim=1).mean().backward()
    found = {name: parameter.grad.clone() for name, parameter in layer.named_parameters() if parameter.grad is not None}
    layer.zero_grad()
    assert inputs.grad is not None
    return {**found, "input": inputs.grad, "output": output.detach()}


def expected(plain: Tensor, rows: Tensor, ridge: float = RIDGE) -> Tensor:
    gram = rows.T @ rows / len(rows)
    return (plain.flatten(1) @ torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=torch.float64))).view_as(
        plain
    )


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "many rows": (nn.Linear(6, 4), (20, 6)),
    "few rows": (nn.Linear(30, 4), (7, 30)),
    "tokens": (nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "conv": (nn.Conv2d(3, 5, 3, stride=2, padding=1), (4, 3, 9, 8)),
    "dilated": (nn.Conv2d(2, 5, (3, 2), stride=(1, 2), padding=(2, 0), dilation=2, bias=False), (4, 2, 9, 8)),
    "few patches": (nn.Conv2d(3, 5, 8), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at_once", [1, tract.AT_ONCE])
def test_the_weight_gets_the_closed_form_and_all_else_is_the_plain_layers(
    case: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tract, "AT_ONCE", at_once)
    plain, shape = CASES[case]
    plain = copy.deepcopy(plain).double()
    changed = nn.Sequential(copy.deepcopy(plain))
    assert train_pre_activations(changed, None, RIDGE) == "0"
    inputs = numbers(*shape)
    target = numbers(*plain(inputs).shape, seed=1)
    ours, theirs = gradients(changed[0], inputs, target), gradients(plain, inputs, target)
    rows = torch.cat(list(layer_rows(plain, inputs)))  # type: ignore[arg-type]
    torch.testing.assert_close(ours.pop("weight"), expected(theirs.pop("weight"), rows), rtol=1e-9, atol=1e-12)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert changed.state_dict().keys() == nn.Sequential(plain).state_dict().keys()


def test_both_forms_of_the_inverse_agree() -> None:
    rows, gradient = numbers(8, 11), numbers(3, 11, seed=1)
    wide = tract.precondition_gradient(gradient, tract.cholesky_factor(rows @ rows.T, RIDGE * 8), rows, RIDGE)
    tall = tract.precondition_gradient(gradient, tract.cholesky_factor(rows.T @ rows / 8, RIDGE), None, RIDGE)
    torch.testing.assert_close(wide, tall, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at_once", [1, tract.AT_ONCE])
def test_the_matrix_that_is_solved_is_the_smaller_one(case: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, factored = [], tract.cholesky_factor

    def seen(matrix: Tensor, shift: float) -> Tensor:
        sizes.append(len(matrix))
        return factored(matrix, shift)

    monkeypatch.setattr(tract, "AT_ONCE", at_once)
    monkeypatch.setattr(tract, "cholesky_factor", seen)
    layer, shape = CASES[case]
    rows = torch.cat(list(layer_rows(layer, numbers(*shape).float())))  # type: ignore[arg-type]
    changed = nn.Sequential(copy.deepcopy(layer))
    train_pre_activations(changed, None, RIDGE)
    changed(numbers(*shape).float())
    assert sizes == [min(rows.shape)]


def test_the_step_is_the_best_one_for_the_pre_activations() -> None:
    rows, toward = numbers(20, 6), numbers(20, 4, seed=1)
    step = (-expected(toward.T @ rows, rows)).requires_grad_()

    def objective(step: Tensor) -> Tensor:
        return ((-20 * toward.T - step @ rows.T) ** 2).sum() + RIDGE * 20 * (step**2).sum()

    best = objective(step)
    (slope,) = torch.autograd.grad(best, step)
    assert float(slope.abs().max()) < 1e-10
    assert objective(step + 1e-3 * numbers(4, 6, seed=2)) > best


def weight_gradient(inputs: Tensor, ridge: float, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight's gradient in a TrAct layer and in a plain layer."""
    plain = nn.Linear(inputs.shape[1], target.shape[1], bias=False).double()
    nn.init.zeros_(plain.weight)
    layer = TrActLinear(copy.deepcopy(plain), ridge, sync_gram=False)
    return gradients(layer, inputs, target)["weight"], gradients(plain, inputs, target)["weight"]


def test_limits_whitening_and_scaling() -> None:
    inputs, target = numbers(12, 5), numbers(12, 3, seed=1)
    ours, plain = weight_gradient(inputs, 1e9, target)
    torch.testing.assert_close(1e9 * ours, plain, rtol=1e-6, atol=1e-8)
    white = torch.linalg.qr(inputs).Q * 12**0.5
    ours, plain = weight_gradient(white, 0.25, target)
    torch.testing.assert_close(ours, plain / 1.25)
    ours, _ = weight_gradient(inputs, RIDGE, target)
    scaled, _ = weight_gradient(3 * inputs, 9 * RIDGE, target)
    torch.testing.assert_close(scaled, ours / 3)
    square, target = numbers(5, 5), numbers(5, 3, seed=1)
    ours, plain = weight_gradient(square, 1e-12, target)
    toward = plain @ torch.linalg.inv(square)  # G^T
    torch.testing.assert_close(square @ ours.T / 5, toward.T, rtol=1e-6, atol=1e-6)


def test_one_hot_inputs_divide_each_tokens_gradient_by_its_frequency() -> None:
    token = torch.tensor([0, 0, 0, 1, 1, 2])
    ours, plain = weight_gradient(F.one_hot(token, 4).double(), RIDGE, numbers(6, 3))
    frequency = torch.tensor([3, 2, 1, 0]) / 6
    torch.testing.assert_close(ours, plain / (frequency + RIDGE).double())


def test_overwriting_the_pre_activations_gives_the_same_gradient() -> None:
    inputs, target = numbers(12, 5), numbers(12, 3, seed=1)
    layer = nn.Linear(5, 3).double()
    gram = inputs.T @ inputs / 12 + RIDGE * torch.eye(5, dtype=torch.float64)
    embedded = layer(inputs @ torch.linalg.inv(gram))
    embedded.data = layer(inputs).detach()
    ((embedded - target) ** 2).sum(dim=1).mean().backward()
    ours = gradients(TrActLinear(copy.deepcopy(layer), RIDGE, False), inputs, target)["weight"]
    assert layer.weight.grad is not None
    torch.testing.assert_close(ours, layer.weight.grad, rtol=1e-9, atol=1e-12)


def test_patches_as_large_as_the_stride_are_a_linear_layer() -> None:
    conv, inputs = nn.Conv2d(2, 3, 4, stride=4).double(), numbers(6, 2, 8, 8)
    target = numbers(6, 3, 2, 2, seed=1)
    ours = gradients(TrActConv2d(copy.deepcopy(conv), RIDGE, False), inputs, target)["weight"]
    linear = nn.Linear(32, 3).double()
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)  # type: ignore[arg-type]
    flat = inputs.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(6, 4, 32)
    same = gradients(TrActLinear(linear, RIDGE, False), flat, target.flatten(2).transpose(1, 2))["weight"]
    torch.testing.assert_close(ours.flatten(1), same, rtol=1e-9, atol=1e-12)


def test_half_precision_solves_in_single() -> None:
    layer = TrActLinear(nn.Linear(6, 4), 1e-4, sync_gram=False)
    inputs, target = numbers(20, 6).float(), numbers(20, 4, seed=1).float()
    exact = gradients(layer, inputs, target)["weight"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(inputs)
    ((half.float() - target) ** 2).sum(dim=1).mean().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_without_gradients_nothing_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = TrActLinear(nn.Linear(6, 4), RIDGE, sync_gram=False)
    monkeypatch.setattr(tract, "cholesky_factor", None)
    with torch.no_grad():
        layer(torch.rand(3, 6))
    with pytest.raises(TypeError):
        layer(torch.rand(3, 6))


@pytest.mark.parametrize("brightness", [0.1, 1.0, 30.0])
def test_bright_images_change_their_pre_activations_no_more_than_others(brightness: float) -> None:
    """A step of plain descent grows with the squared brightness b^2; TrAct's tends to 1 with b^2 |x|^2 / ridge."""
    patch = brightness * numbers(0, 1, 6)
    plain = nn.Linear(6, 3, bias=False).double()
    target = numbers(1, 1, 3) + plain(patch).detach()  # the gradient of the output is the same for all brightnesses
    norm = float((patch**2).sum())
    for layer, expected_change in ((plain, norm), (TrActLinear(plain, RIDGE, sync_gram=False), norm / (norm + RIDGE))):
        found = gradients(layer, patch, target)
        weight = next(found[name] for name in found if name.endswith("weight"))
        torch.testing.assert_close(patch @ weight.T, expected_change * 2 * (found["output"] - target))


def test_patches_of_photographs_are_regressed_at_rates_where_plain_descent_diverges() -> None:
    """The targets are a teacher's embeddings of the patches, whose covariance is ill-conditioned."""
    photographs = [torch.from_numpy(image).double().permute(2, 0, 1)[None] for image in load_sample_images().images]
    cut = torch.cat([F.unfold(image, 4, stride=7)[0].T for image in photographs])
    cut = (cut - cut.mean()) / cut.std()
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(32, 48, generator=random, dtype=torch.float64) / 48**0.5
    error = {}
    for kind, rates in (("plain", (0.01, 0.1)), ("tract", (0.1, 0.8))):
        for rate in rates:
            weight = nn.Linear(48, 32, bias=False).double()
            nn.init.zeros_(weight.weight)
            layer = weight if kind == "plain" else TrActLinear(weight, RIDGE, sync_gram=False)
            optimizer = torch.optim.SGD(layer.parameters(), lr=rate * 16)
            draws = torch.Generator().manual_seed(1)
            for _ in range(200):
                rows = cut[torch.randint(0, len(cut), (128,), generator=draws)]
                optimizer.zero_grad()
                ((layer(rows) - rows @ teacher.T) ** 2).mean().backward()
                optimizer.step()
            wrong = cut @ (layer.weight.detach() - teacher).T
            error[kind, rate] = float((wrong**2).mean() / ((cut @ teacher.T) ** 2).mean())
    assert not error["plain", 0.1] < 1  # diverges
    assert error["plain", 0.01] > 1e-2
    assert error["tract", 0.1] < 2e-3
    assert error["tract", 0.8] < 2e-4


def test_a_step_has_the_solved_gradient_of_the_loss() -> None:
    network = ConvNet(1, [3], 4).double()
    plain = copy.deepcopy(network)
    module = TrAct(network, num_classes=4, ridge=RIDGE).double()
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    assert module.first_layer == "conv1"
    image, label = numbers(6, 1, 5, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    batch: Any = {"image": image, "label": label, "index": torch.arange(6), "global_batch_size": 6}
    output = module.training_step(batch, 0)
    output["loss"].backward()
    loss = F.cross_entropy(plain(image), label)
    loss.backward()
    torch.testing.assert_close(output["loss"], loss)
    rows = F.unfold(image, 3, padding=1).transpose(1, 2).flatten(0, 1)
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        wanted = expected(theirs.grad, rows) if name == "conv1.weight" else theirs.grad
        torch.testing.assert_close(ours.grad, wanted, rtol=1e-9, atol=1e-12)
    assert not output["logits"].requires_grad


def test_views_and_soft_labels_are_those_of_plain_training_and_mixed_images_have_no_logits() -> None:
    network = ConvNet(1, [3], 4).double()
    batch: Any = {
        "image": numbers(6, 1, 5, 5),
        "label": torch.arange(6) % 4,
        "index": torch.arange(6),
        "global_batch_size": 6,
    }
    for arguments in (
        {"soft_labels": SoftLabels(0.0, 0.0, smoothing=0.1)},
        {"soft_labels": SoftLabels(0.8, 1.0), "binary": True},
        {"view": nn.Softsign()},
    ):
        steps = []
        for module in (TrAct(copy.deepcopy(network), 4, **arguments), CrossEntropy(network, 4, **arguments)):  # type: ignore[arg-type]
            module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
            torch.manual_seed(0)
            steps.append(module.double().training_step(batch, 0))
        torch.testing.assert_close(steps[0]["loss"], steps[1]["loss"])
        assert ("logits" in steps[0]) == ("binary" not in arguments)
    smooth = F.cross_entropy(network(batch["image"]), batch["label"], label_smoothing=0.1)
    module = TrAct(network, 4, soft_labels=SoftLabels(0.0, 0.0, smoothing=0.1))
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    torch.testing.assert_close(module.training_step(batch, 0)["loss"], smooth)
    viewed = F.cross_entropy(network(F.softsign(batch["image"])), batch["label"])
    torch.testing.assert_close(steps[0]["loss"], viewed)


GROUPS = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 2)),
            {"soft_labels": SoftLabels(smoothing=0.1), "binary": True},
            "soft_labels.smoothing must be 0 with binary: true, got 0.1",
        ),
        (nn.Sequential(nn.Linear(2, 2)), {"first_layer": "conv1"}, "conv1' matches no Linear or Conv2d.*has: 0"),
        (nn.Sequential(nn.ReLU()), {}, "it has: none"),
        (GROUPS, {}, "0 has groups 2"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), {}, "padding_mode 'reflect'"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), {}, "padding 'same'"),
        (nn.Sequential(nn.Linear(2, 2).requires_grad_(False)), {}, "0 is frozen"),
        (nn.Sequential(Conv2dSame(1, 1, 3)), {}, "first_layer: 0 is a Conv2dSame, whose computation differs"),
    ],
)
def test_what_does_not_fit_is_named(network: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrAct(network, num_classes=2, **arguments)
