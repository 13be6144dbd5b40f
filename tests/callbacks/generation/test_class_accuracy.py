from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.generation import ClassAccuracy
from datamodules.classification.digits import ColouredDigits, Digits
from datamodules.classification.labelled_images import LabelledImages
from tests.trainers import quiet


class Remembering(LightningModule):
    """Returns training images of the requested classes; every `wrong`-th image has the next class instead."""

    generated_classes = 10

    def __init__(self, wrong: int = 0) -> None:
        super().__init__()
        self.wrong = wrong
        self.images = Digits().training()

    def sample(self, n: int, generator: torch.Generator | None = None, label: Tensor | None = None) -> Tensor:
        assert label is not None
        shown = [(int(each) + (self.wrong > 0 and place % self.wrong == 0)) % 10 for place, each in enumerate(label)]
        rows = [int((self.images.label == each).nonzero()[0]) for each in shown]
        return self.images.image[rows] / self.images.data_range

    def test_step(self, batch: Any, batch_idx: int) -> None: ...


def metrics_of(module: LightningModule, callback: ClassAccuracy) -> dict[str, float]:
    trainer = quiet(callbacks=[callback])
    trainer.test(module, LabelledImages(Digits(), batch_size=500), verbose=False)
    return {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}


def test_the_share_of_requested_classes_is_counted() -> None:
    found = metrics_of(Remembering(), ClassAccuracy(Digits(), num_samples=50, batch_size=20))
    assert found["class_accuracy"] == 1
    assert found["class_accuracy_by_chance"] == pytest.approx(0.1)
    assert 0.93 < found["class_accuracy_of_real_images"] < 1
    found = metrics_of(Remembering(wrong=4), ClassAccuracy(Digits(), num_samples=40, batch_size=20))
    assert found["class_accuracy"] == pytest.approx(0.75)
    module = Remembering()
    module.generated_classes = 0
    with pytest.raises(ValueError, match="ClassAccuracy needs a generator with classes"):
        metrics_of(module, ClassAccuracy(Digits()))


def test_coloured_digits_have_a_colour_for_each_class_and_half_of_the_grey_values() -> None:
    coloured, grey = ColouredDigits().training(), Digits().training()
    image = coloured.image / coloured.data_range
    assert torch.equal(coloured.label, grey.label)
    torch.testing.assert_close(image.mean(dim=1), grey.image[:, 0] / 32, rtol=0, atol=0.5 / 255 + 1e-6)
    colour = image.sum(dim=(2, 3)) / image.sum(dim=(1, 2, 3))[:, None]
    means = torch.stack([colour[coloured.label == each].mean(dim=0) for each in range(10)])
    assert (colour - means[coloured.label]).abs().max() < 0.01
    assert torch.cdist(means, means).add(torch.eye(10)).min() > 0.1
