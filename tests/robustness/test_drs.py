import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from lightning_modules.interfaces import Classifier, SmoothedClassifier
from lightning_modules.networks import Normalized, with_weights
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.robustness.certificates.modes import Fixed
from lightning_modules.robustness.certificates.statistics import clopper_pearson_lower, gaussian_radius
from lightning_modules.robustness.certificates.votes import LabelledImage, VoteCounter
from lightning_modules.robustness.consistency import Consistency
from lightning_modules.robustness.drs.checkerboard import Fill, Layout, first_half, gathered, half, max_added
from lightning_modules.robustness.drs.module import DRS
from lightning_modules.robustness.drs.radius import joint_radius, published_radius_cifar10, published_radius_imagenet
from lightning_modules.robustness.mean_prediction import log_mean_softmax
from lightning_modules.robustness.smoothed_training.consistency_regularization import loss_on_copies
from tests.command import ROOT

FILLS: list[Fill] = ["maxpool_add", "gather_nearest", "gather_bilinear"]
LAYOUTS: list[Layout] = ["checkerboard", "official"]
probabilities = st.floats(1e-6, 1 - 1e-6)
sigmas = st.floats(0.05, 2.0)

# halves


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 8), (6, 10)])
def test_each_half_keeps_a_diagonal_of_every_block(layout: Layout, height: int, width: int) -> None:
    mask = first_half(height, width, layout)
    blocks = mask.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).transpose(1, 2)
    for block in blocks.reshape(-1, 2, 2):
        assert block.sum() == 2
        assert block[0, 0] == block[1, 1] != block[0, 1]


def test_layouts() -> None:
    rows, columns = np.indices((6, 8))
    assert np.array_equal(first_half(6, 8).numpy(), (rows + columns) % 2 == 0)
    official = first_half(4, 8, "official").numpy()
    for row in (0, 2):
        assert np.flatnonzero(official[row]).tolist() == [0, 3, 5, 7]
        assert np.flatnonzero(official[row + 1]).tolist() == [1, 2, 4, 6]


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 7)])
def test_odd_images_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width}"):
        first_half(height, width)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_the_other_half_enters(layout: Layout, fill: Fill) -> None:
    mask = first_half(8, 6, layout)
    image = torch.randn(3, 2, 8, 6)
    for kept in (mask, ~mask):
        shown = half(image, kept, fill)
        assert shown.shape == image.shape
        other = torch.where(kept, image, 100 * torch.randn_like(image))
        assert torch.equal(half(other, kept, fill), shown)
        changed = torch.where(kept, image + 1, image)
        assert not torch.equal(half(changed, kept, fill), shown)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gathered_pixels_are_those_kept_row_by_row(layout: Layout) -> None:
    mask = first_half(4, 6, layout)
    image = torch.randn(2, 3, 4, 6)
    for kept in (mask, ~mask):
        rows = torch.stack([image[:, :, row, kept[row]] for row in range(4)], dim=2)
        assert torch.equal(gathered(image, kept), rows)
        assert torch.equal(half(image, kept, "gather_nearest"), rows.repeat_interleave(2, dim=3))


def test_bilinear_fill_of_a_ramp_of_kept_pixels() -> None:
    """Two kept pixels p and q of a row become p, (3 p + q) / 4, (p + 3 q) / 4, q."""
    image = torch.tensor([[[[1.0, 9.0, 5.0, 9.0], [9.0, 2.0, 9.0, 4.0]]]])
    shown = half(image, first_half(2, 4), "gather_bilinear")
    torch.testing.assert_close(shown, torch.tensor([[[[1.0, 2.0, 4.0, 5.0], [2.0, 2.5, 3.5, 4.0]]]]))


def test_kept_pixels_get_the_maximum_of_their_block_and_zero_counts_in_it() -> None:
    mask = first_half(2, 4)
    image = torch.tensor([[[[0.2, 9.0, -0.3, 9.0], [9.0, 0.5, 9.0, -0.1]]]])
    expected = torch.tensor([[[[0.7, 0.0, -0.3, 0.0], [0.0, 1.0, 0.0, -0.1]]]])
    torch.testing.assert_close(max_added(image, mask), expected)


# radius


