import math

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from lightning_modules.denoising.cbsn import CBSN, cbsn_terms, loss_ramp, standardize_channels
from lightning_modules.denoising.sub_images import sub_sampled
from lightning_modules.networks.blind_spot import BlindSpotNetwork
from tests.denoising.steps import gradient_of_a_step, small_network


def patches() -> Tensor:
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def parts_by_hand(network: nn.Module, x: Tensor, index: Tensor, cut: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Compute L_blind (stride 3), L_self and L_inv (stride 2) in loops over slices and cells."""
    given = torch.zeros_like(x)
    for row in range(3):
        for column in range(3):
            given[:, :, row::3, column::3] = network(x[:, :, row::3, column::3], masked=True)
    seeing = network(x, masked=False)

    def sampled(image: Tensor) -> Tensor:
        rows = []
        for n in range(len(image)):
            for i in range(6):
                for j in range(6):
                    k = int(index[n, i, j])
                    rows.append(image[n, :, 2 * i + k // 2, 2 * j + k % 2])
        return torch.stack(rows).view(len(image), 6, 6, 3).permute(0, 3, 1, 2)

    target = network(sampled(x), masked=True)
    target = target.detach() if cut else target
    return (given - x).abs().mean(), (seeing - x).abs().mean(), (sampled(seeing) - target).abs().mean()


def gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters()), retain_graph=True))


def test_terms_and_gradients_are_those_of_the_paper() -> None:
    network, (x, _, _) = small_network(module_relu=True), standardize_channels(patches())
    index = torch.randint(4, (2, 6, 6), generator=torch.Generator().manual_seed(2))
    found, expected = cbsn_terms(network, x, index, 3, 2), parts_by_hand(network, x, index)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        for have, want in zip(gradients(one, network), gradients(other, network), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=1e-12)
    uncut = gradients(parts_by_hand(network, x, index, cut=False)[2], network)
    assert (
        max(float((a - b).abs().max()) for a, b in zip(gradients(found[2], network), uncut, strict=True)) > 1e-4
    )  # no gradient flows through the target


def test_a_fixed_sub_sampler_keeps_the_first_pixel_of_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    module = CBSN(small_network(module_relu=True), blind_stride=3, ramp_steps=1, fixed_cells=True)
    monkeypatch.setattr(CBSN, "global_step", 1)
    loss, _ = gradient_of_a_step(module, patches())
    blind, own, invariance = parts_by_hand(
        module.network, standardize_channels(patches())[0], torch.zeros(2, 6, 6, dtype=torch.int64)
    )
    assert loss == pytest.approx(float((blind + own + 2 * invariance).detach()), abs=1e-12)


@pytest.mark.parametrize("step", [0, 30])
def test_a_step_sums_the_terms_and_centre_taps_learn_after_the_ramp_begins(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("lightning_modules.denoising.cbsn.drawn_uniformly", lambda *_: drawn)
    module = CBSN(small_network(module_relu=True), blind_stride=3, strength=1.7, ramp_steps=40)
    monkeypatch.setattr(CBSN, "global_step", step)
    loss, found = gradient_of_a_step(module, patches())
    blind, own, invariance = parts_by_hand(module.network, standardize_channels(patches())[0], (drawn[:, 0] * 4).long())
    expected = blind + step / 40 * (own + 1.7 * invariance)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-12)
    for name, have, want in zip(found, found.values(), gradients(expected, module.network), strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=1e-12, msg=name)
    for name, middle in (("branch1", 1), ("branch2", 2)):
        assert bool(found[f"network.{name}.body.0.weight"][:, :, middle, middle].any()) is (step > 0)


class Seeing(nn.Module):
    """With the mask, a blind-spot network; without the mask, the identity."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, masked: bool) -> Tensor:
        return self.network(image, masked=True) if masked else image


@pytest.mark.parametrize("copies", [False, True])
def test_the_term_bounds_the_supervised_loss_and_one_with_an_unmasked_target_does_not(copies: bool) -> None:
    """E|f - y|^2 + s^2 = E|f - x|^2 + 2 E(f - y)n, and with a blind g, E(f - y)n = E(R f - g)R n for any f and y.

    By Cauchy and Schwarz, E|f - y|^2 + s^2 <= E|f - x|^2 + 2 s (E|R f - g|^2)^(1/2). The noise n of variance s^2 is
    independent between pixels, x = y + n, and squares are means over pixels.
    """
    random, count = torch.Generator().manual_seed(4), 1000
    network: nn.Module = small_network(module_relu=True)
    network = Seeing(network) if copies else network
    clean = torch.rand(1, 3, 6, 6, generator=random, dtype=torch.float64)
    noise = torch.randn(count, 3, 6, 6, generator=random, dtype=torch.float64)
    index = torch.randint(4, (count, 3, 3), generator=random)

    def mean(product: Tensor) -> Tensor:
        return product.flatten(1).mean(dim=1)

    def sampled(image: Tensor) -> Tensor:
        return sub_sampled(image, index[None], 2)[0]

    with torch.no_grad():
        x = clean + noise
        seeing = network(x, masked=False)
        loss, own = mean((seeing - clean).square()) + mean(noise.square()), mean((seeing - x).square())
        torch.testing.assert_close(loss, own + 2 * mean((seeing - clean) * noise))
        bounds, gaps = [], []
        for masked in (True, False):
            apart = sampled(seeing) - network(sampled(x), masked=masked)
            gaps.append(mean(apart * sampled(noise)) - mean((seeing - clean) * noise))
            bounds.append(float(own.mean() + 2 * mean(apart.square()).mean().sqrt()))
    errors = [float(gap.mean().abs() / gap.std() * count**0.5) for gap in gaps]
    assert errors[0] < 4
    assert float(loss.mean()) < bounds[0]
    if copies:
        assert errors[1] > 8
        assert bounds[1] < float(loss.mean())


def test_a_patch_is_normalised_by_channel_and_a_constant_one_is_zero() -> None:
    image = patches()
    x, mean, std = standardize_channels(image)
    torch.testing.assert_close(x.square().mean(dim=(2, 3)), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(x * std + mean, image, rtol=0, atol=1e-12)
    flat, _, floor = standardize_channels(torch.full((1, 3, 12, 12), 0.25, dtype=torch.float64))
    assert not flat.any()
    assert floor.flatten().tolist() == [1 / 12] * 3


def test_the_ramp_is_linear_up_to_one() -> None:
    assert [loss_ramp(step, 200_000) for step in (0, 100_000, 200_000, 300_000)] == [0, 0.5, 1, 1]


class Given(nn.Module):
    """Returns and stores its input."""

    def forward(self, image: Tensor, masked: bool) -> Tensor:
        self.seen = image
        self.masked = masked
        return image


@pytest.mark.parametrize("blind", [False, True])
def test_an_image_is_denoised_whole_and_put_back_to_its_own_range(blind: bool) -> None:
    network, image = Given(), 3 * torch.rand(2, 3, 40, 51, dtype=torch.float64) - 1
    torch.testing.assert_close(CBSN(network, blind=blind).restore(image), image, rtol=0, atol=1e-12)
    assert network.masked is blind
    assert network.seen.shape == (2, 3, 104, 115)
    seen = network.seen[0, 0]
    assert seen[31, 40] == seen[33, 40]
    assert math.isclose(float(seen[32:-32, 32:-32].std(correction=0)), 1)


class Restored(nn.Module):
    def __init__(self, model: CBSN) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.restore(image)


def test_an_exported_program_takes_images_of_other_sizes() -> None:
    model = CBSN(BlindSpotNetwork(channels=4, modules=1)).eval()
    sides = {place: 32 * Dim(name, min=2) for place, name in ((2, "height"), (3, "width"))}
    program = export(Restored(model), (torch.rand(2, 3, 64, 64),), dynamic_shapes=(sides,), strict=False)
    for height, width in ((64, 96), (96, 64)):
        image = torch.rand(2, 3, height, width)
        torch.testing.assert_close(program.module()(image), model.restore(image), rtol=1e-5, atol=1e-5)


def test_images_that_are_too_small_are_named() -> None:
    with pytest.raises(ValueError, match=r"images need more than 32 pixels per side, got \[32, 50\]"):
        CBSN(BlindSpotNetwork(channels=2, modules=1)).restore(torch.rand(1, 3, 32, 50))
