import pytest
import torch
from torch import Tensor, nn

from lightning_modules.baselines.noise2void import Noise2Void, mask_pixels
from tests.baselines.restoration import Restored, gradient_of_a_step


def test_each_square_has_one_pixel_that_a_neighbour_replaces() -> None:
    noisy = torch.arange(2 * 12 * 20, dtype=torch.float64).view(1, 2, 12, 20).repeat(200, 1, 1, 1)
    uniform = torch.rand(200, 15, 3, generator=torch.Generator().manual_seed(0))
    replaced, hidden = mask_pixels(noisy, uniform, 4)
    squares = hidden.view(200, 1, 3, 4, 5, 4).sum(dim=(3, 5))
    assert torch.equal(squares, torch.ones_like(squares))
    assert torch.equal((replaced != noisy).any(dim=1, keepdim=True), hidden)
    assert torch.equal(replaced[:, 1] - replaced[:, 0], noisy[:, 1] - noisy[:, 0])  # from one neighbour
    _, _, row, column = hidden.nonzero(as_tuple=True)
    value = replaced[:, 0][hidden[:, 0]].long()
    down, across = value // 20 - row, value % 20 - column
    inside = (row >= 2) & (row < 10) & (column >= 2) & (column < 18)
    drawn = {(int(y), int(x)) for y, x in zip(down[inside], across[inside], strict=True)}
    assert drawn == {(y, x) for y in range(-2, 3) for x in range(-2, 3)} - {(0, 0)}
    assert max(down.abs().max(), across.abs().max()) <= 4  # near a border, neighbours may be up to 4 pixels away


class Constant(nn.Module):
    """Outputs the same value for every pixel, so that its weight has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25, dtype=torch.float64))

    def forward(self, image: Tensor) -> Tensor:
        return self.weight + 0 * image


def test_the_loss_is_over_hidden_pixels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = torch.rand(3, 1, 8, 12, dtype=torch.float64)
    module = Noise2Void(Constant(), square=4)
    drawn = torch.rand(3, 6 * 3)
    monkeypatch.setattr("lightning_modules.baselines.noise2void.sample_uniform", lambda *args, **options: drawn)
    loss, [gradient] = gradient_of_a_step(module, {"noisy": noisy})
    _, hidden = mask_pixels(noisy, drawn.view(3, 6, 3), 4)
    values = noisy[hidden]
    assert len(values) == 18
    assert loss == pytest.approx(float((0.25 - values).square().mean()), abs=1e-12)
    assert float(gradient) == pytest.approx(float(2 * (0.25 - values).mean()), abs=1e-12)


def test_hidden_pixels_follow_from_epoch_and_sample() -> None:
    module = Noise2Void(Restored())
    seen: list[Tensor] = []
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    noisy = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    for index in ([4, 7], [4, 7], [7, 4], [4, 9]):
        gradient_of_a_step(module, {"noisy": noisy, "index": torch.tensor(index)})
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][0], seen[3][0])
    assert not torch.equal(seen[0][1], seen[3][1])
    hidden = [image != noisy for image in seen]
    assert torch.equal(hidden[0][0], hidden[2][1])
