from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from datamodules.batches import LabelledImageBatch
from lightning_modules.robustness.adversarial_training import AdversarialTraining
from tests.robustness.smoothed_training.by_hand import assert_same_with_gradients


def training(**arguments: Any) -> AdversarialTraining:
    """Build a linear classifier of two classes, in float64 and in training mode."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(16, 2))
    return AdversarialTraining(network, num_classes=2, **{"epsilon": 0.1, **arguments}).double().train()


def batch() -> LabelledImageBatch:
    random = torch.Generator().manual_seed(0)
    image = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=random, dtype=torch.float64)
    return {"image": image, "label": torch.arange(6) % 2, "index": torch.arange(6), "global_batch_size": 6}


def test_a_step_is_the_cross_entropy_at_the_worst_corner_of_the_budget() -> None:
    """Far from pixel values 0 and 1, the worst perturbation is epsilon sign(w_other - w_y) for two linear classes.

    The gradient is the one at the attacked image; it does not pass through the attack.
    """
    module, given = training(steps=20, step_size=0.05), batch()
    loss = module.training_step(given, 0)["loss"]
    weight = module.network[2].weight.detach()  # type: ignore[index]
    sign = (weight[1] - weight[0]).sign().view(1, 1, 4, 4) * (1 - 2 * given["label"]).view(-1, 1, 1, 1)
    expected = F.cross_entropy(module(given["image"] + 0.1 * sign), given["label"])
    assert_same_with_gradients(loss, expected, module.parameters())
    assert module.network.training


def test_the_attacked_network_is_in_evaluation_mode() -> None:
    module, modes = training(steps=3), []
    module.network.register_forward_hook(lambda network, *rest: modes.append(network.training))
    module.training_step(batch(), 0)
    assert modes == [False] * 4 + [True]
    assert module.step_size == pytest.approx(2.5 * 0.1 / 3)


def test_weights_in_float16_cannot_be_attacked() -> None:
    module = training()
    trainer = Trainer(accelerator="cpu", precision="16-true", logger=False, enable_model_summary=False, max_steps=1)
    with pytest.raises(ValueError, match="AdversarialTraining needs gradients"):
        trainer.fit(module, DataLoader([0]))
