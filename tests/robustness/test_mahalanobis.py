import copy
import functools
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import softmax

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits, UniformNoise
from datamodules.classification.out_of_distribution import OutOfDistribution
from lightning_modules.metrics.detection import detection_metrics, true_negative_rate
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.factories import timm_model
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.normalized import Normalized
from lightning_modules.random_numbers import drawn_like, generator_of
from lightning_modules.robustness.attacks.ascent import PGD
from lightning_modules.robustness.attacks.minimal import CarliniWagner, DeepFool
from lightning_modules.robustness.mahalanobis.ensemble import Sample, best_column, fit_ensemble, logistic_regression
from lightning_modules.robustness.mahalanobis.gaussians import (
    ClassGaussians,
    Whitened,
    confidence,
    squared_distances,
    standardized,
    whiten,
    with_new_class,
)
from lightning_modules.robustness.mahalanobis.layers import layer_features, named_layers, num_features
from lightning_modules.robustness.mahalanobis.local_dimension import NEIGHBOURS, in_mini_batches
from lightning_modules.robustness.mahalanobis.module import NOISE, Mahalanobis
from lightning_modules.robustness.mahalanobis.preprocessing import layer_confidence
from lightning_modules.robustness.mahalanobis.scores import (
    direction,
    energy_confidence,
    odin_confidence,
    softmax_confidence,
)

K, D, N = 3, 5, 60
QUIET: dict[str, Any] = {
    **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"accelerator": "cpu", "precision": "64-true", "use_distributed_sampler": False},
}
LAYERS = ["relu1", "relu2"]


def samples(seed: int = 0, rank: int = D) -> tuple[Tensor, Tensor]:
    """Features far from zero, of a covariance of this rank about different class means, and unequal classes."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(K, (N,), generator=random).clamp(max=K - 1)
    label[:K] = torch.arange(K)
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=random, dtype=torch.float64))
    mix = (q * torch.linspace(0.5, 2, D, dtype=torch.float64))[:, :rank] @ q[:rank]
    centre = 100 + 3 * torch.randn(K, D, generator=random, dtype=torch.float64)
    return centre[label] + torch.randn(N, D, generator=random, dtype=torch.float64) @ mix, label


def fitted(features: Tensor, label: Tensor) -> Whitened:
    gaussians = ClassGaussians(K, [features.shape[1]])
    gaussians.update([features], label)
    return gaussians.whitened(0)


def centred(features: Tensor, label: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Class means, and features about them, by a loop."""
    means = np.stack([features.numpy()[label == c].mean(0) for c in range(K)])
    return means, features.numpy() - means[label]


# statistics


@pytest.mark.parametrize("rank", [D, 3])
def test_statistics_are_scikit_learns(rank: int) -> None:
    features, label = samples(rank=rank)
    gaussians = ClassGaussians(K, [D])
    gaussians.update([features], label)
    means, rest = centred(features, label)
    estimate = EmpiricalCovariance(assume_centered=False).fit(rest)
    np.testing.assert_allclose(gaussians.means(0), means, rtol=1e-12)
    np.testing.assert_allclose(gaussians.covariance(0), estimate.covariance_, atol=1e-10)
    whitened = gaussians.whitened(0)
    assert whitened.rank == rank
    np.testing.assert_allclose(whitened.precision, estimate.precision_, rtol=1e-6, atol=1e-8)
    sigma, P = gaussians.covariance(0), whitened.precision
    torch.testing.assert_close(P @ sigma @ P, P, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(1, N - 1), max_size=5), offset=st.sampled_from([0, 1e6]))
def test_streaming_equals_two_passes_whatever_the_batches_and_their_order(
    seed: int, cuts: list[int], offset: float
) -> None:
    """At an offset of 1e6 sums of squares would have lost six digits more."""
    features, label = samples(seed % 1000)
    features = features + offset
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    gaussians = ClassGaussians(K, [2, D - 2])
    for rows in torch.tensor_split(order, sorted(cuts)):
        gaussians.update(features[rows].split([2, D - 2], dim=1), label[rows])
    means, rest = centred(features, label)
    sigma = rest.T @ rest / N
    scale = np.abs(sigma).max()
    tolerance = 1e-9 if offset == 0 else 1e-7
    np.testing.assert_allclose(torch.cat([gaussians.means(0), gaussians.means(1)], dim=1), means, rtol=1e-12)
    np.testing.assert_allclose(gaussians.covariance(0), sigma[:2, :2], atol=tolerance * scale)
    np.testing.assert_allclose(gaussians.covariance(1), sigma[2:, 2:], atol=tolerance * scale)
    assert torch.equal(gaussians.count, torch.bincount(label, minlength=K).double())


