import pytest
import torch

from datamodules.classification.digits import Digits, TuningDigits
from datamodules.classification.image_sets import UnequalClasses


def test_moved_digits_are_the_test_images_moved_by_a_pixel_with_noise_and_the_same_for_all_seeds() -> None:
    data = TuningDigits()
    test, moved = data.test(), data.ood_test_sets()["moved_noisy"]
    assert torch.equal(moved.label, test.label)
    assert torch.equal(moved.fetch(torch.arange(797), None), TuningDigits().ood_test_sets()["moved_noisy"].image)
    image, other = test.image.float() / 16, moved.fetch(torch.arange(797), None).float() / 16
    residual = torch.stack(
        [
            (other - torch.nn.functional.pad(image, [1 + r, 1 - r, 1 + d, 1 - d])[:, :, 1:-1, 1:-1])[:, 0, 2:-2, 2:-2]
            .square()
            .mean(dim=(1, 2))
            for d in (-1, 0, 1)
            for r in (-1, 0, 1)
        ]
    )
    best = residual.argmin(dim=0)  # index of the best of nine shifts; odd indices are shifts along one axis
    assert (best % 2 == 1).float().mean() > 0.95
    assert all((best == move).float().mean() > 0.2 for move in (1, 3, 5, 7))
    assert 0.02 < residual.min(dim=0).values.mean() < 0.04  # 0.2 squared, minus the clipped part


def test_classes_are_dropped_or_grow_by_a_factor_and_test_images_stay() -> None:
    digits = Digits(train_size=1000)
    label = digits.training().label
    source = UnequalClasses(digits, dropped=[1, 4, 8]).training()
    kept = ~torch.isin(label, torch.tensor([1, 4, 8]))
    assert torch.equal(source.label, label[kept])
    assert torch.equal(source.image, digits.training().image[kept])
    assert source.data_range == 16
    grown = UnequalClasses(digits, growth=0.5).training().label.bincount().double()
    assert grown[9] == (label == 9).sum()  # the last class keeps all of its images
    assert ((grown - grown[9] * torch.exp(0.5 * (torch.arange(10) - 9.0))).abs() < 1).all()
    fewer = UnequalClasses(digits, growth=-0.5).training().label
    assert (fewer == 0).sum() == (label == 0).sum()
    assert (fewer == 9).sum() == 2
    assert UnequalClasses(digits, growth=0.5).test().image.equal(digits.test().image)
    with pytest.raises(ValueError, match=r"dropped must list some, but not all, of the classes 0...9, got \[10\]"):
        UnequalClasses(digits, dropped=[10])