@given(p=probabilities, sigma=sigmas)
def test_equal_votes_have_the_radius_of_one_vote_at_more_noise(p: float, sigma: float) -> None:
    expected = gaussian_radius(p, math.sqrt(2) * sigma)
    assert joint_radius([p, p], [sigma, sigma]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(p=probabilities, q=probabilities, rise=st.floats(0, 1), sigma=sigmas, other=sigmas)
def test_radius_is_symmetric_monotone_and_that_of_equal_noise(
    p: float, q: float, rise: float, sigma: float, other: float
) -> None:
    radius = joint_radius([p, q], [sigma, other])
    assert radius == pytest.approx(joint_radius([q, p], [other, sigma]), rel=1e-12, abs=1e-12)
    assert joint_radius([p + rise * (1 - 1e-6 - p), q], [sigma, other]) >= radius - 1e-12
    equal = sigma / math.sqrt(2) * (stats.norm.ppf(p) + stats.norm.ppf(q))
    assert joint_radius([p, q], [sigma, sigma]) == pytest.approx(equal, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("left", "right"), [(0.4, 0.4), (0.9, 0.1), (1.0, -0.3), (-0.2, 0.7)])
@pytest.mark.parametrize("sigma", [(0.25, 0.25), (0.2, 0.5)])
def test_radius_is_tight_for_two_half_spaces(left: float, right: float, sigma: tuple[float, float]) -> None:
    """Vote s is class 0 where w_s . x_s <= c_s, |w_s| = 1, with margin m_s: its probability is Phi(m_s / sigma_s).

    The worst change has length R and shares it out between w_l and w_r in proportion to 1 / sigma_s.
    """
    margins = np.array([left, right])
    probability = stats.norm.cdf(margins / sigma)
    radius = joint_radius(probability.tolist(), sigma)
    assert radius > 0
    direction = 1 / np.array(sigma)
    direction /= np.linalg.norm(direction)
    inside, outside = (
        stats.norm.cdf((margins - radius * stretch * direction) / sigma).sum() for stretch in (1 - 1e-3, 1 + 1e-3)
    )
    assert inside > 1 > outside
    for angle in np.linspace(0, 2 * np.pi, 60):  # no other direction does harm within it
        change = radius * (1 - 1e-9) * np.array([np.cos(angle), np.sin(angle)])
        assert stats.norm.cdf((margins - change) / sigma).sum() > 1


def test_a_vote_below_one_half_lessens_the_radius_and_does_not_void_it() -> None:
    """The published code counts it as one half, which is more than is proved."""
    p, sigma = [0.95, 0.4], 0.3
    radius = joint_radius(p, [sigma, sigma])
    assert 0 < radius < sigma * stats.norm.ppf(0.95) / math.sqrt(2)
    assert published_radius_imagenet(p, sigma) == pytest.approx(sigma * stats.norm.ppf(0.95) / math.sqrt(2))
    assert published_radius_imagenet(p, sigma) > radius
    assert joint_radius([0.6, 0.3], [sigma, sigma]) < 0 < published_radius_cifar10([0.6, 0.3], sigma)


@given(p=st.floats(0.51, 0.999), q=st.floats(0.51, 0.999), sigma=sigmas)
def test_the_published_formula_exceeds_the_theorem_unless_the_votes_are_equal(p: float, q: float, sigma: float) -> None:
    radius = joint_radius([p, q], [sigma, sigma])
    assert published_radius_imagenet([p, q], sigma) == pytest.approx(radius, rel=1e-9)
    excess = published_radius_cifar10([p, q], sigma) - radius
    # hypot(a, b) - (a + b) / sqrt(2) is (a - b)^2 / 2 over their sum.
    difference = sigma * (stats.norm.ppf(p) - stats.norm.ppf(q))
    total = published_radius_cifar10([p, q], sigma) + radius
    assert excess == pytest.approx(difference**2 / 2 / total, rel=1e-6, abs=1e-12)


def test_no_hit_means_no_claim() -> None:
    assert joint_radius([0.0, 0.999], [0.25, 0.25]) == -math.inf
    assert published_radius_cifar10([0.4, 0.5], 0.25) == published_radius_imagenet([0.4, 0.5], 0.25) == -math.inf


def test_both_bounds_hold_together_at_the_stated_level() -> None:
    """Each has half of alpha, and the two fail together or apart with probability at most alpha."""
    random, n, alpha, repeats = np.random.default_rng(0), 500, 0.02, 5000
    hits = random.binomial(n, 0.9, size=(repeats, 2))
    failed = (clopper_pearson_lower(hits, n, alpha / 2) > 0.9).any(axis=1).mean()
    assert failed <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / repeats)
    assert (clopper_pearson_lower(hits, n, alpha) > 0.9).any(axis=1).mean() > failed


# module


