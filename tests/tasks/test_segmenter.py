from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.tasks.segmenter import SegmenterSteps, confusion, iou_and_dice
from tests.trainers import quiet

NUM_CLASSES = 4


class OneHot(SegmenterSteps, LightningModule):
    """Predicts the mask that the image shows; category k gets the logit 1 + k, so the loss depends on the category."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = NUM_CLASSES
        self.metrics = confusion(NUM_CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(image[:, 0].long(), NUM_CLASSES).permute(0, 3, 1, 2)
        return one_hot * (1 + image)


class Masks(LightningDataModule):
    def __init__(self, batches: list[dict[str, Any]], class_names: list[str] | None = None) -> None:
        super().__init__()
        self.batches = batches
        self.class_names = class_names

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = predict_dataloader = test_dataloader


def batches(prediction: Tensor, label: Tensor, sizes: list[int]) -> list[dict[str, Any]]:
    parts = zip(prediction.split(sizes), label.split(sizes), torch.arange(len(label)).split(sizes), strict=True)
    return [
        {"image": mask[:, None].float(), "label": truth, "index": index, "global_batch_size": len(index)}
        for mask, truth, index in parts
    ]


def example() -> tuple[Tensor, Tensor]:
    """Return seven masks: category 2 occurs only in predictions, category 3 nowhere, and two masks have no pixels."""
    torch.manual_seed(0)
    label = torch.randint(2, (7, 5, 6))
    prediction = torch.where(torch.rand(7, 5, 6) < 0.3, 2 * torch.randint(2, (7, 5, 6)), label)
    label[torch.rand(7, 5, 6) < 0.2] = 255
    label[2] = 255
    label[6] = 255
    return prediction, label


@pytest.mark.parametrize("sizes", [[7], [2, 1, 3, 1]])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_overlaps_are_pooled_over_pixels_whatever_the_batches(sizes: list[int], stage: str) -> None:
    prediction, label = example()
    names = ["background", "left lung", "heart", "spine"]
    run = quiet()
    measure = run.validate if stage == "val" else run.test
    [scores] = measure(OneHot(), datamodule=Masks(batches(prediction, label, sizes), names), verbose=False)
    iou, dice = [], []
    for category in range(3):
        predicted, true = (((each == category) & (label != 255)) for each in (prediction, label))
        both, predicted, true = (int(each.sum()) for each in (predicted & true, predicted, true))
        iou.append(both / (predicted + true - both))
        dice.append(2 * both / (predicted + true))
        name = names[category].replace(" ", "_")
        assert scores[f"{stage}/iou_{name}"] == pytest.approx(iou[-1])
        assert scores[f"{stage}/dice_{name}"] == pytest.approx(dice[-1])
    assert iou[2] == 0
    assert scores[f"{stage}/miou"] == pytest.approx(sum(iou) / 3)
    assert scores[f"{stage}/dice"] == pytest.approx(sum(dice) / 3)
    assert not {f"{stage}/iou_spine", f"{stage}/dice_spine"} & set(scores)
    logits = OneHot()(prediction[:, None].float())
    expected = nn.functional.cross_entropy(logits, label, ignore_index=255)
    assert scores[f"{stage}/cross_entropy"] == pytest.approx(float(expected))


def test_an_epoch_begins_anew_and_categories_have_numbers_without_names() -> None:
    prediction, label = example()
    module = OneHot()
    data = Masks(batches(prediction, label, [7]))
    [first] = quiet().test(module, datamodule=data, verbose=False)
    [second] = quiet().test(module, datamodule=data, verbose=False)
    assert first == second
    assert {f"test/{measure}_{k}" for measure in ("iou", "dice") for k in range(3)} <= set(first)


def test_predictions_are_small_masks() -> None:
    prediction, label = example()
    outputs: Any = quiet().predict(OneHot(), datamodule=Masks(batches(prediction, label, [4, 3])))
    assert torch.equal(torch.cat([output["prediction"] for output in outputs]), prediction.to(torch.uint8))
    assert torch.equal(OneHot().segment(prediction[:, None].float()), prediction)
    assert torch.cat([output["index"] for output in outputs]).tolist() == list(range(7))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_dice_and_iou_agree(seed: int, num_classes: int) -> None:
    """Dice = 2 IoU / (1 + IoU), and both are symmetric in truth and prediction."""
    counts = torch.randint(3, (num_classes, num_classes), generator=torch.Generator().manual_seed(seed))
    iou, dice = iou_and_dice(counts)
    torch.testing.assert_close(dice, 2 * iou / (1 + iou), equal_nan=True)
    torch.testing.assert_close(iou_and_dice(counts.T), (iou, dice), equal_nan=True)
    both, either = counts.diagonal(), counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    torch.testing.assert_close(iou.double(), both.double() / either, equal_nan=True)
