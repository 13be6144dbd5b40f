import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.robustness.mahalanobis import ClassIncremental
from lightning_modules.robustness.mahalanobis.class_incremental import IncrementalGaussians, area_over_bias
from lightning_modules.robustness.mahalanobis.gaussians import ClassGaussians, mahalanobis_distances, whiten
from lightning_modules.robustness.mahalanobis.layers import layer_features
from tests.robustness.mahalanobis.small_detector import D, K, in_double, samples, trained


def swept(scores: np.ndarray, label: np.ndarray, base: int) -> float:
    """Compute the area under the curve by sweeping the bias over the midpoints between neighbouring margins."""
    margins = np.sort(scores[:, :base].max(axis=1) - scores[:, base:].max(axis=1))
    biases = np.concatenate([[margins[0] - 1], (margins[1:] + margins[:-1]) / 2, [margins[-1] + 1]])
    is_new, curve = label >= base, []
    for bias in biases:
        shifted = scores + np.where(np.arange(scores.shape[1]) >= base, bias, 0)
        right = shifted.argmax(axis=1) == label
        curve.append((right[is_new].mean(), right[~is_new].mean()))
    new, old = np.array(curve).T
    return float(np.trapezoid(old, new))


def with_new_class(mean: Tensor, covariance: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Add a class to the Gaussians by algorithm 2."""
    C, spread = len(mean), torch.cov(features.T, correction=0)
    return torch.cat([mean, features.mean(dim=0)[None]]), (C * covariance + spread) / (C + 1)


def test_the_area_is_that_under_the_curve_of_all_biases() -> None:
    random = np.random.default_rng(0)
    label = random.integers(5, size=80)
    scores = random.normal(size=(80, 5)) + 1.5 * np.eye(5)[label]
    found = float(area_over_bias(torch.from_numpy(scores), torch.from_numpy(label), 3))
    assert found == pytest.approx(swept(scores, label, 3), abs=1e-12)
    # Adding a bias to the scores has no effect, and a perfect classifier has area 1.
    scores[:, 3:] += 7
    assert float(area_over_bias(torch.from_numpy(scores), torch.from_numpy(label), 3)) == pytest.approx(
        found, abs=1e-12
    )
    assert float(area_over_bias(torch.eye(5)[label] + 0.0, torch.from_numpy(label), 3)) == 1
    # If all images have equal margins, half of the pairs count.
    ties = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    assert float(area_over_bias(ties[[0, 0]], torch.tensor([0, 2]), 2)) == 0.5


@pytest.mark.parametrize("batch_size", [7, 60])
def test_classes_of_a_stream_join_as_by_algorithm_2(batch_size: int) -> None:
    features, label = samples()
    gaussians = IncrementalGaussians(K, 1, D)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(batch_size))
    for rows in order.split(batch_size):
        gaussians.update([features[rows]], label[rows])
    base = ClassGaussians(1, [D])
    base.update([features[label == 0]], label[label == 0])
    mean, covariance = base.means(0), base.covariance(0)
    for number in range(1, K + 1):
        if number > 1:
            mean, covariance = with_new_class(mean, covariance, features[label == number - 1])
        found = gaussians.after(number)
        torch.testing.assert_close(found[0], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found[1], covariance, rtol=1e-9, atol=1e-9)


def incremental(**options: str) -> ClassIncremental:
    network = copy.deepcopy(trained())
    network.zero_grad()
    return ClassIncremental(network, 10, 8, "relu2", (1, 8, 8), **options)  # type: ignore[arg-type]


def test_a_run_adds_two_digits_to_a_classifier_of_eight(tmp_path: Path) -> None:
    module, data = incremental(), LabelledImages(Digits(), batch_size=300)
    before = copy.deepcopy(module.base_classifier.state_dict())
    trainer = in_double(max_epochs=2, default_root_dir=tmp_path)  # the second epoch has no effect
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    assert all(torch.equal(value, before[name].double()) for name, value in module.base_classifier.state_dict().items())

    def features(image: Tensor) -> Tensor:
        with torch.no_grad():
            return layer_features(module.base_classifier, module.layers, image.double() / 16)[1][0]

    train, test = Digits().training(), Digits().test()
    f, f_test = features(train.image), features(test.image)
    old = train.label < 8
    gaussians = ClassGaussians(8, [8])
    gaussians.update([f[old]], train.label[old])
    mean, covariance = gaussians.means(0), gaussians.covariance(0)
    areas = []
    for digit in (8, 9):
        mean, covariance = with_new_class(mean, covariance, f[train.label == digit])
        seen = test.label <= digit
        present = torch.ones(digit + 1, dtype=torch.bool)
        scores = -mahalanobis_distances(f_test[seen], whiten(mean, covariance, present))
        areas.append(swept(scores.numpy(), test.label[seen].numpy(), 8))
    assert metrics["test/area_mahalanobis"] == pytest.approx(areas[-1], abs=1e-6)
    right = float((scores.argmax(dim=1) == test.label).double().mean())
    assert metrics["test/accuracy"] == pytest.approx(right, abs=1e-6)
    plain = -torch.cdist(f_test, mean).square()
    expected = swept(plain.numpy(), test.label.numpy(), 8)
    assert metrics["test/area_euclidean"] == pytest.approx(expected, abs=1e-6)
    table = module.tables["class_incremental"].columns
    assert table["classes"] == [9, 10, 9, 10]
    assert table["area"][:2] == pytest.approx(areas, abs=1e-9)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    data = LabelledImages(Digits(), batch_size=300)
    with pytest.raises(ValueError, match="some classes have no statistics"):
        in_double(default_root_dir=tmp_path).test(incremental(), datamodule=data, verbose=False)
    with pytest.raises(ValueError, match="num_base_classes"):
        ClassIncremental(copy.deepcopy(trained()), 8, 8, "relu2", (1, 8, 8))
    with pytest.raises(ValueError, match="classifier"):
        incremental(classifier="cosine")
