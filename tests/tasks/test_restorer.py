"""A module that scales its images, and sets of few images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.files.bayer import unpack_bayer
from datamodules.jobs.stores import digest_of
from lightning_modules.interfaces import Denoiser, ImageColumn, ImageMeasurer, PictureSource, require
from lightning_modules.metrics.image_quality import ImageQuality, psnr, ssim
from lightning_modules.tasks.restorer import RestorerSteps, detailed_crops, window_sums
from lightning_modules.tasks.writers import levels_of
from tests.trainers import quiet


class Scaling(RestorerSteps, LightningModule):
    """Multiplies images by a factor, and adds noise from the given generator."""

    def __init__(self, factor: float = 0.9, noise: float = 0.0) -> None:
        super().__init__()
        self.factor = factor
        self.noise = noise
        self.quality = ImageQuality()
        self.calls: list[tuple[int, ...]] = []

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.calls.append(tuple(degraded.shape))
        return self.factor * degraded + self.noise * torch.randn(degraded.shape, generator=generator)

    def configure_optimizers(self) -> None:
        return None


def images(count: int, size: tuple[int, int], seed: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


class Sets(LightningDataModule):
    """Two sets of images; their images differ in size, and batches have one or two images."""

    def __init__(
        self, test_names: tuple[str, ...] = ("flat", "tall"), clean: bool = True, data_range: int = 255
    ) -> None:
        super().__init__()
        self.test_names = list(test_names)
        self.clean = clean
        self.data_range = data_range
        self.shift = 0.1

    def batches(self, number: int) -> Iterator[dict[str, Any]]:
        size = [(24, 40), (40, 24)][number]
        for rows in ([0, 1], [2]):
            clean = images(3, size, number)[rows]
            batch = {"noisy": clean + self.shift, "index": torch.tensor(rows), "global_batch_size": len(rows)}
            batch |= {"name": [f"{self.test_names[number]}/{row}" for row in rows], "data_range": self.data_range}
            yield {**batch, "clean": clean} if self.clean else batch

    def test_dataloader(self) -> list[Any]:
        return [DataLoader(list(self.batches(number)), batch_size=None) for number in range(len(self.test_names))]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(list(self.batches(0)), batch_size=None)

    predict_dataloader = test_dataloader


def trainer(folder: Path, **options: Any) -> Trainer:
    return quiet(default_root_dir=folder, **options)


def test_steps_serve_what_asks_for_a_restorer() -> None:
    for protocol in (ImageMeasurer, PictureSource):
        require(Scaling(), protocol, "a test")
    with pytest.raises(TypeError, match="lacks denoise"):
        require(Scaling(), Denoiser, "a test")


@pytest.mark.parametrize("names", [("flat", "tall"), ("flat",)])
def test_a_test_logs_means_over_the_images_of_each_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    module = Scaling()
    found = {
        key: value for one in trainer(tmp_path).test(module, Sets(names), verbose=False) for key, value in one.items()
    }
    for number, name in enumerate(names):
        prefix = f"test/{name}/" if len(names) > 1 else "test/"
        clean = images(3, [(24, 40), (40, 24)][number], number)
        for key, measure in {"psnr": psnr, "ssim": ssim}.items():
            assert found[prefix + key] == pytest.approx(float(measure(0.9 * (clean + 0.1), clean).mean()), abs=1e-5)
            expected = float(measure(clean + 0.1, clean, "unclipped").mean())
            assert found[f"{prefix}noisy_{key}"] == pytest.approx(expected, abs=1e-5)
    assert len(found) == 4 * len(names)
    assert [row["name"] for row in module.quality.table] == [f"{name}/{row}" for name in names for row in range(3)]


def test_validation_logs_under_its_own_names(tmp_path: Path) -> None:
    [found] = trainer(tmp_path).validate(Scaling(), Sets(), verbose=False)
    clean = images(3, (24, 40), 0)
    assert found["val/psnr"] == pytest.approx(float(psnr(0.9 * (clean + 0.1), clean).mean()), abs=1e-5)


def test_without_clean_images_nothing_is_validated_and_a_test_refused(tmp_path: Path) -> None:
    assert trainer(tmp_path).validate(Scaling(), Sets(clean=False), verbose=False) == [{}]
    with pytest.raises(ValueError, match="the data have none: use predict to write the estimates"):
        trainer(tmp_path).test(Scaling(), Sets(clean=False), verbose=False)


def test_random_numbers_follow_from_seed_and_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [first, second] = Sets().batches(0)
    module = Scaling(factor=0.0, noise=1.0)
    one, again, other = (module.estimate(batch) for batch in (first, first, second))
    assert torch.equal(one, again)
    assert not torch.equal(one[:1], other)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(one, module.estimate(first))


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_prediction_writes_files_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    module = Scaling()
    trainer(tmp_path).predict(module, Sets(), return_predictions=False)
    files = sorted(path.relative_to(tmp_path / "restored").as_posix() for path in tmp_path.rglob("*.png"))
    assert files == [f"{name}/{name}/{row}.png" for name in ("flat", "tall") for row in range(3)]
    expected = levels_of(0.9 * (images(3, (40, 24), 1) + 0.1), 255)
    for row in range(3):
        assert np.array_equal(read(tmp_path / f"restored/tall/tall/{row}.png"), expected[row].permute(1, 2, 0))
    (tmp_path / "restored/tall/tall/2.png").unlink()
    module = Scaling()
    trainer(tmp_path).predict(module, Sets(), return_predictions=False)
    assert module.calls == [(1, 3, 40, 24)]
    assert (tmp_path / "restored/tall/tall/2.png").is_file()


@pytest.mark.parametrize("kept", [0, 20, 60, -1])
def test_a_damaged_file_is_written_again(tmp_path: Path, kept: int) -> None:
    for _ in range(2):
        trainer(tmp_path).predict(Scaling(), Sets(), return_predictions=False)
        file, *_ = files = sorted((tmp_path / "restored").rglob("*.png"))
        whole = [path.read_bytes() for path in files]
        file.write_bytes(whole[0][:kept])
    with pytest.warns(UserWarning, match="not a whole PNG file"):
        trainer(tmp_path).predict(Scaling(), Sets(), return_predictions=False)
    assert [path.read_bytes() for path in files] == whole


def test_prediction_keeps_the_bits_of_the_images(tmp_path: Path) -> None:
    trainer(tmp_path).predict(Scaling(), Sets(("flat",), data_range=4095), return_predictions=False)
    from torchvision.io import ImageReadMode, decode_image

    found = decode_image(str(tmp_path / "restored/flat/1.png"), ImageReadMode.UNCHANGED)
    assert torch.equal(found.long(), levels_of(0.9 * (images(3, (24, 40), 0) + 0.1), 4095)[1].long())
    assert found.long().max() > 255


def test_raw_images_are_written_as_the_sensor_has_them_and_numbers_in_16_bits(tmp_path: Path) -> None:
    planes = torch.rand(2, 4, 6, 5)
    batch = {"noisy": planes, "index": torch.arange(2), "global_batch_size": 2, "name": ["a", "b"], "data_range": 1}
    trainer(tmp_path).predict(Scaling(), DataLoader([batch], batch_size=None), return_predictions=False)
    for name, image in zip("ab", planes, strict=True):
        expected = unpack_bayer((0.9 * image.double() * 65535).round().numpy())
        assert np.abs(read(tmp_path / f"restored/{name}.png") - expected).max() <= 1


@pytest.mark.parametrize(
    ("module", "shift", "message"),
    [
        (Scaling(factor=0.8), 0.1, "was made with factor 0.9, and this run has 0.8: write into another"),
        (Scaling(), 0.2, r"restored/flat/0.png was written for other input data"),
    ],
)
def test_what_was_made_otherwise_is_not_continued(tmp_path: Path, module: Scaling, shift: float, message: str) -> None:
    trainer(tmp_path).predict(Scaling(), Sets(("flat",)), return_predictions=False)
    sets = Sets(("flat",))
    sets.shift = shift
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).predict(module, sets, return_predictions=False)


def test_files_that_could_not_be_read_are_listed_when_all_others_are_written(tmp_path: Path) -> None:
    sets: Any = Sets(("flat",))
    sets.predict_set = type("Folder", (), {"unreadable": ["a.png is damaged", "b.png is no image"]})
    with pytest.raises(ValueError, match=r"written except 2: a\.png is damaged; b\.png is no image"):
        trainer(tmp_path).predict(Scaling(), sets, return_predictions=False)
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    trainer(tmp_path, fast_dev_run=True).predict(Scaling(), Sets(), return_predictions=False)
    trainer(tmp_path, fast_dev_run=True).test(Scaling(), Sets(), verbose=False)
    assert not list(tmp_path.rglob("*.*"))


def test_columns_show_images_differences_and_their_most_detailed_part(tmp_path: Path) -> None:
    [batch, _] = Sets().batches(0)
    columns = Scaling().image_columns(batch, {"estimate": batch["noisy"] / 2})
    assert list(columns) == ["noisy", "estimate", "clean", "estimate - clean", "noisy, x4", "estimate, x4", "clean, x4"]
    difference = columns["estimate - clean"]
    assert isinstance(difference, ImageColumn)
    assert difference.difference
    torch.testing.assert_close(difference.values, batch["noisy"] / 2 - batch["clean"])
    del batch["clean"]
    assert list(Scaling().image_columns(batch, None)) == ["noisy", "estimate", "noisy, x4", "estimate, x4"]


def test_crops_are_where_most_is_to_be_seen() -> None:
    image = torch.zeros(2, 1, 16, 24)
    image[0, :, 8:12, 12:18] = image[1, :, :4, :6] = (torch.arange(24) % 2).view(4, 6)
    image[0, :, 8:12, 12:18] *= 2
    crops = detailed_crops(image, image)
    assert crops.shape == (2, 1, 4, 6)
    assert torch.equal(crops[0], image[0, :, 8:12, 12:18])
    assert torch.equal(crops[1], image[1, :, :4, :6])


def test_sums_over_windows_are_those_of_each_window() -> None:
    image = torch.rand(2, 9, 7, dtype=torch.float64)
    expected = image.unfold(1, 4, 1).unfold(2, 3, 1).sum(dim=(-2, -1))
    torch.testing.assert_close(window_sums(image, 4, 3), expected)


def test_crops_are_those_of_the_greatest_variance() -> None:
    detail = torch.rand(3, 2, 21, 18)
    crops = detailed_crops(detail, detail)
    windows = detail.double().mean(dim=1).unfold(1, 5, 1).unfold(2, 4, 1)
    best = windows.var(dim=(-2, -1), correction=0).flatten(1).argmax(dim=1).tolist()
    for row, place in enumerate(best):
        top, left = divmod(place, windows.shape[2])
        assert torch.equal(crops[row], detail[row, :, top : top + 5, left : left + 4])


def test_digests_tell_images_apart() -> None:
    image = torch.rand(1, 4, 6)
    assert digest_of(image) == digest_of(image.clone())
    assert len({digest_of(each) for each in (image, image + 1e-6, image.transpose(1, 2), image.view(1, 6, 4))}) == 4
