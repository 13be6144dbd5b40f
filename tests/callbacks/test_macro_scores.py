"""Scores that weight all classes equally, compared with scikit-learn's, for uneven batches and with two processes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support, roc_auc_score
from torch import Tensor

from callbacks.macro_scores import MacroScores
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from tests.trainers import quiet

CLASSES, COUNT = 4, 61


class Unequal(ImageSet):
    """Four classes with 40, 15, 6 and 0 images; the pixels of an image serve as its logits."""

    num_classes = CLASSES
    image_shape = (1, 2, 2)

    def training(self) -> ImagesInMemory:
        return self.test()

    def test(self) -> ImagesInMemory:
        label = torch.tensor([0] * 40 + [1] * 15 + [2] * 6)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 120, (COUNT, CLASSES), generator=generator)
        noise[:, 3] = 0
        return ImagesInMemory(
            (noise + 60 * torch.nn.functional.one_hot(label, CLASSES)).byte().view(-1, 1, 2, 2), label
        )


class Pixels(ClassifierSteps, LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.metrics = accuracies(CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return 20 * image.flatten(1)


@pytest.mark.parametrize("processes", [1, 2])
def test_scores_are_those_of_scikit_learn(processes: int, tmp_path: Path) -> None:
    strategy = "ddp_fork" if processes > 1 else "auto"
    trainer = quiet(devices=processes, strategy=strategy, callbacks=[MacroScores()], default_root_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class has no image
        [found] = trainer.test(Pixels(), LabelledImages(Unequal(), batch_size=8), verbose=False)
    images = Unequal().test()
    label, logits = images.label.numpy(), 20 * images.image.flatten(1).double().numpy() / 255
    predicted = logits.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(label, predicted, average="macro")
    assert found["test/macro_precision"] == pytest.approx(precision)
    assert found["test/macro_recall"] == pytest.approx(recall)
    assert found["test/macro_recall"] == pytest.approx(balanced_accuracy_score(label, predicted))
    assert found["test/macro_f1"] == pytest.approx(f1)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    areas = [roc_auc_score(label == each, softmax[:, each]) for each in range(3)]
    assert found["test/macro_auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_what_gives_no_logits_is_named() -> None:
    class Silent(Pixels):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(TypeError, match="test_step of Silent must return a dict with 'logits' for MacroScores"):
        quiet(callbacks=[MacroScores()]).test(Silent(), LabelledImages(Unequal(), batch_size=8), verbose=False)
    with pytest.raises(TypeError, match="MacroScores needs a Classifier"):
        MacroScores().setup(quiet(), LightningModule(), "test")