class Plane(torch.nn.Module):
    """Class 0 where the sum of the pixels is below a threshold; in float64, so that no batch changes a vote."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        height = self.scale * (self.threshold - image.double().flatten(1).sum(1))
        return torch.stack([height, -height], dim=1)


def halved_planes(radius: str = "joint") -> DRS:
    """Each half of a 4 x 4 image, gathered and repeated, sums up to twice its eight pixels."""
    return DRS(
        Plane(2 * 8 * 0.5 + 1.5),
        Plane(2 * 8 * 0.5 + 0.5),
        num_classes=2,
        fill="gather_nearest",
        radius=radius,  # type: ignore[arg-type]
    )


def certified(module: DRS, sigma: float, n: int = 4000, alpha: float = 0.01):
    counter = VoteCounter(module, Fixed(n0=100, n=n, alpha=alpha), sigma, 1000, 0, torch.device("cpu"))
    image = LabelledImage(0, torch.full((1, 4, 4), 0.5), 0)
    (done,) = counter.certify(iter([image]))
    return done.certificate


def test_certification_finds_the_exact_radius_of_two_half_spaces() -> None:
    """Margins of the halves over their noise: 1.5 / (2 sqrt(8) sigma) and 0.5 / (2 sqrt(8) sigma)."""
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
    assert "not a guarantee" in labels["published_cifar10"]
    assert "not a guarantee" in labels["published_imagenet"]
    assert "not a guarantee" not in labels["joint"]


def test_votes_see_their_halves_of_the_noisy_image() -> None:
    module = DRS(torch.nn.Flatten(), torch.nn.Flatten(), num_classes=16, fill="maxpool_add")
    module.network.anchor = torch.nn.Parameter(torch.zeros(()))  # a parameter says in which precision votes are
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


def test_forward_is_the_log_of_the_mean_probability() -> None:
    logits = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(log_mean_softmax(logits).exp(), logits.softmax(dim=-1).mean(dim=0))


class Recorder(torch.nn.Module):
    """A linear classifier that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 3)
        self.linear.weight.data *= 40  # some probabilities are below the floor of those that are regularised
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
        {"image": image, "label": label, "index": torch.arange(6), "global_size": 6}, batch_idx=0
    )
    expected = torch.zeros((), dtype=torch.float64)
    for network in (left, right):
        (seen,) = network.seen
        assert seen.shape == (6 * copies, 1, 4, 4)
        logits = network.linear(seen.flatten(1)).unflatten(0, (copies, 6))
        if copies == 1:
            expected = expected + F.cross_entropy(logits[0], label)
        else:
            expected = expected + loss_on_copies(logits, label, 15.0, 0.75, floor=1e-6)
            p = logits.softmax(dim=-1)
            assert (p < 1e-7).any()
            assert ((p > 2e-6) & (p < 1e-4)).any()
    torch.testing.assert_close(output["loss"], expected)
    assert output["logits"].shape == (6, 3)
    assert not output["logits"].requires_grad
    own, foreign = torch.autograd.grad(
        F.cross_entropy(left.linear(left.seen[0].flatten(1)), label.repeat(copies)),
        [left.linear.weight, right.linear.weight],
        allow_unused=True,
    )
    assert own is not None
    assert foreign is None


def test_both_networks_can_begin_as_a_classifier_of_whole_images(tmp_path: Path) -> None:
    """The keys of a checkpoint of `Consistency` fit as the paper-scale configs name them."""

    def network() -> torch.nn.Module:
        return Normalized(CIFARResNet(8), mean=[0.5], std=[0.25])

    whole = Consistency(network(), num_classes=10)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "last.ckpt")
    first, second = (with_weights(network(), str(tmp_path / "last.ckpt"), prefix="network.") for _ in range(2))
    module = DRS(first, second, num_classes=10)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value)
        assert torch.equal(module.second_network.state_dict()[name], value)


@pytest.mark.parametrize("config", ["demo", "demo_baseline", "cifar10", "imagenet"])
def test_a_config_certifies_at_the_noise_level_that_it_trains_with(config: str) -> None:
    settings = yaml.safe_load((ROOT / "configs" / "drs" / f"{config}.yaml").read_text())
    sigma = settings["model"]["init_args"]["sigma"]
    assert settings["trainer"]["callbacks"][0]["init_args"]["sigma"] == sigma
    if config.startswith("demo"):
        assert sigma == 0.25


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_identical_copies_have_no_divergence_in_the_loss(seed: int) -> None:
    logits = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).expand(4, 5, 4)
    label = torch.tensor([0, 3, 1, 2, 2])
    entropy = torch.distributions.Categorical(logits=logits[0]).entropy().mean()
    expected = F.cross_entropy(logits[0], label) + 0.75 * entropy
    torch.testing.assert_close(loss_on_copies(logits, label, 15.0, 0.75, floor=1e-6), expected)


@pytest.mark.parametrize(
    ("key", "value"), [("sigma", 0.0), ("num_copies", 0), ("consistency_weight", -1.0), ("entropy_weight", -1.0)]
)
def test_bad_arguments_are_named(key: str, value: float) -> None:
    arguments: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=key):
        DRS(torch.nn.Identity(), torch.nn.Identity(), num_classes=2, **arguments)
