import math

import pytest
import torch

from lightning_modules.diffusion.noise_diffusion import measures
from lightning_modules.diffusion.noise_diffusion.measures import frame_measures, latent_statistics, nearest_distances


def test_statistics_of_normal_numbers_are_known() -> None:
    normal = 1.0 * torch.randn(2, 1, 200, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = latent_statistics(normal)
    for name, value in {"deviation": 1, "kurtosis": 3, "beyond_2": math.erfc(2**0.5), "norm": 1}.items():
        assert found[name].shape == (2,)
        assert found[name].numpy() == pytest.approx(value, abs=0.03), name
    uniform = latent_statistics(torch.linspace(-3, 3, 10_001, dtype=torch.float64)[None] + 1)
    assert uniform["kurtosis"].item() == pytest.approx(1.8, abs=1e-3)
    assert uniform["deviation"].item() == pytest.approx(math.sqrt(3), abs=1e-3)
    assert uniform["norm"].item() == pytest.approx(2, abs=1e-3)


def test_rows_of_one_pixel_are_measured_by_hand() -> None:
    first, second = torch.tensor([0.0]).view(1, 1, 1, 1), torch.tensor([1.0]).view(1, 1, 1, 1)
    frames = torch.tensor([0.1, 0.4, 1.3]).view(1, 3, 1, 1, 1)  # the row is 0, .1, .4, 1, 1
    found = {key: value.item() for key, value in frame_measures(frames, first, second).items()}
    assert found == pytest.approx(
        {"out_of_range": 1 / 3, "distance_to_ends": 0.5, "mean_step": 0.25, "largest_step": 0.6}
    )


def test_the_nearest_training_image_is_found_in_any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 17, (23, 1, 4, 4), generator=random, dtype=torch.uint8)
    images = torch.rand(5, 1, 4, 4, generator=random, dtype=torch.float64)
    images[0] = stored[20] / 16
    expected = torch.stack([(stored.double() / 16 - image).flatten(1).norm(dim=1).min() for image in images])
    monkeypatch.setattr(measures, "ROWS_AT_ONCE", 7)
    torch.testing.assert_close(nearest_distances(images, stored, 16), expected, rtol=0, atol=1e-6)