def test_statistics_take_the_memory_that_is_stated_and_stay_in_double_precision() -> None:
    gaussians = ClassGaussians(10, [64, 128])
    stated = 8 * (10 + 10 * 192 + 64**2 + 128**2)
    assert sum(buffer.numel() * buffer.element_size() for buffer in gaussians.buffers()) == stated
    gaussians.mean.fill_(1 + 1e-12)
    for moved in (gaussians.to(torch.bfloat16), gaussians.half(), gaussians.float()):
        assert moved.mean.dtype == torch.float64
        assert float(moved.mean[0, 0]) == 1 + 1e-12


@pytest.mark.parametrize("rank", [D, 3])
def test_distances_are_those_of_scipy_with_the_pseudo_inverse(rank: int) -> None:
    features, label = samples(rank=rank)
    means, rest = centred(features, label)
    precision = np.linalg.pinv(rest.T @ rest / N, hermitian=True, rcond=1e-12)
    whitened = fitted(features, label)
    x = features[:7] + torch.randn(7, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected = [[mahalanobis(row, mean, precision) ** 2 for mean in means] for row in x.numpy()]
    np.testing.assert_allclose(squared_distances(x, whitened), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(confidence(x, whitened), -0.5 * np.min(expected, axis=1), rtol=1e-9, atol=1e-10)
    own = squared_distances(torch.from_numpy(means), whitened).diagonal()
    assert float(own.max()) < 1e-9


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_distances_do_not_change_under_invertible_affine_maps(seed: int) -> None:
    features, label = samples(seed % 1000)
    random = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(D, D, generator=random, dtype=torch.float64))
    A = q * torch.linspace(0.5, 2, D, dtype=torch.float64)
    b = torch.randn(D, generator=random, dtype=torch.float64)
    mapped = features @ A + b
    distances = squared_distances(features, fitted(features, label))
    torch.testing.assert_close(squared_distances(mapped, fitted(mapped, label)), distances, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rank", [D, 3])
def test_the_mean_distance_to_the_own_class_is_the_rank(rank: int) -> None:
    features, label = samples(rank=rank)
    own = squared_distances(features, fitted(features, label)).gather(1, label[:, None])
    assert float(own.mean()) == pytest.approx(rank, rel=1e-9)


def test_standardised_confidence_of_a_gaussian_has_mean_zero_and_deviation_one() -> None:
    z = torch.randn(200_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = standardized(-0.5 * z.square().sum(dim=1), 8)
    assert float(value.mean()) == pytest.approx(0, abs=0.01)
    assert float(value.std()) == pytest.approx(1, abs=0.01)


def test_a_class_without_samples_attracts_nothing_and_shrinkage_gives_full_rank() -> None:
    features, label = samples(rank=3)
    gaussians = ClassGaussians(K + 1, [D])
    gaussians.update([features], label + (label > 0))  # class 1 is empty
    assert gaussians.whitened(0).classes.tolist() == [0, 2, 3]
    torch.testing.assert_close(
        squared_distances(features, gaussians.whitened(0)), squared_distances(features, fitted(features, label))
    )
    whitened = gaussians.whitened(0, shrinkage=0.1)
    sigma = gaussians.covariance(0)
    expected = torch.linalg.inv(0.9 * sigma + 0.1 * sigma.trace() / D * torch.eye(D, dtype=torch.float64))
    assert whitened.rank == D
    torch.testing.assert_close(whitened.precision, expected)


def test_a_new_class_of_the_same_covariance_leaves_it_and_equal_counts_give_the_joint_fit() -> None:
    features, _ = samples()
    label = torch.arange(N) % K
    sigma = torch.eye(D, dtype=torch.float64)
    same = math.sqrt(D) * torch.cat([sigma, -sigma])  # mean 0 and covariance I
    mean, updated = with_new_class(torch.zeros(2, D, dtype=torch.float64), sigma, same + 7)
    torch.testing.assert_close(updated, sigma)
    torch.testing.assert_close(mean[2], torch.full((D,), 7.0, dtype=torch.float64))
    old = label < K - 1
    gaussians, joint = ClassGaussians(K - 1, [D]), ClassGaussians(K, [D])
    gaussians.update([features[old]], label[old])
    joint.update([features], label)
    mean, updated = with_new_class(gaussians.means(0), gaussians.covariance(0), features[~old])
    torch.testing.assert_close(mean, joint.means(0))
    torch.testing.assert_close(updated, joint.covariance(0))


def test_digits_that_join_one_class_after_the_other_are_told_apart() -> None:
    """Digits 8 and 9, which the network has not seen, beside the eight that it knows, as a user would have it."""
    module, test = ready(), Digits(num_classes=8).test()
    mean, covariance = module.gaussians.means(1), module.gaussians.covariance(1)
    image, label = [test.image], [test.label]

    def features(image: Tensor) -> Tensor:
        with torch.no_grad():
            return layer_features(module.network, module.layers, image.double() / 16)[1][1]

    for digit in (8, 9):
        new = OtherDigits([digit]).of_no_class((1, 8, 8), 0).image
        mean, covariance = with_new_class(mean, covariance, features(new[::2]))
        image, label = [*image, new[1::2]], [*label, torch.full((len(new[1::2]),), digit)]
    whitened = whiten(mean, covariance, torch.ones(10, dtype=torch.bool))
    truth = torch.cat(label)
    right = squared_distances(features(torch.cat(image)), whitened).argmin(dim=1) == truth
    before = squared_distances(features(test.image), module.gaussians.whitened(1)).argmin(dim=1) == test.label
    assert float(right[truth < 8].double().mean()) > float(before.double().mean()) - 0.05
    assert float(right[truth >= 8].double().mean()) > 0.45  # chance is 0.1


# layers


def test_features_are_the_means_over_places_of_the_named_layers() -> None:
    network = ConvNet(1, [3, 4], 6).eval()
    image = torch.rand(5, 1, 8, 8)
    layers = named_layers(network, LAYERS)
    logits, features = layer_features(network, layers, image)
    first = network.relu1(network.conv1(image))
    torch.testing.assert_close(features[0], first.mean(dim=(2, 3)))
    torch.testing.assert_close(features[1], network.relu2(network.conv2(first)).mean(dim=(2, 3)))
    assert torch.equal(logits, network(image))
    assert num_features(network, layers, (1, 8, 8)) == [3, 4]
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_of_timm_models_are_named_inside_the_normalisation() -> None:
    network = timm_model("vit_tiny_patch16_224", num_classes=4, image_size=32)
    assert num_features(network, named_layers(network, ["blocks.0", "norm"]), (3, 32, 32)) == [192, 192]
    assert isinstance(network, Normalized)


def test_channels_may_be_last() -> None:
    """A layer of another order than it is said to have would give the means of its rows, or the rows themselves."""
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=4, img_size=32, window_size=2, embed_dim=6, depths=(1, 1),
        num_heads=(1, 2),
    ).eval()  # fmt: skip
    shape, names = (3, 32, 32), ["patch_embed.proj", "layers.0", "norm"]
    module = Mahalanobis(network, 4, names, shape, channels_last=["layers.0", "norm"])
    assert module.gaussians.num_features == [6, 6, 12]
    image = torch.rand(2, *shape)
    _, features = layer_features(network, module.layers, image)
    first = network.patch_embed.proj(image)
    torch.testing.assert_close(features[0], first.mean(dim=(2, 3)))
    last = network.forward_features(image)
    assert last.shape == (2, 4, 4, 12)
    torch.testing.assert_close(features[2], last.mean(dim=(1, 2)))
    for few, message in (
        (["layers.0"], r"norm gives \[2, 4, 4, 12\], which is no \[B, d, H, W\] .*, name it in channels_last"),
        (names, r"proj gives \[2, 6, 8, 8\], which is no \[B, H, W, d\] .*; leave it out of channels_last"),
    ):
        with pytest.raises(ValueError, match=message):
            num_features(network, named_layers(network, names, few), shape)
    with pytest.raises(ValueError, match=r"channels_last: layers\.1 is none of the layers, which are norm"):
        named_layers(network, ["norm"], ["layers.1"])


def test_what_is_no_layer_is_refused_with_the_names_that_there_are() -> None:
    network = ConvNet(1, [3, 4], 6)
    with pytest.raises(ValueError, match=r"no layer named relu3; did you mean .*relu2.*has: conv1, relu1"):
        named_layers(network, ["relu3"])
    with pytest.raises(ValueError, match=r"at least one, got \[\]; ConvNet has: conv1"):
        named_layers(network, [])
    with pytest.raises(ValueError, match="got relu1 twice"):
        named_layers(network, ["relu1", "relu1"])
    network.unused = nn.ReLU()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="unused has no part in the forward pass"):
        num_features(network, named_layers(network, ["unused"]), (1, 8, 8))
    network.relu2 = network.relu1
    with pytest.raises(ValueError, match="relu1 is used more than once"):
        num_features(network, named_layers(network, ["relu1"]), (1, 8, 8))
    with pytest.raises(ValueError, match=r"image_shape \[3, 8, 8\]: the network does not accept it"):
        num_features(network, named_layers(network, ["conv2"]), (3, 8, 8))


# input pre-processing


def smooth_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, K)).double().eval()


