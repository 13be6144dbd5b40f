import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from callbacks.certification.curves import NO_GUARANTEE
from lightning_modules.backbones import Normalized, with_weights
from lightning_modules.interfaces import Classifier, SmoothedClassifier
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.robustness.certificates.modes import FixedSampling
from lightning_modules.robustness.certificates.votes import VoteCounter
from lightning_modules.robustness.consistency import Consistency
from lightning_modules.robustness.drs.checkerboard import Partition, first_half, max_added
from lightning_modules.robustness.drs.module import DRS
from lightning_modules.robustness.mean_prediction import log_mean_softmax
from lightning_modules.training.tested_images import LabelledImage
from tests.command import ROOT
from tests.configurations import whole
from tests.robustness.smoothed_training.by_hand import assert_same_with_gradients, loss_by_hand


class Plane(torch.nn.Module):
    """Predicts class 0 if the sum of the pixels is below a threshold, in float64 so that batching changes no vote."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        height = self.scale * (self.threshold - image.double().flatten(1).sum(1))
        return torch.stack([height, -height], dim=1)


def halved_planes(radius: str = "joint") -> DRS:
    """Build a module for 4 x 4 images; each half has eight pixels, and is gathered and repeated, so its sum doubles."""
    return DRS(
        Plane(2 * 8 * 0.5 + 1.5),
        Plane(2 * 8 * 0.5 + 0.5),
        num_classes=2,
        partition=Partition("gather_nearest"),
        radius=radius,  # type: ignore[arg-type]
    )


def certified(module: DRS, sigma: float, n: int = 4000, alpha: float = 0.01):
    counter = VoteCounter(module, FixedSampling(n0=100, n=n, alpha=alpha), sigma, 1000, 0, torch.device("cpu"))
    image = LabelledImage(0, torch.full((1, 4, 4), 0.5), 0)
    (done,) = counter.certify(iter([image]))
    return done.certificate


def test_certification_finds_the_exact_radius_of_two_half_spaces() -> None:
    """The margins of the halves, divided by their noise, are 1.5 / (2 sqrt(8) sigma) and 0.5 / (2 sqrt(8) sigma)."""
    sigma = 0.25
    margins = np.array([1.5, 0.5]) / (2 * math.sqrt(8))
    certificate = certified(halved_planes(), sigma, n=50_000)
    assert certificate.prediction == 0
    assert len(certificate.hits) == 2
    for hits, margin in zip(certificate.hits, margins, strict=True):
        p = stats.norm.cdf(margin / sigma)
        assert abs(hits / 50_000 - p) < 4 * math.sqrt(p * (1 - p) / 50_000)
    exact = margins.sum() / math.sqrt(2)
    assert 0.95 * exact < certificate.radius < exact
    assert certificate.p_lower == pytest.approx(
        [stats.beta.ppf(0.005, k, 50_000 - k + 1) for k in certificate.hits], rel=1e-10
    )


def test_published_formula_certifies_more_under_a_label_of_its_own() -> None:
    modules = {radius: halved_planes(radius) for radius in ("joint", "published_cifar10", "published_imagenet")}
    claims = {radius: certified(module, 0.25) for radius, module in modules.items()}
    assert len({claim.hits for claim in claims.values()}) == 1
    assert claims["published_cifar10"].radius > claims["joint"].radius
    p, sigma = [0.9, 0.45], 0.25  # the published formulas count the vote below 1/2 as one half
    left, right = sigma * stats.norm.ppf(p)
    formulas = {
        "joint": (left + right) / math.sqrt(2),
        "published_cifar10": left,
        "published_imagenet": left / math.sqrt(2),
    }
    for radius, module in modules.items():
        assert module.certified_radius(p, sigma) == pytest.approx(formulas[radius], rel=1e-12)
    labels = {radius: module.certificate for radius, module in modules.items()}
    assert len(set(labels.values())) == 3
    assert {radius for radius, label in labels.items() if NO_GUARANTEE in label} == set(labels) - {"joint"}


def test_votes_see_their_halves_of_the_noisy_image() -> None:
    module = DRS(torch.nn.Flatten(), torch.nn.Flatten(), num_classes=16)
    module.network.anchor = torch.nn.Parameter(torch.zeros(()))  # a parameter determines the precision of votes
    assert isinstance(module, SmoothedClassifier)
    assert isinstance(module, Classifier)
    image, noise = torch.rand(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    logits = module.smoothed_logits(image, noise, 0.25)
    mask = first_half(4, 4)
    for vote, kept in zip(logits, (mask, ~mask), strict=True):
        torch.testing.assert_close(vote, max_added(image + 0.25 * noise, kept).flatten(1))
        alien = torch.where(kept, noise, 7.0)
        torch.testing.assert_close(module.smoothed_logits(image, alien, 0.25)[int(kept is not mask)], vote)
    assert module.double().smoothed_logits(image, noise, 0.25).dtype == torch.float64


def test_unequal_noise_is_certified_up_to_the_exact_radius() -> None:
    """The margins of the halves are 1.5 and 0.5, and the noise is 2 sqrt(8) sigma and twice as much.

    A perturbation has length a in the first half and b in the second half. It changes the prediction if a / sigma + b /
    (2 sigma) reaches the sum of the two margins, each divided by its noise.
    """
    sigma, ratio = 0.25, 2.0
    module = halved_planes()
    module.second_noise = ratio
    certificate = certified(module, sigma, n=50_000)
    margins = np.array([1.5, 0.5]) / (2 * math.sqrt(8))
    noise = sigma * np.array([1, ratio])
    for hits, p in zip(certificate.hits, stats.norm.cdf(margins / noise), strict=True):
        assert abs(hits / 50_000 - p) < 4 * math.sqrt(p * (1 - p) / 50_000)
    exact = (margins / noise).sum() / math.hypot(*(1 / noise))
    assert 0.94 * exact < certificate.radius < exact
    labelled = DRS(torch.nn.Identity(), torch.nn.Identity(), num_classes=2, second_noise=2.0)
    assert labelled.certificate != module.certificate
    with pytest.raises(ValueError, match="second_noise must be 1 with radius published_cifar10"):
        DRS(torch.nn.Identity(), torch.nn.Identity(), 2, radius="published_cifar10", second_noise=2.0)


def test_training_has_the_noise_of_each_half() -> None:
    torch.manual_seed(0)
    module = DRS(torch.nn.Flatten(), torch.nn.Flatten(), num_classes=16, sigma=0.5, second_noise=0.2)
    noise = module.noisy(torch.zeros(3000, 1, 4, 4), 2)
    mask = first_half(4, 4)
    assert float(noise[..., mask].std()) == pytest.approx(0.5, rel=0.02)
    assert float(noise[..., ~mask].std()) == pytest.approx(0.1, rel=0.02)


def test_forward_is_the_log_of_the_mean_probability() -> None:
    logits = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(log_mean_softmax(logits).exp(), logits.softmax(dim=-1).mean(dim=0))


class Recorder(torch.nn.Module):
    """A linear classifier that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 3)
        self.linear.weight.data *= 40  # some probabilities are below the floor of the regularised ones
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return self.linear(image.flatten(1))


