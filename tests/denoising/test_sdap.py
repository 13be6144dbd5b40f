import pytest
import torch
from torch import Tensor, nn

from lightning_modules.denoising.sdap import SDAP, cyclic_difference_loss, random_sub_samples
from lightning_modules.denoising.sub_images import merge_sub_images, sub_images
from tests.denoising.steps import gradient_of_a_step, small_network


def test_every_pixel_of_a_cell_goes_to_one_sub_image() -> None:
    image, uniform = torch.rand(2, 3, 10, 15), torch.rand(2, 25, 2, 3)
    sampled, order = random_sub_samples(image, uniform, 5), uniform.argsort(dim=1).transpose(0, 1)
    assert sampled.shape == (25, 2, 3, 2, 3)
    back = torch.empty_like(sampled).scatter_(0, order[:, :, None].expand_as(sampled), sampled)
    assert merge_sub_images(back).equal(image)
    in_order = torch.linspace(0, 1, 25)[None, :, None, None].expand(2, 25, 2, 3)
    assert random_sub_samples(image, in_order, 5).equal(sub_images(image, 5))


def test_cells_have_orders_of_their_own_and_differences_of_mean_zero() -> None:
    cell, draws = torch.rand(1, 1, 3, 3, dtype=torch.float64), 2000
    uniform = torch.rand(1, 9, 1, draws, generator=torch.Generator().manual_seed(0))
    sampled = random_sub_samples(cell.repeat(1, 1, 1, draws), uniform, 3)[:, 0, 0, 0]
    difference = sampled.roll(-1, dims=0) - sampled
    assert (difference.mean(dim=1).abs() < 4 * difference.std(dim=1) / draws**0.5).all()
    values = (sampled[..., None] == cell.flatten()).double().mean(dim=1)  # one of 9 pixels, each in 1 / 9 of the cells
    torch.testing.assert_close(values, torch.full((9, 9), 1 / 9, dtype=torch.float64), rtol=0, atol=0.03)


def test_the_loss_is_a_sum_over_sub_images_of_the_distance_to_the_next() -> None:
    sampled = torch.rand(4, 2, 3, 5, 6, dtype=torch.float64)
    expected = sum((2 * sampled[j] - sampled[(j + 1) % 4]).abs().mean() for j in range(4))
    doubled = cyclic_difference_loss(lambda image: 2 * image, sampled)  # type: ignore[arg-type]
    torch.testing.assert_close(doubled, expected)
    same = cyclic_difference_loss(nn.Identity(), sampled)
    torch.testing.assert_close(same, cyclic_difference_loss(nn.Identity(), sampled.roll(1, dims=0)))
    constant = torch.full((25, 1, 3, 2, 2), 0.4, dtype=torch.float64)
    assert float(cyclic_difference_loss(nn.Identity(), constant)) == 0
    shifted = cyclic_difference_loss(lambda image: image + 0.1, constant)  # type: ignore[arg-type]
    assert float(shifted) == pytest.approx(2.5, abs=1e-12)


def test_a_step_has_the_gradient_of_the_loss_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, drawn = torch.rand(2, 3, 12, 12, dtype=torch.float64), torch.rand(2, 9, 4, 4)
    monkeypatch.setattr("lightning_modules.denoising.sdap.drawn_uniformly", lambda *_: drawn)
    module = SDAP(small_network(module_relu=False), stride=3)
    loss, found = gradient_of_a_step(module, noisy)
    parts = []
    for j in range(9):  # pixel by pixel
        part = torch.empty(2, 3, 4, 4, dtype=torch.float64)
        for n in range(2):
            for row in range(4):
                for column in range(4):
                    k = int(drawn[n, :, row, column].argsort()[j])
                    part[n, :, row, column] = noisy[n, :, 3 * row + k // 3, 3 * column + k % 3]
        parts.append(part)
    given = [module.network(part) for part in parts]
    expected = torch.stack([(given[j] - parts[(j + 1) % 9]).abs().mean() for j in range(9)]).sum()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-12)
    wanted = torch.autograd.grad(expected, list(module.parameters()))
    for (name, have), want in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=1e-12, msg=name)


def test_a_fixed_order_gives_strided_slices() -> None:
    module, noisy = (
        SDAP(small_network(module_relu=False), stride=3, fixed_order=True),
        torch.rand(2, 3, 12, 12).double(),
    )
    parts = [noisy[:, :, row::3, column::3] for row in range(3) for column in range(3)]
    expected = torch.stack([(module.network(parts[j]) - parts[(j + 1) % 9]).abs().mean() for j in range(9)]).sum()
    assert gradient_of_a_step(module, noisy)[0] == pytest.approx(float(expected.detach()), abs=1e-12)


class Recorded(nn.Module):
    """Stores its input and returns the input plus one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return image + 1


@pytest.mark.parametrize("enhancement", [False, True])
def test_images_of_odd_sizes_are_denoised_by_their_sub_images_and_once_more(enhancement: bool) -> None:
    network, image = Recorded(), torch.rand(2, 3, 7, 10)
    estimate = SDAP(network, enhancement=enhancement).restore(image)
    torch.testing.assert_close(estimate, image + 1 + enhancement)
    assert network.seen[0].shape == (8, 3, 4, 5)
    assert [seen.shape for seen in network.seen[1:]] == [image.shape] * enhancement


def test_images_that_the_stride_does_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match="height and width must be divisible by the stride 5, got 12 x 10"):
        gradient_of_a_step(SDAP(small_network(module_relu=False)), torch.rand(1, 3, 12, 10, dtype=torch.float64))