def of_network(network: nn.Module, names: list[str]) -> tuple[dict[str, nn.Module], list[Whitened], Tensor]:
    image = torch.rand(N, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layers = named_layers(network, names)
    with torch.no_grad():
        _, features = layer_features(network, layers, image)
    label = torch.arange(N) % K
    return layers, [fitted(part, label) for part in features], image


def test_confidence_without_preprocessing_is_minus_half_the_least_distance() -> None:
    network = smooth_network()
    layers, whitened, image = of_network(network, ["1", "2"])
    _, distances, M = layer_confidence(network, layers, whitened, image, [0.0])
    for place in range(2):
        torch.testing.assert_close(M[:, place, 0], -0.5 * distances[place].amin(dim=1), rtol=1e-10, atol=1e-10)
    _, _, both = layer_confidence(network, layers, whitened, image, [0.0, 0.01])
    torch.testing.assert_close(both[:, :, :1], M)


def test_a_small_step_raises_confidence_by_epsilon_times_the_l1_norm_of_its_gradient() -> None:
    network = smooth_network()
    layers, whitened, image = of_network(network, ["1", "2"])
    epsilon = 1e-6
    _, _, M = layer_confidence(network, layers, whitened, image, [0.0, epsilon])
    slope = (M[:, :, 1] - M[:, :, 0]) / epsilon
    for place in range(2):
        moving = image.clone().requires_grad_()
        _, features = layer_features(network, layers, moving)
        (gradient,) = torch.autograd.grad(confidence(features[place], whitened[place]).sum(), moving)
        torch.testing.assert_close(slope[:, place], gradient.flatten(1).abs().sum(1), rtol=1e-3, atol=1e-4)
    assert bool((M[:, :, 1] >= M[:, :, 0]).all())


def test_images_move_by_epsilon_and_sign_of_zero_is_one() -> None:
    """Only the first pixel matters, so the others have gradient zero and move down by epsilon."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Identity()).double()
    assert isinstance(network[1], nn.Linear)
    network[1].weight.data = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    whitened = Whitened(torch.zeros(1).long(), 0 * one, one[:, None], torch.zeros(1, 1, dtype=torch.float64))
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    image = torch.tensor([[0.5, 0.2, 0.0, 1.0]], dtype=torch.float64).view(1, 1, 2, 2)
    _, _, M = layer_confidence(network, named_layers(network, ["2"]), [whitened], image, [0.0, 0.1])
    torch.testing.assert_close(seen[-1].flatten(), torch.tensor([0.4, 0.1, -0.1, 0.9], dtype=torch.float64))
    torch.testing.assert_close(M.flatten(), torch.tensor([-0.125, -0.08], dtype=torch.float64))
    assert direction(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [-1, 1, 1]


def test_odin_without_temperature_and_perturbation_is_softmax_confidence() -> None:
    network, image = smooth_network(), torch.rand(6, 1, 4, 4, dtype=torch.float64)
    scores = odin_confidence(network, image, [1.0, 10.0], [0.0, 0.01])
    logits = network(image)
    torch.testing.assert_close(scores[:, 0, 0], softmax_confidence(logits), rtol=0, atol=1e-14)
    torch.testing.assert_close(scores[:, 1, 0], softmax(logits / 10, dim=1).amax(dim=1))
    assert bool((scores[:, :, 1] > scores[:, :, 0]).all())
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(energy_confidence(logits), logits.exp().sum(dim=1).log())


# metrics


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 1e-3, 1e6]))
def test_metrics_are_scikit_learns_whatever_the_scale_and_order(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    in_distribution = scale * torch.randn(50, generator=random, dtype=torch.float64)
    other = scale * (torch.randn(30, generator=random, dtype=torch.float64) - 1)
    found = detection_metrics(in_distribution, other)
    target, both = np.array([1] * 50 + [0] * 30), torch.cat([in_distribution, other]).numpy()
    assert found["auroc"] == pytest.approx(roc_auc_score(target, both), abs=1e-6)
    assert found["aupr_in"] == pytest.approx(average_precision_score(target, both), abs=1e-6)
    assert found["aupr_out"] == pytest.approx(average_precision_score(1 - target, -both), abs=1e-6)
    best = max(0.5 * float((in_distribution >= t).double().mean() + (other < t).double().mean()) for t in both)
    assert found["detection_accuracy"] == pytest.approx(max(best, 0.5), abs=1e-6)
    shuffled = in_distribution[torch.randperm(50, generator=random)], other[torch.randperm(30, generator=random)]
    assert detection_metrics(*shuffled) == found


def counted(in_distribution: list[float], other: list[float]) -> float:
    """TNR by the published procedure: inputs leave from the lowest, among equals those in distribution first."""
    left_in, left_out = sorted(in_distribution), sorted(other)
    best = (abs(1 - 0.95), 0.0)
    while left_in or left_out:
        if left_in and (not left_out or left_in[0] <= left_out[0]):
            left_in.pop(0)
        else:
            left_out.pop(0)
        tpr, tnr = len(left_in) / len(in_distribution), 1 - len(left_out) / len(other)
        if abs(tpr - 0.95) < best[0] - 1e-12:
            best = (abs(tpr - 0.95), tnr)
    return best[1]


@settings(deadline=None, max_examples=50)
@given(
    in_distribution=st.lists(st.integers(0, 20), min_size=1, max_size=60),
    other=st.lists(st.integers(-5, 15), min_size=1, max_size=30),
)
def test_true_negative_rate_is_that_of_the_published_procedure(in_distribution: list[int], other: list[int]) -> None:
    found = true_negative_rate(torch.tensor(in_distribution).double(), torch.tensor(other).double())
    assert float(found) == pytest.approx(counted([*map(float, in_distribution)], [*map(float, other)]))


def test_metrics_of_an_example_by_hand() -> None:
    in_distribution = torch.arange(1.0, 21)  # 95 % of 20 are above the lowest
    found = detection_metrics(in_distribution, torch.tensor([0.0, 0.5, 1.5, 30]))
    assert found["tnr95"] == pytest.approx(0.5)  # 0 and 0.5 lie below 1, the first that is rejected
    assert found["auroc"] == pytest.approx((20 + 20 + 19 + 0) / 80)
    assert found["detection_accuracy"] == pytest.approx(0.5 * (19 / 20 + 3 / 4))
    with pytest.raises(ValueError, match="other inputs has no entry"):
        detection_metrics(in_distribution, in_distribution[:0])
    with pytest.raises(ValueError, match="in-distribution inputs is NaN"):
        detection_metrics(in_distribution * float("nan"), in_distribution)


# ensemble


@pytest.mark.filterwarnings("ignore")
def test_logistic_regression_is_scikit_learns_with_its_usual_solver() -> None:
    from sklearn.linear_model import LogisticRegressionCV

    random = torch.Generator().manual_seed(0)
    in_distribution = torch.randn(40, 2, generator=random, dtype=torch.float64)
    other = torch.randn(40, 2, generator=random, dtype=torch.float64) - torch.tensor([1.0, 0.5])
    weight, bias = logistic_regression(in_distribution, other)
    target = np.array([0] * 40 + [1] * 40)
    usual = LogisticRegressionCV(cv=5, scoring="accuracy", tol=1e-8, max_iter=1000)
    usual.fit(torch.cat([in_distribution, other]).numpy(), target)
    np.testing.assert_allclose(weight, usual.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(bias, usual.intercept_[0], rtol=1e-3)


def test_the_ensemble_takes_the_layer_and_the_epsilon_that_tell_the_two_apart() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 60, 2, 3, generator=random, dtype=torch.float64)
    scores[1::2, :, 1, 2] -= 6  # others are far lower in layer 1 at the last epsilon
    ensemble = fit_ensemble(Sample(scores[0], scores[1]), Sample(scores[2], scores[3]), "tnr95")
    assert ensemble.column == 2
    assert abs(float(ensemble.weight[1])) > 3 * abs(float(ensemble.weight[0]))
    metrics = detection_metrics(ensemble.confidence(scores[2]), ensemble.confidence(scores[3]))
    assert metrics["auroc"] > 0.99
    assert best_column(scores[2, :, 1], scores[3, :, 1]) == 2
    with pytest.raises(ValueError, match="at least 2 inputs of either kind"):
        fit_ensemble(Sample(scores[0, :1], scores[1]), Sample(scores[2], scores[3]), "auroc")


# the module

Run = tuple[Mahalanobis, dict[str, float], Path]
FGSM = PGD("linf", 0.3, steps=1, step_size=0.3, random_start=False, name="fgsm")


@functools.cache
def trained() -> ConvNet:
    """Knows the digits 0 to 7 well enough to be fooled."""
    torch.manual_seed(0)
    network, source = ConvNet(1, [6, 8], 8), Digits(num_classes=8).training()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for step in range(60):
        rows = slice(step % 3, None, 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(source.image[rows] / 16), source.label[rows]).backward()
        optimizer.step()
    return network


def detector(**options: Any) -> Mahalanobis:
    network = copy.deepcopy(trained())
    network.zero_grad()
    return Mahalanobis(
        network, 8, LAYERS, (1, 8, 8), **{"epsilons": [0.0, 0.01], "num_validation": 40, "score": "mean", **options}
    )


def data(**options: Any) -> OutOfDistribution:
    ood = {"other": OtherDigits([8, 9]), "noise": UniformNoise(num_images=60)}
    return OutOfDistribution(ood, images=Digits(num_classes=8), **{"batch_size": 300, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    module = detector(attacks=[FGSM], odin=False)
    directory = tmp_path_factory.mktemp("run")
    trainer = Trainer(
        max_epochs=1,
        callbacks=[ModelCheckpoint(directory, filename="last", enable_version_counter=False)],
        default_root_dir=directory,
        **QUIET,
    )
    before = copy.deepcopy(module.network.state_dict())
    trainer.fit(module, datamodule=data())
    results = trainer.test(module, datamodule=data(), verbose=False)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, before[name].double()), name
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not module.network.training
    assert module.network.conv1.weight.requires_grad
    return module, {name: value for part in results for name, value in part.items()}, directory


def test_fit_gathers_the_statistics_of_all_training_images(run: Run) -> None:
    module, _, _ = run
    source = Digits(num_classes=8).training()
    with torch.no_grad():
        _, features = layer_features(module.network, module.layers, source.image.double() / 16)
    for place, part in enumerate(features):
        means = torch.stack([part[source.label == c].mean(0) for c in range(8)])
        rest = part - means[source.label]
        torch.testing.assert_close(module.gaussians.means(place), means, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(module.gaussians.covariance(place), rest.T @ rest / len(rest), rtol=1e-9, atol=1e-14)


def test_metrics_are_those_of_the_images_that_nothing_was_tuned_on(
    run: tuple[Mahalanobis, dict[str, float], Any],
) -> None:
    module, metrics, _ = run
    test = Digits(num_classes=8).test()
    other = OtherDigits([8, 9]).of_no_class((1, 8, 8), 0)
    whitened = module.gaussians.whitened(1)
    with torch.no_grad():
        logits, features = layer_features(module.network, module.layers, test.image.double() / 16)
        other_logits, other_features = layer_features(module.network, module.layers, other.image.double() / 16)
    expected = detection_metrics(softmax_confidence(logits)[40:], softmax_confidence(other_logits)[40:])
    assert metrics["test/auroc_softmax_other"] == pytest.approx(expected["auroc"], abs=1e-6)
    expected = detection_metrics(confidence(features[1], whitened)[40:], confidence(other_features[1], whitened)[40:])
    assert metrics["test/auroc_last_other"] == pytest.approx(expected["auroc"], abs=1e-6)
    assert metrics["test/accuracy"] == pytest.approx((logits.argmax(1) == test.label).double().mean().item(), abs=1e-6)
    right = squared_distances(features[1], whitened).argmin(dim=1) == test.label
    assert metrics["test/accuracy_by_distance"] == pytest.approx(right.double().mean().item(), abs=1e-6)
    for metric in ("auroc", "tnr95", "aupr_in", "aupr_out", "detection_accuracy"):
        mean = (metrics[f"test/{metric}_other"] + metrics[f"test/{metric}_noise"]) / 2
        assert metrics[f"test/{metric}"] == pytest.approx(mean, abs=1e-6)
    assert metrics["test/auroc_other"] == metrics["test/auroc_mean_other"]
    assert not any("dataloader_idx" in name for name in metrics)
    assert [detection.target for detection in module.detections] == ["other", "noise", "fgsm"]


def test_adversarial_sets_hold_what_is_right_before_and_wrong_after(
    run: tuple[Mahalanobis, dict[str, float], Any],
) -> None:
    module, metrics, _ = run
    detection = module.detections[2]
    test = Digits(num_classes=8).test()
    with torch.no_grad():
        right = module(test.image.double() / 16).argmax(dim=1) == test.label
    assert bool(right[detection.index].all())
    assert int(detection.is_target.sum()) * 3 == len(detection.index)
    cut = int(0.1 * len(test.label))
    assert torch.equal(detection.is_validation, detection.index < cut)
    # of the in-distribution inputs, the clean ones have the confidence that the same images have beside other sets
    beside = module.detections[0]
    third = len(detection.index) // 3
    clean = beside.confidence["softmax"][~beside.is_target][detection.index[:third]]
    torch.testing.assert_close(detection.confidence["softmax"][:third], clean)
    assert "test/auroc_fgsm" in metrics


def ready(**options: Any) -> Mahalanobis:
    """A detector with its statistics."""
    module = detector(**options)
    module.double()
    source = Digits(num_classes=8).training()
    with torch.no_grad():
        _, features = layer_features(module.network, module.layers, source.image.double() / 16)
    module.gaussians.update(features, source.label)
    return module


def results_of(module: Mahalanobis, directory: Path, **options: Any) -> dict[str, float]:
    trainer = Trainer(default_root_dir=directory, enable_checkpointing=False, **QUIET)
    results = trainer.test(
        module, datamodule=LabelledImages(Digits(num_classes=8), **{"batch_size": 300, **options}), verbose=False
    )
    return {name: value for part in results for name, value in part.items()}


def test_minimal_attacks_are_detected_beside_the_others(tmp_path: Path) -> None:
    attacks = [
        FGSM,
        DeepFool(overshoot=0.2),
        CarliniWagner(steps=20, learning_rate=0.1, initial_constant=1.0, search_steps=2),
    ]
    module = ready(attacks=attacks, noise_std={"fgsm": 0.0, "deepfool": 0.05, "carlini_wagner": 0.1})
    metrics = results_of(module, tmp_path)
    assert [detection.target for detection in module.detections] == ["fgsm", "deepfool", "carlini_wagner"]
    assert {"test/auroc_mean_deepfool", "test/auroc_tuned_on_target_carlini_wagner"} <= metrics.keys()
    test = Digits(num_classes=8).test()
    image = test.image.double() / 16
    adversarial = attacks[1].perturb(module.network, image, test.label)
    with torch.no_grad():
        clean, wrong = module(image), module(adversarial).argmax(dim=1) != test.label
    detection = module.detections[1]
    third = detection.index.chunk(3)[0]
    assert torch.equal(detection.index, third.repeat(3))
    assert bool(wrong[third].all())
    expected = softmax_confidence(module(adversarial[third]))
    torch.testing.assert_close(detection.confidence["softmax"].chunk(3)[2], expected.detach())
    # each has noisy copies of its own size: those of the first are the clean images
    copies = [detection.confidence["softmax"].chunk(3) for detection in module.detections]
    assert torch.equal(copies[0][1], copies[0][0])
    assert torch.equal(copies[0][0], softmax_confidence(clean)[module.detections[0].index.chunk(3)[0]])
    for place, std in ((1, 0.05), (2, 0.1)):
        rows = module.detections[place].index.chunk(3)[0]
        noise = drawn_like(image[rows], torch.randn, [generator_of(row, NOISE) for row in rows.tolist()])
        with torch.no_grad():
            torch.testing.assert_close(copies[place][1], softmax_confidence(module(image[rows] + std * noise)))


def test_local_dimension_is_that_of_mini_batches_of_the_images_that_are_fooled(tmp_path: Path) -> None:
    """Whatever the batches of the test: noisy copies without noise, to know all."""
    module = ready(attacks=[FGSM], noise_std=0.0, lid=True, score="lid")
    metrics = results_of(module, tmp_path, evaluation_batch_size=57)
    [detection] = module.detections
    test = Digits(num_classes=8).test()
    third = detection.index.chunk(3)[0]
    image = test.image[third].double() / 16
    adversarial = FGSM.perturb(module.network, image, test.label[third])
    with torch.no_grad():
        clean, other = (layer_features(module.network, module.layers, part)[1] for part in (image, adversarial))
    layers = [torch.cat(in_mini_batches([one, one, two])) for one, two in zip(clean, other, strict=True)]
    dimension = torch.stack(layers, dim=1)
    assert dimension.shape == (len(detection.index), 2, len(NEIGHBOURS))
    cut = int(0.1 * len(test.label))
    halves = detection.index < cut // 2, (detection.index >= cut // 2) & (detection.index < cut)
    fit, choose = (
        Sample(dimension[rows & ~detection.is_target], dimension[rows & detection.is_target]) for rows in halves
    )
    ensemble = fit_ensemble(fit, choose, "auroc")
    assert detection.num_neighbours == {"lid": NEIGHBOURS[ensemble.column]}
    torch.testing.assert_close(detection.confidence["lid"], ensemble.confidence(dimension), rtol=1e-6, atol=1e-6)
    assert metrics["test/auroc_fgsm"] == metrics["test/auroc_lid_fgsm"] == metrics["test/auroc"]
    assert metrics["test/auroc_fgsm"] == pytest.approx(detection.metrics("lid")["auroc"], abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_and_random_starts_are_those_of_an_image_in_whatever_batch(norm: Any, tmp_path: Path) -> None:
    attack = PGD(norm, 0.15 if norm == "linf" else 1.0, steps=2, restarts=2, name="pgd")
    confidence = []
    for seed, size in enumerate((57, 200)):
        torch.manual_seed(seed)
        module = ready(attacks=[attack], noise_std=0.05)
        results_of(module, tmp_path, evaluation_batch_size=size)
        [detection] = module.detections
        confidence.append(torch.cat([detection.index.double(), detection.confidence["mean"]]))
    torch.testing.assert_close(confidence[0], confidence[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clip_noise", [False, True])
def test_noisy_copies_are_clipped_on_request(clip_noise: bool, tmp_path: Path) -> None:
    module = ready(attacks=[FGSM], noise_std=0.5, clip_noise=clip_noise, epsilons=[0.0])
    seen: list[Tensor] = []
    module.network.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    results_of(module, tmp_path)
    outside = [float(image.min()) < 0 or float(image.max()) > 1 for image in seen]
    assert any(outside) != clip_noise


@pytest.mark.filterwarnings("ignore")
def test_local_dimension_is_left_out_where_nothing_can_be_tuned(tmp_path: Path) -> None:
    weak = PGD("linf", 0.01, steps=1, step_size=0.01, random_start=False, name="weak")
    module = ready(attacks=[weak], lid=True)
    results_of(module, tmp_path)
    [detection] = module.detections
    assert "lid" not in detection.confidence
    assert "mean" in detection.confidence
    with pytest.raises(ValueError, match=r"score lid: .* validation inputs of weak are too few"):
        results_of(ready(attacks=[weak], lid=True, score="lid"), tmp_path)


def test_a_checkpoint_holds_the_statistics(run: Run) -> None:
    module, metrics, directory = run
    saved = torch.load(directory / "last.ckpt", weights_only=True)["state_dict"]
    for name in ("count", "mean", "scatter"):
        assert torch.equal(saved[f"gaussians.{name}"], getattr(module.gaussians, name))
    other = detector(attacks=[FGSM])
    trainer = Trainer(default_root_dir=directory, enable_checkpointing=False, **QUIET)
    results = trainer.test(
        other, datamodule=data(), ckpt_path=directory / "last.ckpt", weights_only=True, verbose=False
    )
    assert {name: value for part in results for name, value in part.items()} == metrics


def test_resuming_within_the_pass_gives_the_same_statistics(tmp_path: Path) -> None:
    whole = detector()
    Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(whole, datamodule=data(batch_size=200))
    part, saver = detector(), ModelCheckpoint(tmp_path, filename="step", every_n_train_steps=2, save_top_k=-1)
    Trainer(max_epochs=1, max_steps=2, callbacks=[saver], **QUIET).fit(part, datamodule=data(batch_size=200))
    resumed = detector()
    Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(
        resumed, datamodule=data(batch_size=200), ckpt_path=tmp_path / "step.ckpt", weights_only=True
    )
    assert float(part.gaussians.count.sum()) == 400
    for name, value in whole.gaussians.state_dict().items():
        assert torch.equal(resumed.gaussians.state_dict()[name], value), name


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"score": "tuned"}, "score must be one of tuned_on_target, .*, got 'tuned'"),
        ({"score": "tuned_on_attack"}, "score tuned_on_attack needs attacks"),
        ({"score": "odin"}, "score odin needs odin: true"),
        ({"epsilons": [0.1]}, r"with 0 among them, got \[0.1\]"),
        ({"num_validation": 3}, "num_validation must be at least 4, got 3"),
        ({"shrinkage": 2.0}, r"shrinkage must be in \[0, 1\], got 2.0"),
        ({"noise_std": -1.0}, "noise_std must be at least 0, got -1.0"),
        ({"noise_std": {"fgsm": -1.0}, "attacks": [FGSM]}, "noise_std must be at least 0, got {'fgsm': -1.0}"),
        ({"noise_std": {"pgd": 1.0}, "attacks": [FGSM]}, r"name each of the attacks \['fgsm'\], got \['pgd'\]"),
        ({"lid": True}, "lid needs attacks"),
        ({"score": "lid", "attacks": [FGSM]}, "score lid needs lid: true"),
        ({"attacks": [FGSM, FGSM]}, "got fgsm twice: set `name`"),
    ):
        with pytest.raises(ValueError, match=message):
            detector(**options)
    trainer = Trainer(default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="statistics are empty: run fit before"):
        trainer.test(detector(), datamodule=data())
    ready = detector(num_validation=60)
    ready.gaussians.count += 1
    with pytest.raises(ValueError, match="num_validation 60 leaves none of the 60 images of noise"):
        trainer.test(ready, datamodule=data())
    with pytest.raises(ValueError, match="there is nothing to detect"):
        trainer.test(ready, datamodule=LabelledImages(Digits(num_classes=8), batch_size=64))
    ready.trainer = types.SimpleNamespace(precision="16-mixed")  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"trainer\.precision 16-mixed"):
        ready.setup("fit")


def test_one_batch_of_each_set_is_enough_for_what_can_be_measured(run: Run, tmp_path: Path) -> None:
    """`limit_test_batches` 1 is one batch, and 1.0 all of them."""
    module = detector()
    module.load_state_dict(run[0].state_dict())
    few = data(evaluation_batch_size=30)
    trainer = Trainer(default_root_dir=tmp_path, limit_test_batches=1, enable_checkpointing=False, **QUIET)
    trainer.test(module, datamodule=few, verbose=False)
    assert [len(detection.index) for detection in module.detections] == [60, 60]
    assert [int(detection.is_validation.sum()) for detection in module.detections] == [30, 30]


def test_a_perceptron_has_features_too() -> None:
    module = Mahalanobis(MLP(64, [32, 16], 8), 8, ["layers.1", "layers.3"], (1, 8, 8))
    assert module.gaussians.num_features == [32, 16]


def test_whitening_keeps_no_direction_of_a_constant_feature() -> None:
    mean = torch.zeros(2, 3, dtype=torch.float64)
    whitened = whiten(mean, torch.zeros(3, 3, dtype=torch.float64), torch.tensor([True, True]))
    assert whitened.rank == 0
    assert squared_distances(torch.rand(4, 3), whitened).tolist() == [[0.0, 0.0]] * 4
