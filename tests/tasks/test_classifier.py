from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from tests.trainers import quiet


class Given(ClassifierSteps, LightningModule):
    """Returns its inputs as logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return image


LOGITS = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def batches(*sizes: int, **more: Tensor) -> DataLoader:
    columns = {"image": LOGITS, "index": torch.arange(5), **more}
    parts = zip(*(column.split(list(sizes)) for column in columns.values()), strict=True)
    return DataLoader([dict(zip(columns, part, strict=True)) for part in parts], batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_accuracy_and_cross_entropy_are_on_the_given_labels_over_uneven_batches(stage: str) -> None:
    best = LOGITS.argmax(dim=1)
    label = torch.where(torch.arange(5) < 2, best, (best + 1) % 4)
    trainer = quiet()
    measure = trainer.validate if stage == "val" else trainer.test
    (found,) = measure(Given(4), batches(4, 1, label=label, clean_label=best), verbose=False)
    expected = nn.functional.cross_entropy(LOGITS.double(), label).item()
    assert found == pytest.approx({f"{stage}/accuracy": 2 / 5, f"{stage}/cross_entropy": expected}, rel=1e-6)


def test_top_five_accuracy_needs_fifty_classes() -> None:
    assert set(accuracies(49)) == {"accuracy"}
    assert set(accuracies(2)) == {"accuracy", "f1", "matthews"}
    assert set(accuracies(50)) == {"accuracy", "accuracy_top5"}


def test_two_classes_are_judged_by_f1_of_the_second_and_matthews_correlation() -> None:
    logits = F.one_hot(torch.tensor([1, 1, 1, 0, 0, 0, 0]), 2).float()
    label = torch.tensor([1, 1, 0, 1, 0, 0, 0])
    found = accuracies(2)(logits, label)
    assert float(found["f1"]) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert float(found["matthews"]) == pytest.approx((2 * 3 - 1 * 1) / (3 * 4 * 4 * 3) ** 0.5)


def test_texts_take_the_place_of_images() -> None:
    class Texts(Given):
        def forward(self, text: Any) -> Tensor:
            return text["logits"]

    batch = {"text": {"logits": LOGITS}, "index": torch.arange(5)}
    assert torch.equal(Texts(4).predict_step(batch, 0)["prediction"], LOGITS.argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_predicted_probabilities_are_in_single_precision(dtype: torch.dtype) -> None:
    batch = {"image": LOGITS.to(dtype), "index": torch.arange(5)}
    found = Given(4).predict_step(batch, 0)
    assert found["probabilities"].dtype == torch.float32
    expected = LOGITS.to(dtype).double().softmax(dim=1)
    torch.testing.assert_close(found["probabilities"].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(found["prediction"], LOGITS.argmax(dim=1))
    assert torch.equal(found["index"], torch.arange(5))
    assert torch.equal(found["probabilities"], Given(4).classify(LOGITS.to(dtype)))
