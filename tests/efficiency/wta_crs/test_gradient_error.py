"""The errors of the layers' gradients are measured, without changing the training step."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.efficiency.wta_crs.gradient_error import gradient_errors, table_of
from lightning_modules.efficiency.wta_crs.module import sample_products
from lightning_modules.efficiency.wta_crs.products import SampledLinear, Sampler
from tests.efficiency.wta_crs.networks import vit

BATCH: Any = {
    "image": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "label": torch.tensor([0, 1, 2, 0, 1, 2]),
    "index": torch.arange(6),
    "global_batch_size": 6,
}


def sampled(ratio: float, dropout: float = 0.0) -> tuple[nn.Module, Sampler, Any]:
    torch.manual_seed(0)
    network, sampler = vit(dropout=dropout).double(), Sampler(ratio)
    sample_products(network, ["blocks.*"], [], sampler)

    def begin() -> None:
        sampler.begin_step(6, None, [torch.Generator().manual_seed(3)])

    begin()
    return network, sampler, begin


def weight_gradients(network: nn.Module) -> list[Tensor]:
    weights = [layer.weight for layer in network.modules() if isinstance(layer, SampledLinear)]
    return list(torch.autograd.grad(F.cross_entropy(network(BATCH["image"]), BATCH["label"]), weights))


def test_the_error_is_that_of_the_step_itself() -> None:
    network, sampler, begin = sampled(0.3)
    errors = gradient_errors(network, sampler, BATCH, begin)
    estimate = weight_gradients(network)
    exact, whole, begin_whole = sampled(1.0)
    begin_whole()
    for error, one, of in zip(errors["wta_crs"], estimate, weight_gradients(exact), strict=True):
        torch.testing.assert_close(error, (one - of).norm() / of.norm(), rtol=1e-9, atol=0)
    assert (errors["crs"] > 0).all()
    assert (whole.ratio, sampler.ratio, sampler.estimator) == (1.0, 0.3, "wta_crs")
    assert all(parameter.grad is None for parameter in network.parameters())
    columns = table_of(errors).columns
    assert columns["estimator"] == (*("wta_crs",) * 8, *("crs",) * 8, *("top_k",) * 8)
    assert columns["layer"] == tuple(range(8)) * 3
    torch.testing.assert_close(torch.tensor(columns["relative error"][:8], dtype=torch.float64), errors["wta_crs"])


def test_all_tokens_have_no_error_under_the_same_dropout() -> None:
    network, sampler, begin = sampled(1.0, dropout=0.5)
    before = torch.get_rng_state()
    errors = gradient_errors(network, sampler, BATCH, begin)
    assert all(float(error.max()) == 0 for error in errors.values())
    assert torch.get_rng_state().equal(before)


def test_winners_lower_the_error_once_gradients_are_known() -> None:
    network, sampler, _ = sampled(0.3)
    weight_gradients(network)
    known = sampler.measured_norms()
    begin_known = partial(sampler.begin_step, 6, known)
    found = [gradient_errors(network, sampler, BATCH, begin_known) for _ in range(20)]
    mean = {estimator: torch.stack([errors[estimator] for errors in found]).mean() for estimator in found[0]}
    assert mean["wta_crs"] < 0.7 * mean["crs"]
