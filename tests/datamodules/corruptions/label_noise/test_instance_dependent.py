import math

import numpy as np
import pytest
import torch

from datamodules.corruptions.label_noise import (
    InstanceDependent,
    empirical_transition_matrix,
    instance_dependent,
)
from datamodules.corruptions.label_noise.instance_dependent import (
    class_scores,
    truncated_normal,
    truncated_normal_mean,
    wrong_class_probability,
)
from tests.datamodules.corruptions.label_noise.examples import RATE, images, shuffled_labels


def test_scores_are_the_exact_linear_map() -> None:
    """Compare with exact sums of Python integers, for uint8 pixels and for float32 pixels divided by 255."""
    random = np.random.default_rng(4)
    pixel = random.integers(256, size=(3, 1, 20, 20), dtype=np.uint8)
    weight = np.rint(random.standard_normal((400, 5)) * 2**16)
    product = pixel.reshape(3, 400).astype(object) @ weight.astype(int).astype(object)
    expected = product.astype(np.float64) / 2**16
    from_integers = class_scores(torch.from_numpy(pixel), weight / 2**16)
    from_floats = class_scores(torch.from_numpy(pixel).float() / 255, weight / 2**16)
    np.testing.assert_allclose(from_integers, expected, rtol=1e-15)
    np.testing.assert_array_equal(from_floats, from_integers)


def test_wrong_classes_follow_the_softmax_without_the_true_class() -> None:
    scores = torch.from_numpy(np.random.default_rng(6).normal(0, 2, size=(8, 5)))
    probability = wrong_class_probability(scores.numpy(), true_class=2)
    expected = torch.nn.functional.softmax(scores[:, [0, 1, 3, 4]], dim=1)
    torch.testing.assert_close(torch.from_numpy(probability[:, [0, 1, 3, 4]]), expected, rtol=1e-12, atol=0)
    assert (probability[:, 2] == 0).all()


def test_wrong_classes_of_one_image_are_drawn_with_their_probabilities() -> None:
    """For copies of one faint image, whose softmax is not one-hot, the flipped labels have the softmax frequencies."""
    count, num_classes, seed = 60_000, 5, 3
    faint = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    faint[0, 0, 0, 1] = 1
    label = np.full(count, 1)
    noisy = InstanceDependent(0.5, seed=seed).apply(label, num_classes, faint.expand(count, 1, 2, 2)).numpy()
    stream = instance_dependent.random_stream(seed, "InstanceDependent", 1 + 1)
    weight = np.exp(stream.standard_normal((4, num_classes))[1])
    weight[1] = 0
    expected = weight / weight.sum()
    wrong = noisy[noisy != 1]
    found = np.bincount(wrong, minlength=num_classes) / len(wrong)
    assert expected.max() < 0.9
    assert (np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(wrong)) + 1e-12).all()


@pytest.mark.parametrize("mean", [0.05, 0.2, 0.5, 0.95])
def test_flip_rates_are_a_normal_restricted_to_the_unit_interval(mean: float) -> None:
    """Compare the mean with numerical integration of the density, and the draws with the mean."""
    grid = np.linspace(0, 1, 200_001)
    density = np.exp(-(((grid - mean) / 0.1) ** 2) / 2)
    expected = np.trapezoid(grid * density, grid) / np.trapezoid(density, grid)
    assert truncated_normal_mean(mean, 0.1) == pytest.approx(expected, abs=1e-9)
    draw = truncated_normal(mean, 0.1, 100_000, np.random.default_rng(7))
    assert draw.min() >= 0
    assert draw.max() <= 1
    assert abs(draw.mean() - expected) < 3 * draw.std() / math.sqrt(len(draw))


def test_transition_matrix_of_instance_dependent_noise_is_the_mean_over_seeds() -> None:
    label, num_classes, seeds = shuffled_labels(60, 4), 4, 400
    image = images(len(label))
    draws = torch.stack(
        [
            empirical_transition_matrix(
                label, InstanceDependent(0.3, seed=s).apply(label, num_classes, image), num_classes
            )
            for s in range(seeds)
        ]
    )
    expected = InstanceDependent(0.3).transition_matrix(num_classes)
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert ((draws.mean(dim=0) - expected).abs() < 4 * draws.std(dim=0) / math.sqrt(seeds)).all()
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert draws.std(dim=0)[off_diagonal].min() > 0.05  # one draw of W is far from the mean: it favours some classes


def test_instance_dependent_noise_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    label = shuffled_labels(100, 10)
    image = images(len(label)).float() / 255
    whole = InstanceDependent(RATE, seed=0).apply(label, 10, image)
    monkeypatch.setattr(instance_dependent, "CHUNK_VALUES", 48 * 7)
    torch.testing.assert_close(InstanceDependent(RATE, seed=0).apply(label, 10, image), whole)
