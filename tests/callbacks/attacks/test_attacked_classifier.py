import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.interfaces import MixtureOutput
from lightning_modules.robustness.adaptive_smoothing import AdaptiveAttack
from lightning_modules.robustness.attacks import PGD, AutoAttack
from tests.callbacks.attacks.half_space import (
    L2,
    LINF,
    NORMAL,
    HalfSpace,
    Images,
    blocks,
    callback,
    known,
    run,
    signed_distance,
)

needs_autoattack = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed"
)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_network_alone_computes_in_another_precision(tmp_path: Path, precision: Any) -> None:
    kinds = set()

    class Layer(HalfSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.layer.weight.data = torch.stack([torch.zeros(4), NORMAL.float()])
            self.layer.bias.data = torch.tensor([0.0, -0.5 * float(NORMAL.sum())])

        def forward(self, image: Tensor) -> Tensor:
            kinds.add(image.dtype)
            return self.layer(image.flatten(1))

    metrics = run(tmp_path, callback(), Layer(), precision=precision)
    expected = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert kinds == {expected[precision]}
    assert metrics["test/robust_accuracy_box"] == pytest.approx(known(LINF, NORMAL.abs().sum()), abs=0.1)
    perturbation = pd.read_csv(tmp_path / "robust_accuracy.csv")["largest_perturbation"]
    assert (perturbation <= np.array([LINF, L2]) + 1e-6).all()


def test_a_smoothed_half_space_is_the_half_space(tmp_path: Path) -> None:
    """The majority vote under Gaussian noise has the same boundary as the half-space itself."""
    smoothed = [PGD("linf", LINF, steps=10, num_draws=16, name="box")]
    metrics = run(tmp_path, callback(attacks=smoothed, sigma=0.1, num_draws=1000))
    table = pd.read_csv(tmp_path / "robust_accuracy.csv")
    assert table["clean_accuracy"][0] == pytest.approx(24 / 31, abs=1.5 / 31)
    assert metrics["test/robust_accuracy_box"] == pytest.approx(known(LINF, NORMAL.abs().sum()), abs=2.5 / 31)


def test_an_adaptive_attack_gets_the_mixture_of_the_predictions(tmp_path: Path) -> None:
    class Mixed(HalfSpace):
        def evaluated_mixture(self, image: Tensor) -> MixtureOutput:
            log_probability = self(image).log_softmax(1)
            gamma = log_probability[:, 0] / 2
            return MixtureOutput(log_probability, gamma, gamma.sigmoid())

    attack = AdaptiveAttack("linf", LINF, steps=10, name="box")
    metrics = run(tmp_path, callback(attacks=[attack]), Mixed())
    assert metrics["test/robust_accuracy_box"] == pytest.approx(known(LINF, NORMAL.abs().sum()), abs=1e-6)
    again = run(tmp_path, callback(attacks=[attack]), Mixed())  # the settings of an attack identify its row
    assert again == metrics
    with pytest.raises((TypeError, ValueError), match="evaluated_mixture"):
        run(tmp_path / "plain", callback(attacks=[attack]))


@needs_autoattack
@pytest.mark.nightly
def test_autoattack_leaves_no_image_of_a_smoothed_classifier_alone(tmp_path: Path) -> None:
    """The classifier has four classes with margins so small that a single noisy vote is usually wrong."""
    between = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    between = (between - between.mean(1, keepdim=True)) / between.norm(dim=0)

    class Four(HalfSpace):
        num_classes = 4

        def forward(self, image: Tensor) -> Tensor:
            return 20 * (image.double() - 0.5).flatten(1) @ between

    class Close(Images):
        def __init__(self) -> None:
            self.image = 0.5 + 0.15 * (torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5)
            self.label = Four()(self.image).argmax(1)

    data = DataLoader(Close(), batch_size=24)
    attacks = [PGD("linf", 0.02, num_draws=16, name="pgd"), AutoAttack("linf", 0.02, num_draws=8, name="auto")]
    metrics = run(tmp_path, callback(attacks=attacks, batch_size=24, sigma=0.25, num_draws=1000), Four(), data)
    rows = pd.concat([pd.read_csv(path) for path in blocks(tmp_path)])
    right = rows[rows["prediction"] == rows["label"]]
    assert len(right) > 30
    assert (right["perturbation"] > 0).all()
    assert metrics["test/robust_accuracy_auto"] <= metrics["test/robust_accuracy_pgd"] + 0.05
    assert metrics["test/robust_accuracy_pgd"] < 0.5


@pytest.mark.parametrize(
    ("votes", "accuracy"), [((-1.0, -1.0), 7 / 31), ((1e-2, 1e-2, -50.0), 24 / 31)], ids=["turned", "two doubtful"]
)
def test_votes_of_a_modules_own_are_attacked_and_count_as_in_the_certificate(
    votes: tuple[float, ...], accuracy: float, tmp_path: Path
) -> None:
    """Two uncertain votes for a class outweigh a confident vote for a different class."""

    class Voting(HalfSpace):
        certificate = "none"

        def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
            assert noise.shape == image.shape
            right = self(image + sigma * noise).sign()
            return torch.stack([vote * right for vote in votes])

        def certified_radius(self, probability: Any, sigma: float) -> float:
            return 0.0

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    run(tmp_path, callback(attacks=smoothed, sigma=1e-3, num_draws=2), Voting())
    assert pd.read_csv(tmp_path / "robust_accuracy.csv")["clean_accuracy"][0] == pytest.approx(accuracy)


def test_the_class_is_that_of_most_draws(tmp_path: Path) -> None:
    class Fickle(HalfSpace):
        """Returns the opposite class in 30 % of all evaluations."""

        def forward(self, image: Tensor) -> Tensor:
            logits = super().forward(image)
            return torch.where(torch.rand(len(image), 1) < 0.3, -logits, logits)

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    metrics = run(tmp_path, callback(attacks=smoothed, num_draws=301), Fickle())
    assert metrics["test/robust_accuracy_box"] == pytest.approx(24 / 31, abs=1e-6)


@needs_autoattack
@pytest.mark.nightly
def test_autoattack_is_one_more_attack(tmp_path: Path) -> None:
    """AutoAttack is exact, even if the cross-entropy gradient points to the more distant of two adjacent classes."""

    class Bands(HalfSpace):
        """Ten classes, which are adjacent bands along w; the nearest other class is always a neighbouring band."""

        num_classes = 10

        def forward(self, image: Tensor) -> Tensor:
            score = (image.double() - 0.5).flatten(1) @ self.weight
            return -((score[:, None] - torch.linspace(-0.6, 0.6, 10, dtype=torch.float64)) ** 2)

    class Banded(Images):
        def __init__(self) -> None:
            super().__init__(12)
            self.label = Bands()(self.image).argmax(1)

    data = DataLoader(Banded(), batch_size=4)
    strong = [AutoAttack("linf", 0.01), PGD("linf", 0.01, name="pgd")]
    metrics = run(tmp_path, callback(attacks=strong, batch_size=12), Bands(), data)
    score = signed_distance(Banded().image)
    edges = torch.linspace(-0.6, 0.6, 10, dtype=torch.float64).unfold(0, 2, 1).mean(1)
    robust = (score[:, None] - edges).abs().min(1).values / NORMAL.abs().sum() > 0.01
    assert metrics["test/robust_accuracy_autoattack_linf_0.01"] == pytest.approx(
        float(robust.double().mean()), abs=1e-6
    )
    assert 0 < metrics["test/robust_accuracy_autoattack_linf_0.01"] < metrics["test/robust_accuracy_pgd"] < 1


@needs_autoattack
def test_autoattack_refuses_a_classifier_with_random_numbers_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"needs a deterministic classifier, but num_draws 10 without sigma"):
        callback(attacks=[AutoAttack("l2", 0.1)], num_draws=10)
    with pytest.raises(ValueError, match=r"autoattack_l2_0.1: num_draws must be at least 2 with sigma 0.1"):
        callback(attacks=[AutoAttack("l2", 0.1, num_draws=1)], sigma=0.1, num_draws=10)


@pytest.mark.parametrize("attacks", [1, 2])
def test_an_attack_takes_its_steps_a_look_at_their_end_and_one_at_the_images_that_it_gives(
    attacks: int, tmp_path: Path
) -> None:
    """Of the 31 images, 7 are misclassified before the attack.

    The callback predicts every clean image once, and the trainer's test loop predicts it once more.
    """
    module = HalfSpace()
    run(tmp_path, callback(attacks=[PGD("linf", LINF, steps=10, name=f"box{n}") for n in range(attacks)]), module)
    assert module.evaluated == 31 + attacks * 24 * (10 + 1 + 1) + 31
