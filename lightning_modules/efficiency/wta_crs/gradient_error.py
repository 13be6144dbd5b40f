"""Comparison of the estimated gradients of sampled layers with the exact gradients."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batches import loss_weight, network_input
from datamodules.distributed.collectives import all_reduce_sum
from lightning_modules.efficiency.wta_crs.estimator import ESTIMATORS
from lightning_modules.efficiency.wta_crs.products import SampledLinear, Sampler
from lightning_modules.interfaces import Table


def gradient_errors(network: nn.Module, sampler: Sampler, batch: Any, begin: Callable[[], None]) -> dict[str, Tensor]:
    """Compute the relative error ||estimate - exact|| / ||exact|| of each layer's weight gradient on a global batch.

    The gradients of the batch are computed once exactly, from all activations, and once with each estimator. The
    dropout masks are the same each time.

    Args:
        network: network with sampled linear layers; its stored gradients do not change.
        sampler: state that all sampled products of the network share.
        batch: this rank's part of the batch, with labels.
        begin: function that restarts the step with the same random numbers.

    Returns:
        A dictionary from the name of each estimator to the errors of all layers, `[layers]`, in the order of
        definition.
    """
    weights = [layer.weight for layer in network.modules() if isinstance(layer, SampledLinear)]
    kept = sampler.estimator, sampler.ratio
    devices = [weights[0].device] if weights[0].device.type == "cuda" else []

    def gradients(estimator: Any, ratio: float) -> list[Tensor]:
        sampler.estimator, sampler.ratio = estimator, ratio
        begin()
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            loss = loss_weight(batch) * F.cross_entropy(network(network_input(batch)), batch["label"])
            return [all_reduce_sum(gradient) for gradient in torch.autograd.grad(loss, weights)]

    try:
        exact = gradients(kept[0], 1.0)
        found = {estimator: gradients(estimator, kept[1]) for estimator in ESTIMATORS}
    finally:
        sampler.estimator, sampler.ratio = kept
        begin()
    return {
        estimator: torch.stack([(one - of).norm() / of.norm() for one, of in zip(estimates, exact, strict=True)])
        for estimator, estimates in found.items()
    }


def table_of(errors: dict[str, Tensor]) -> Table:
    """Return a table with one relative gradient error for each layer and estimator."""
    rows = [(estimator, layer, error) for estimator, own in errors.items() for layer, error in enumerate(own.tolist())]
    estimators, layers, values = zip(*rows, strict=True)
    columns = {"layer": layers, "estimator": estimators, "relative error": values}
    labels = {"wta_crs": "WTA-CRS", "crs": "CRS", "top_k": "only the most probable"}
    return Table(columns, labels=labels, title="gradients of the layers' weights, compared with the exact gradients")
