"""Sanity checks before training; rejections are tested in `tests/experiments/test_command_line.py`."""

import torch
from torch import Tensor, nn

from callbacks.guards.sanity_checks import SanityChecks
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from lightning_modules.baselines import CrossEntropy
from tests.trainers import quiet


class Exchanging(nn.Linear):
    """Imitates a layer that exchanges statistics between processes in training mode, and fails on the meta device."""

    def forward(self, image: Tensor) -> Tensor:
        if self.training and image.device.type == "meta":
            raise AssertionError("a collective of a tensor on meta")
        return super().forward(image.flatten(1))


def test_a_network_is_checked_without_its_exchange_between_processes_and_stays_in_its_modes() -> None:
    network = nn.Sequential(Exchanging(64, 10), nn.BatchNorm1d(10))
    module = CrossEntropy(network, 10, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    data = LabelledImages(Digits(train_size=300), batch_size=100)
    quiet(callbacks=[SanityChecks()], max_epochs=1, limit_train_batches=1).fit(module, datamodule=data)
    for mode in (True, False):
        network.train(mode)
        network[1].train(not mode)
        SanityChecks._check_network(network, (1, 8, 8), 10)
        assert [part.training for part in network.modules()] == [mode, mode, not mode]
