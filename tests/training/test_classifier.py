import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.training.classifier import ClassifierSteps, accuracies
from tests.trainers import quiet


class Given(ClassifierSteps, LightningModule):
    """Its logits are its inputs."""

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
    assert set(accuracies(50)) == {"accuracy", "accuracy_top5"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_predicted_probabilities_are_in_single_precision(dtype: torch.dtype) -> None:
    batch = {"image": LOGITS.to(dtype), "index": torch.arange(5)}
    found = Given(4).predict_step(batch, 0)
    assert found["probabilities"].dtype == torch.float32
    expected = LOGITS.to(dtype).double().softmax(dim=1)
    torch.testing.assert_close(found["probabilities"].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(found["prediction"], LOGITS.argmax(dim=1))
    assert torch.equal(found["index"], torch.arange(5))
