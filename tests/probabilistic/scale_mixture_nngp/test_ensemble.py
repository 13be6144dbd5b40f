from typing import Any

import torch
import torch.nn.functional as F

from lightning_modules.probabilistic.scale_mixture_nngp import FiniteNetworks, ScaleMixtureEnsemble


def test_members_have_the_gradients_that_they_have_alone() -> None:
    torch.manual_seed(0)
    networks = FiniteNetworks(3, [1, 3, 3], 4, width=5, depth=1).double()
    module = ScaleMixtureEnsemble(networks, 4)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    batch: Any = {"image": torch.rand(6, 1, 3, 3).double(), "label": torch.arange(6) % 4, "index": torch.arange(6)}
    batch["global_batch_size"] = 6
    step = module.training_step(batch, 0)
    step["loss"].backward()
    torch.testing.assert_close(step["logits"], module(batch["image"]).detach())
    [weight] = networks.weights
    assert weight.grad is not None
    for member in range(3):
        alone = F.cross_entropy(networks(batch["image"])[..., member], batch["label"])
        [gradient] = torch.autograd.grad(alone, weight)
        torch.testing.assert_close(weight.grad[member], gradient[member])
