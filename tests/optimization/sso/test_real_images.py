"""SSO on MNIST beside SGD, after as many expensive gradients."""

import os
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.mnist import MNIST
from lightning_modules.baselines import Descent
from lightning_modules.networks.mlp import MLP
from lightning_modules.optimization.sso import SSO, ScheduledStep
from tests.trainers import quiet

LOSS = nn.CrossEntropyLoss(reduction="sum")


@pytest.mark.data
def test_mnist_is_fitted_better_than_by_the_best_sgd_of_a_grid() -> None:
    """After 20 batches of 625 with m = 10, in two minutes: the mean loss of all 60,000 images."""

    def trained(make: Any) -> float:
        torch.manual_seed(1)
        module = make(MLP(784, [512, 256], 10))
        images = MNIST(os.environ["NOISEWORKS_DATA"])
        data = LabelledImages(images, batch_size=625, evaluation_batch_size=10_000, seed=1)
        quiet(max_epochs=1, limit_train_batches=20).fit(module, datamodule=data)
        print(module.course)
        assert module.loss.gradients == 20
        return module.course[-1]["training_loss"]

    sgd = [
        trained(lambda network, lr=lr: Descent(network, LOSS, lambda p: torch.optim.SGD(p, lr)))
        for lr in (0.03, 0.1, 0.3, 1.0)
    ]
    ours = trained(lambda network: SSO(network, LOSS, ScheduledStep(1 / (1 - 1 / 10)), 10))
    assert ours < 0.9 * min(sgd)
