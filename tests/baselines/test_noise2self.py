import pytest
import torch
from torch import Tensor, nn

from lightning_modules.baselines.noise2self import Noise2Self, grid_mask, interpolate_masked
from tests.baselines.restoration import Restored, gradient_of_a_step


def test_a_grid_has_the_pixel_of_every_square_that_the_numbers_select() -> None:
    hidden = grid_mask((8, 10), torch.tensor([[0.0, 0.99], [0.5, 0.3]]), 4)
    expected = torch.zeros(2, 1, 8, 10, dtype=torch.bool)
    expected[0, 0, 0::4, 3::4] = True
    expected[1, 0, 2::4, 1::4] = True
    assert torch.equal(hidden, expected)


def test_hidden_pixels_are_means_of_their_neighbours_and_others_stay() -> None:
    noisy, hidden = torch.rand(1, 2, 6, 7, dtype=torch.float64), torch.zeros(1, 1, 6, 7, dtype=torch.bool)
    hidden[0, 0, 2, 3] = True
    replaced = interpolate_masked(noisy, hidden)
    side = noisy[0, :, 1, 3] + noisy[0, :, 3, 3] + noisy[0, :, 2, 2] + noisy[0, :, 2, 4]
    corner = noisy[0, :, 1, 2] + noisy[0, :, 1, 4] + noisy[0, :, 3, 2] + noisy[0, :, 3, 4]
    torch.testing.assert_close(replaced[0, :, 2, 3], (side + 0.5 * corner) / 6)
    assert torch.equal(torch.where(hidden, noisy, replaced), noisy)


def test_the_loss_is_over_the_grid_and_its_estimates_do_not_depend_on_hidden_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 3, padding=1).double()
    noisy = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    drawn = torch.tensor([[0.3, 0.8], [0.6, 0.1]])
    monkeypatch.setattr("lightning_modules.baselines.noise2self.sample_uniform", lambda *args, **options: drawn)
    hidden = grid_mask((8, 8), drawn, 4)
    loss, found = gradient_of_a_step(Noise2Self(network), {"noisy": noisy})
    estimate = network(interpolate_masked(noisy, hidden))
    expected = (estimate - noisy)[hidden].square().mean()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-12)
    for have, want in zip(
        found, torch.autograd.grad(expected, list(network.parameters()), retain_graph=True), strict=True
    ):
        torch.testing.assert_close(have, want, rtol=0, atol=1e-12)
    [seen] = torch.autograd.grad(estimate[hidden].sum(), noisy)
    assert not seen[hidden].any()
    assert seen[~hidden].any()


def test_the_grid_follows_from_epoch_and_sample_and_small_patches_are_refused() -> None:
    module, seen = Noise2Self(Restored()), list[Tensor]()
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    noisy = torch.rand(1, 1, 16, 16, dtype=torch.float64).expand(6, -1, -1, -1)
    for _ in range(2):
        gradient_of_a_step(module, {"noisy": noisy})
    assert torch.equal(*seen)
    assert len({tuple(image.nonzero()[0].tolist()) for image in seen[0] != noisy}) > 1
    with pytest.raises(ValueError, match=r"patches of \[3, 8\] pixels must not be smaller than model.width \(4\)"):
        gradient_of_a_step(module, {"noisy": noisy[:, :, :3, :8]})
