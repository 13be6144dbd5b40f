from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.robustness.consistency import Consistency
from tests.robustness.smoothed_training.by_hand import assert_same_with_gradients, loss_by_hand


class Recorder(torch.nn.Module):
    """A network that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 3)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return self.linear(image.flatten(1))


@pytest.mark.parametrize("copies", [1, 4])
def test_a_step_is_the_regularised_loss_of_every_copy_and_returns_the_first_ones_logits(copies: int) -> None:
    torch.manual_seed(0)
    network = Recorder()
    module = Consistency(network, num_classes=3, sigma=0.5, num_copies=copies, consistency_weight=8.0).double()
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    image, label = torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    batch: Any = {"image": image, "label": label, "index": torch.arange(6), "global_batch_size": 6}
    output = module.training_step(batch, batch_idx=0)
    (seen,) = network.seen
    assert seen.shape == (6 * copies, 1, 4, 4)
    noise = (seen.unflatten(0, (copies, 6)) - image) / 0.5
    assert 0.7 < float(noise.detach().std()) < 1.3
    logits = network.linear(seen.flatten(1)).unflatten(0, (copies, 6))
    assert_same_with_gradients(output["loss"], loss_by_hand(logits, label, 8.0, 0.5), network.parameters())
    torch.testing.assert_close(output["logits"], logits[0])
    assert not output["logits"].requires_grad
