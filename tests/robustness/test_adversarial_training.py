from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from datamodules.batches import LabelledImageBatch
from lightning_modules.robustness.adversarial_training import AdversarialTraining


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(16, 2))


def batch() -> LabelledImageBatch:
    image = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return {"image": image, "label": torch.arange(6) % 2, "index": torch.arange(6), "global_size": 6}


def test_a_step_is_the_cross_entropy_at_the_worst_corner_of_the_budget() -> None:
    """Of two classes told apart linearly, the worst perturbation is epsilon sign(w_other - w_y), far from 0 and 1."""
    module = AdversarialTraining(linear(), num_classes=2, epsilon=0.1, steps=20, step_size=0.05)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    module.train()
    given = batch()
    loss = module.training_step(given, 0)["loss"]
    weight = module.network[2].weight  # type: ignore[index]
    sign = (weight[1] - weight[0]).sign().view(1, 1, 4, 4) * (1 - 2 * given["label"]).view(-1, 1, 1, 1)
    expected = F.cross_entropy(module(given["image"] + 0.1 * sign), given["label"])
    torch.testing.assert_close(loss, expected)
    assert module.network.training
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.network.parameters())


def test_the_attacked_network_is_in_evaluation_mode() -> None:
    module = AdversarialTraining(linear(), num_classes=2, epsilon=0.1, steps=3)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    modes: list[bool] = []
    module.network.register_forward_hook(lambda network, *rest: modes.append(network.training))
    module.train()
    module.training_step(batch(), 0)
    assert modes == [False] * 4 + [True]
    assert module.step_size == pytest.approx(2.5 * 0.1 / 3)


def test_weights_in_float16_cannot_be_attacked() -> None:
    module = AdversarialTraining(linear(), num_classes=2)
    trainer = Trainer(accelerator="cpu", precision="16-true", logger=False, enable_model_summary=False, max_steps=1)
    with pytest.raises(ValueError, match="AdversarialTraining needs gradients"):
        trainer.fit(module, DataLoader([0]))


@pytest.mark.parametrize(("key", "value"), [("epsilon", 0.0), ("steps", 0), ("step_size", 0.0), ("norm", "l1")])
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    arguments: dict[str, Any] = {key: value}
    with pytest.raises(ValueError, match=key):
        AdversarialTraining(linear(), num_classes=2, **arguments)
