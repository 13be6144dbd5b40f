from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.interfaces import ImageMeasurer, PictureSource, require
from lightning_modules.metrics.image_quality import ImageQuality, psnr, ssim
from lightning_modules.restoration.negvsr.clip_restorer import (
    ClipRestorerSteps,
    add_noise_sequences,
    enlarged_clip,
    slices,
    strips,
)
from tests.trainers import quiet


class Doubling(ClipRestorerSteps, LightningModule):
    """Doubles the size of clips, and brightens them."""

    def __init__(self) -> None:
        super().__init__()
        self.quality = ImageQuality("unclipped")

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return 1.1 * enlarged_clip(degraded, torch.Size([2 * side for side in degraded.shape[3:]]))


def batch(first: int, count: int, noise: bool = True, clean: bool = True) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(first)
    made: dict[str, Any] = {"index": torch.arange(first, first + count), "global_batch_size": count}
    made |= {"noisy": torch.rand(count, 3, 1, 8, 8, generator=generator)}
    made |= {"clean": torch.rand(count, 3, 1, 16, 16, generator=generator)} if clean else {}
    made |= {"noise": torch.rand(count, 3, 1, 8, 8, generator=generator)} if noise else {}
    return made


def test_it_is_a_restorer_that_is_measured_and_shown() -> None:
    for protocol in (ImageMeasurer, PictureSource):
        require(Doubling(), protocol, "the test")


@pytest.mark.parametrize("noise", [False, True])
def test_measures_are_means_over_frames_and_clips(noise: bool) -> None:
    module, batches = Doubling(), [batch(0, 2, noise), batch(2, 1, noise)]
    [metrics] = quiet().test(module, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
    clips = {key: torch.cat([each[key] for each in batches]) for key in ("noisy", "clean", *(["noise"] * noise))}
    clean = clips["clean"].flatten(0, 1)

    def measured(given: Tensor, measure: Any) -> float:
        frames = 1.1 * enlarged_clip(given, torch.Size([16, 16])).flatten(0, 1)
        return float(measure(frames, clean, "unclipped").mean())

    assert metrics["test/psnr"] == pytest.approx(measured(clips["noisy"], psnr), abs=1e-4)
    assert metrics["test/ssim"] == pytest.approx(measured(clips["noisy"], ssim), abs=1e-4)
    assert metrics["test/noisy_psnr"] == pytest.approx(measured(clips["noisy"] / 1.1, psnr), abs=1e-4)
    assert ("test/drift" in metrics) == noise
    if noise:
        shifted = add_noise_sequences(clips["noisy"], clips["noise"])
        assert metrics["test/disturbed_psnr"] == pytest.approx(measured(shifted, psnr), abs=1e-4)
        difference = 1.1 * enlarged_clip(shifted - clips["noisy"], torch.Size([16, 16]))
        assert metrics["test/drift"] == pytest.approx(float(difference.abs().mean()), abs=1e-5)
    assert [row["index"] for row in module.quality.table] == [0, 1, 2]


def test_a_disturbance_has_no_mean_of_its_own_and_is_clipped() -> None:
    given, noise = torch.full((1, 2, 3, 4, 4), 0.5), 0.5 * torch.rand(1, 2, 3, 4, 4)
    made = add_noise_sequences(given, noise)
    torch.testing.assert_close(made.mean(dim=(1, 3, 4)), torch.full((1, 3), 0.5))
    torch.testing.assert_close(made - 0.5, noise - noise.mean(dim=(1, 3, 4), keepdim=True))
    assert add_noise_sequences(torch.ones_like(given), noise).max() == 1


def test_strips_and_slices_show_frames_in_their_order() -> None:
    given = torch.arange(24.0).view(1, 3, 1, 2, 4)
    torch.testing.assert_close(strips(given)[0, 0], torch.cat([given[0, t, 0] for t in range(3)], dim=1))
    shown = slices(given, 6)
    assert shown.shape == (1, 1, 6, 4)
    torch.testing.assert_close(shown[0, 0, ::2], given[0, :, 0, 1])
    torch.testing.assert_close(shown[0, 0, 1::2], given[0, :, 0, 1])


@pytest.mark.parametrize("noise", [False, True])
def test_pictures_stand_beside_the_clean_ones(noise: bool) -> None:
    columns = Doubling().image_columns(batch(0, 2, noise), None)  # type: ignore[arg-type]
    assert {"given", "restored", "clean", "given, x-t", "restored, x-t", "clean, x-t"} <= columns.keys()
    assert columns["restored"].shape == (2, 1, 16, 48)  # type: ignore[union-attr]
    tested = Doubling().image_columns(batch(0, 2, noise), Doubling()._metrics_of(batch(0, 2, noise), 0))  # type: ignore[arg-type]
    assert ("with noise, restored" in tested) == noise
