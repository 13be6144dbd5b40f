"""Counting of gradients with respect to the outputs, and the loss over the whole training set after each epoch."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from lightning_modules.losses.output_losses import CountedLoss
from lightning_modules.networks.mlp import MLP
from lightning_modules.optimization.sso import Descent
from tests.trainers import quiet


def test_gradients_by_outputs_are_counted_and_nothing_else() -> None:
    loss, target = CountedLoss(nn.MSELoss(reduction="sum")), torch.ones(4)
    outputs = torch.zeros(4, 1, requires_grad=True)
    loss(outputs, target)
    with torch.no_grad():
        loss(outputs, target)
    loss.evaluation_loss(outputs, target).backward()
    assert loss.gradients == 0
    (2 * loss(3 * outputs, target)).backward()
    assert torch.autograd.grad(loss(outputs, target), outputs)[0].tolist() == [[-2.0]] * 4
    assert loss.gradients == 2


def test_the_course_is_of_all_training_images_as_they_are() -> None:
    torch.manual_seed(0)
    module = Descent(MLP(64, [5], 10), nn.CrossEntropyLoss(reduction="sum"), lambda p: torch.optim.SGD(p, lr=0.1))
    data = LabelledImages(Digits(train_size=150), batch_size=40)
    trainer = quiet(max_epochs=2, precision="64-true")
    trainer.fit(module, datamodule=data)
    source: Any = Digits(train_size=150).training()
    image = source.fetch(torch.arange(150), None).double() / source.data_range
    loss = nn.functional.cross_entropy(module.network(image), source.label)
    norm = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(module.network.parameters()))]).norm()
    assert module.course[-1]["training_loss"] == pytest.approx(loss.item(), abs=1e-12)
    assert module.course[-1]["gradient_norm"] == pytest.approx(norm.item(), abs=1e-12)
    assert [row["expensive_gradients"] for row in module.course] == [0, 4, 8]
    [tested] = trainer.test(module, datamodule=data, verbose=False)
    assert tested["test/training_loss"] == pytest.approx(loss.item(), abs=1e-12)
    assert tested["test/expensive_gradients"] == 8
    assert tested["test/loss"] > 0
    unseen: Any = Digits(train_size=150).test()
    image = unseen.fetch(torch.arange(len(unseen.label)), None).double() / unseen.data_range
    right = module.double().network(image).argmax(dim=1) == unseen.label
    assert tested["test/accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-12)


def test_validation_measures_the_loss_and_the_accuracy() -> None:
    module = Descent(MLP(64, [], 10), nn.CrossEntropyLoss(reduction="sum"), lambda p: torch.optim.SGD(p, lr=0.0))
    nn.init.zeros_(module.network.layers[-1].weight)
    with torch.no_grad():
        module.network.layers[-1].bias.copy_(torch.arange(10) == 3)
    data = LabelledImages(Digits(train_size=100), batch_size=40, split=Split(validation_fraction=0.2))
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(module, datamodule=data)
    [batch] = trainer.datamodule.val_dataloader()
    threes = (batch["label"] == 3).double().mean().item()
    assert trainer.callback_metrics["val/accuracy"].item() == pytest.approx(threes, abs=1e-6)
    normalizer = math.log(9 + math.e)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(normalizer - threes, abs=1e-6)
