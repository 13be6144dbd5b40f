import math
from typing import Any

import scipy.stats
import torch
import torch.nn.functional as F

from lightning_modules.probabilistic.scale_mixture_nngp import (
    ConvolutionalNetwork,
    DenseNetwork,
    FiniteNetworks,
    NetworkKernel,
    ScaleMixtureEnsemble,
)


def test_untrained_networks_have_the_t_law_of_their_kernel_and_not_a_normal_one() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[0.3, -1.2, 0.8]])
    networks = FiniteNetworks(4000, [3], 1, width=128, depth=2, activation="erf", weight_std=1.5, bias_std=0.2)
    with torch.no_grad():
        output = networks(x)[0, 0].numpy()
        variance = float(NetworkKernel(DenseNetwork(2, "erf"), 1.5, 0.2).diagonal(x.double()))
    assert scipy.stats.kstest(output, scipy.stats.t(4, scale=math.sqrt(variance)).cdf).pvalue > 0.01
    same_variance = scipy.stats.norm(scale=math.sqrt(2 * variance))
    assert scipy.stats.kstest(output, same_variance.cdf).pvalue < 1e-6


def test_networks_with_a_trained_last_layer_have_the_t_law_of_the_posterior_and_not_a_normal_one() -> None:
    """Gradient descent on squared errors keeps the sampled scale, so the law of y - f(X) carries over to f(x)."""
    torch.manual_seed(0)
    x, y = torch.tensor([[1.0, 0.2], [-0.7, 1.0]]), torch.tensor([0.8, -0.5])
    new = torch.tensor([[0.9, -1.0]])
    networks = FiniteNetworks(2000, [2], 1, width=256, depth=1, activation="erf", weight_std=1.5, bias_std=0.2)
    rate = 1 / networks.sigma.square()[:, None, None]  # equal speed for every scale; the same limit
    for _ in range(25):
        error = (networks(x)[:, 0] - y[:, None]).square().sum() / 2
        [gradient] = torch.autograd.grad(error, networks.last)
        with torch.no_grad():
            networks.last -= rate * gradient
    kernel = NetworkKernel(DenseNetwork(1, "erf"), 1.5, 0.2)
    with torch.no_grad():
        torch.testing.assert_close(networks(x)[:, 0], y[:, None].expand(-1, 2000), rtol=0, atol=0.02)
        output = networks(new)[0, 0].numpy()
        known, across = kernel(x.double(), x.double()), kernel(x.double(), new.double())
        mean = float((across.T @ torch.linalg.solve(known, y.double())).squeeze())
        left = kernel.diagonal(new.double()) - across.T @ torch.linalg.solve(known, across)
    spread = math.sqrt(float(left.squeeze()))
    assert scipy.stats.kstest(output, scipy.stats.t(4, mean, spread).cdf).pvalue > 0.01
    assert scipy.stats.kstest(output, scipy.stats.norm(mean, math.sqrt(2) * spread).cdf).pvalue < 1e-3
    assert scipy.stats.kstest(output, scipy.stats.t(4, 0, spread).cdf).pvalue < 1e-6  # the prior's mean


def test_each_member_is_a_network_of_its_own_and_its_variance_is_the_kernels() -> None:
    torch.manual_seed(1)
    networks = FiniteNetworks(300, [2, 4, 5], 3, width=8, depth=2, bias_std=0.3, alpha=None).double()
    x = torch.randn(2, 2, 4, 5).double()
    with torch.no_grad():
        together = networks(x)
        for member in (0, 7):
            h = x
            for weight, bias in zip(networks.weights, networks.biases, strict=True):
                h = F.conv2d(h, weight[member], padding=1) / math.sqrt(9 * h.shape[1])
                h = (h + 0.3 * bias[member][:, None, None]).relu()
            alone = h.flatten(1) @ networks.last[member].T / math.sqrt(h[0].numel())
            torch.testing.assert_close(together[..., member], alone, rtol=1e-10, atol=1e-12)
        expected = NetworkKernel(ConvolutionalNetwork(2), 1.0, 0.3).diagonal(x)
    torch.testing.assert_close(together.square().mean(dim=(1, 2)), expected, rtol=0.15, atol=0)


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
