import math

import torch

from lightning_modules.losses.mixing import Mixing, draw_mixing


def test_mixing_keeps_the_larger_part_and_permutes() -> None:
    torch.manual_seed(0)
    mixings = [draw_mixing(16, 1.0, "cpu") for _ in range(500)]
    weights = torch.tensor([m.weight for m in mixings])
    assert (weights >= 0.5).all()
    assert (weights <= 1).all()
    # Beta(1, 1) folded at one half is uniform on [1/2, 1]: mean 3/4, standard deviation 1/(4 sqrt 3).
    assert abs(weights.mean() - 0.75) < 4 * 0.1443 / math.sqrt(500)
    assert all(sorted(m.partner.tolist()) == list(range(16)) for m in mixings[:5])
    assert draw_mixing(4, 0.0, "cpu").weight == 1.0
    value = torch.arange(3.0)
    torch.testing.assert_close(Mixing(0.75, torch.tensor([1, 2, 0]))(value), torch.tensor([0.25, 1.25, 1.5]))
