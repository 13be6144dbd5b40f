"""N:M masks, the weight while its mask closes, and the gradients that flow back through it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.efficiency.nm_sparsity.masks import decayed_weight, nm_mask
from tests.numbers import numbers


@settings(deadline=None, max_examples=40)
@given(
    m=st.sampled_from([1, 2, 4, 8, 16]),
    groups=st.integers(1, 3),
    rows=st.integers(1, 4),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_each_group_keeps_its_n_largest_and_pruning_again_prunes_nothing(
    m: int, groups: int, rows: int, seed: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, m))
    weight = numbers(rows, groups * m, seed=seed)
    mask = nm_mask(weight, n, m)
    grouped, kept = weight.abs().view(-1, m), mask.view(-1, m)
    assert kept.sum(dim=1).eq(n).all()
    for values, own in zip(grouped, kept, strict=True):
        assert values[own].sort().values.equal(values.sort().values[m - n :])
    assert nm_mask(mask * weight, n, m).equal(mask)
    if n == m:
        assert mask.all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 16), (3, 8)])
def test_torchs_own_sparsifier_finds_the_same_mask(n: int, m: int) -> None:
    from torch.ao.pruning import WeightNormSparsifier

    layer = torch.nn.Linear(48, 12)
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, m), zeros_per_block=m - n)
    sparsifier.prepare(torch.nn.Sequential(layer), [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    found = layer.parametrizations.weight[0].mask  # type: ignore[union-attr, index]
    assert nm_mask(layer.parametrizations.weight.original, n, m).equal(found.bool())  # type: ignore[union-attr]


@pytest.mark.parametrize("n", [1, 2])
def test_outputs_are_the_inputs_of_the_transposed_and_channels_are_those_of_each_pixel(n: int) -> None:
    weight = numbers(8, 12)
    assert nm_mask(weight, n, 4, axis=0).equal(nm_mask(weight.T, n, 4).T)
    kernels = numbers(5, 8, 3, 2)
    by_channel = kernels.permute(0, 2, 3, 1).reshape(-1, 8)
    expected = nm_mask(by_channel, n, 4).view(5, 3, 2, 8).permute(0, 3, 1, 2)
    assert nm_mask(kernels, n, 4).equal(expected)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 16), (11, 16), (5, 32)])
def test_of_equal_weights_the_first_stay(n: int, m: int) -> None:
    assert nm_mask(torch.zeros(1, 2 * m), n, m).tolist() == [2 * [i < n for i in range(m)]]
    coarse = numbers(40, 4 * m).mul(2).round()
    order = coarse.abs().view(-1, m).argsort(dim=1, descending=True, stable=True)[:, :n]
    expected = torch.zeros(len(order), m, dtype=torch.bool).scatter_(1, order, True)
    assert nm_mask(coarse, n, m).view(-1, m).equal(expected)


@pytest.mark.parametrize(("n", "m"), [(1, 8), (2, 8), (3, 7), (8, 8)])
def test_unstructured_masks_keep_the_largest_of_the_whole_layer(n: int, m: int) -> None:
    weight = numbers(6, 8, 2, 1)
    mask, kept = nm_mask(weight, n, m, axis=None), 96 * n // m
    assert mask.shape == weight.shape
    assert int(mask.sum()) == kept
    assert weight[mask].abs().sort().values.equal(weight.abs().flatten().sort().values[96 - kept :])
    assert nm_mask(torch.zeros(4, 4), 1, 4, axis=None).flatten().tolist() == 4 * [True] + 12 * [False]


def test_the_forward_pass_is_dense_at_one_and_binary_at_zero() -> None:
    weight = numbers(6, 8)
    mask = nm_mask(weight, 2, 8)
    for decay in (0.0, 0.3, 1.0):
        found = decayed_weight(weight, mask, torch.tensor(decay, dtype=torch.float64))
        torch.testing.assert_close(found, mask * weight + decay * (~mask * weight), rtol=0, atol=1e-15)
    assert decayed_weight(weight, mask, torch.ones(()).double()).equal(weight)


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_gradients_are_straight_through_with_a_pull_or_those_of_the_forward_pass(decay: float) -> None:
    weight, gradient = numbers(6, 8).requires_grad_(), numbers(6, 8, seed=1)
    mask, d = nm_mask(weight, 2, 8), torch.tensor(decay, dtype=torch.float64)
    straight, pulled, masked = (
        torch.autograd.grad(decayed_weight(weight, mask, d, *arguments), weight, gradient)[0]
        for arguments in ((), ("ste", 2e-4), ("masked",))
    )
    assert straight.equal(gradient)
    torch.testing.assert_close(pulled, gradient + 2e-4 * (~mask * weight.detach()), rtol=0, atol=1e-15)
    [by_autograd] = torch.autograd.grad(mask * weight + d * ~mask * weight, weight, gradient)
    torch.testing.assert_close(masked, by_autograd, rtol=0, atol=1e-15)