@pytest.mark.parametrize("copies", [1, 4])
def test_a_step_adds_the_losses_of_the_halves(copies: int) -> None:
    torch.manual_seed(0)
    left, right = Recorder(), Recorder()
    module = DRS(left, right, num_classes=3, sigma=0.5, num_copies=copies).double()
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    image, label = torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    output = module.training_step(
        {"image": image, "label": label, "index": torch.arange(6), "global_batch_size": 6}, batch_idx=0
    )
    expected = torch.zeros((), dtype=torch.float64)
    for network in (left, right):
        (seen,) = network.seen
        assert seen.shape == (6 * copies, 1, 4, 4)
        logits = network.linear(seen.flatten(1)).unflatten(0, (copies, 6))
        expected = expected + loss_by_hand(logits, label, 15.0, 0.75, floor=1e-6)
        p = logits.softmax(dim=-1)
        if copies > 1:
            assert (p < 1e-7).any()
            assert ((p > 2e-6) & (p < 1e-4)).any()
    assert_same_with_gradients(output["loss"], expected, module.parameters())
    assert output["logits"].shape == (6, 3)
    assert not output["logits"].requires_grad


def test_both_networks_can_begin_as_a_classifier_of_whole_images(tmp_path: Path) -> None:
    """The keys of a checkpoint of `Consistency` match the names that the full-scale configs give."""

    def network() -> torch.nn.Module:
        return Normalized(CIFARResNet(8), mean=[0.5], std=[0.25])

    whole = Consistency(network(), num_classes=10)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "last.ckpt")
    first, second = (with_weights(network(), str(tmp_path / "last.ckpt"), prefix="network.") for _ in range(2))
    module = DRS(first, second, num_classes=10)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value)
        assert torch.equal(module.second_network.state_dict()[name], value)


@pytest.mark.parametrize("config", ["demo", "demo_size", "demo_size_baseline", "cifar10", "imagenet"])
def test_a_config_certifies_at_the_noise_level_that_it_trains_with(config: str) -> None:
    settings = whole(ROOT / "configs" / "drs" / f"{config}.yaml")
    sigma = settings["model"]["init_args"]["sigma"]
    assert settings["trainer"]["callbacks"][0]["init_args"]["sigma"] == sigma
    if config.startswith("demo"):
        assert sigma == 0.25
