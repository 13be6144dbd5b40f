"""A small blind-spot network whose ReLUs are active for only some pixels, and the gradient of a training step."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_modules.networks.blind_spot import BlindSpotNetwork


def small_network(module_relu: bool) -> BlindSpotNetwork:
    torch.manual_seed(0)
    return BlindSpotNetwork(channels=8, modules=1, module_relu=module_relu).double()


def gradient_of_a_step(module: LightningModule, noisy: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Take a training step without a trainer; return its loss and the gradients of the parameters by name."""
    module.log = lambda *args, **options: None  # type: ignore[method-assign]
    batch: Any = {"noisy": noisy, "index": torch.arange(len(noisy)), "global_batch_size": len(noisy)}
    outputs: Any = module.training_step(batch, 0)
    names, parameters = zip(*module.named_parameters(), strict=True)
    loss = outputs["loss"]
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
