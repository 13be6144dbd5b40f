from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from scipy.io import savemat

from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import OtherImages
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import (
    GaussianNoise,
    ImagesInFolder,
    OtherDigits,
    PhotographPatches,
    UniformNoise,
)
from datamodules.classification.out_of_distribution import OutOfDistribution
from datamodules.classification.svhn import SVHN

EIGHT = Digits(num_classes=8)


class Sees(LightningModule):
    """Keeps what it is tested on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[int, dict[str, Any]]] = []

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.batches.append((dataloader_idx, batch))


def batches_of(data: OutOfDistribution) -> list[tuple[int, dict[str, Any]]]:
    module = Sees()
    Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).test(module, datamodule=data, verbose=False)
    return module.batches


def test_batches_say_which_set_they_are_from_and_are_in_the_unit_interval() -> None:
    ood: dict[str, OtherImages] = {"photograph": PhotographPatches(50), "digits": OtherDigits([9])}
    data = OutOfDistribution(ood, images=EIGHT, evaluation_batch_size=150)
    assert data.origin_names == ["in_distribution", "photograph", "digits"]
    batches = batches_of(data)
    sizes = {0: 0, 1: 0, 2: 0}
    brightest = dict.fromkeys(sizes, 0.0)
    for place, batch in batches:
        assert batch["origin"].tolist() == [place] * len(batch["image"])
        assert bool((batch["label"] == -1).all()) == (place > 0)
        assert batch["image"].dtype == torch.float32
        sizes[place] += len(batch["image"])
        brightest[place] = max(brightest[place], float(batch["image"].max()))
    assert sizes == {0: int((Digits().test().label < 8).sum()), 1: 50, 2: 180}
    assert brightest[0] == brightest[2] == 1.0  # stored in 0...16
    assert 0.5 < brightest[1] <= 1.0  # stored in 0...255
    first = next(batch for place, batch in batches if place == 0)
    torch.testing.assert_close(first["image"], EIGHT.test().image[:150] / 16)


def test_training_is_that_of_the_data_set_and_one_seed_is_of_both() -> None:
    alone = LabelledImages(EIGHT, batch_size=100, seed=3)
    data = OutOfDistribution({"noise": UniformNoise(10)}, images=EIGHT, batch_size=100, seed=3)
    for each in (data, alone):
        each.setup("fit")
    for batch, other in zip(data.train_dataloader(), alone.train_dataloader(), strict=True):
        assert torch.equal(batch["index"], other["index"])
        assert torch.equal(batch["image"], other["image"])
    assert (data.num_classes, data.image_shape, data.batch_size) == (8, (1, 8, 8), 100)
    assert data.num_train_samples == alone.num_train_samples == int((Digits().training().label < 8).sum())


@pytest.mark.parametrize("noise", [UniformNoise(2000), GaussianNoise(2000), GaussianNoise(2000, mean=0.3, std=0.05)])
def test_noise_has_its_moments_and_each_image_depends_on_its_position_alone(noise: OtherImages) -> None:
    source = noise.of_no_class((3, 4, 4), seed=5)
    rows = torch.arange(2000)
    image = source.fetch(rows, None)
    assert image.shape == (2000, 3, 4, 4)
    assert torch.equal(source.fetch(rows[700:710], None), image[700:710])
    assert not torch.equal(noise.of_no_class((3, 4, 4), seed=6).fetch(rows[:5], None), image[:5])
    value = image / 255
    if isinstance(noise, UniformNoise):
        mean, std = 0.5, 12**-0.5
    elif noise.normal[1] < 0.1:  # type: ignore[attr-defined]
        mean, std = 0.3, 0.05
    else:  # a standard normal clipped half a deviation to either side: by integration
        x = np.linspace(-8, 9, 200_001)
        density = np.exp(-((x - 0.5) ** 2) / 2) / np.sqrt(2 * np.pi)
        mean = np.trapezoid(x.clip(0, 1) * density, x)
        std = np.sqrt(np.trapezoid((x.clip(0, 1) - mean) ** 2 * density, x))
    assert float(value.mean()) == pytest.approx(mean, abs=0.005)
    assert float(value.std()) == pytest.approx(std, abs=0.005)


def test_patches_tile_the_photograph() -> None:
    import skimage.data

    source = PhotographPatches().of_no_class((3, 64, 64), seed=0)
    image = source.fetch(torch.arange(len(source.label)), None)
    assert image.shape == (64, 3, 64, 64)
    assert int(image[:, 0].long().sum()) == int(skimage.data.camera().sum(dtype=np.int64))
    assert torch.equal(image[:, 0], image[:, 2])


def write_svhn(folder: Path, split: str, number: int) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(number).integers(256, size=(32, 32, 3, number), dtype=np.uint8)
    label = (np.arange(number) % 10 + 1)[:, None].astype(np.uint8)  # 1 ... 10
    savemat(folder / f"{split}_32x32.mat", {"X": image, "y": label})
    return image


@pytest.mark.parametrize("folder", ["", "svhn"])
def test_svhn_is_read_as_torchvision_reads_it(folder: str, tmp_path: Path) -> None:
    image = write_svhn(tmp_path / folder, "test", 12)
    write_svhn(tmp_path / folder, "train", 20)
    data = SVHN(str(tmp_path))
    source = data.test()
    assert source.image.shape == (12, 3, 32, 32)
    assert source.label.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    np.testing.assert_array_equal(source.image[5].numpy().transpose(1, 2, 0), image[..., 5])
    assert len(data.training().label) == 20


def test_svhn_that_is_missing_or_damaged_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found test_32x32.mat neither in .*; set data_dir"):
        SVHN(str(tmp_path)).test()
    (tmp_path / "test_32x32.mat").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"test_32x32.mat is damaged or no SVHN file"):
        SVHN(str(tmp_path)).test()
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((3, 1), np.uint8)})
    with pytest.raises(ValueError, match=r"\[4, 3, 32, 32\] and 3 labels"):
        SVHN(str(tmp_path)).test()


def test_folders_are_read_in_the_authors_layout_and_flat(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    for folder in ("LSUN_resize", "iSUN/iSUN_patches"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(pixels[number]).save(tmp_path / folder / f"{number}.png")
    for folder in ("LSUN_resize", "iSUN"):
        source = ImagesInFolder(folder, str(tmp_path)).of_no_class((3, 32, 32), 0)
        np.testing.assert_array_equal(source.fetch(torch.arange(3), None).permute(0, 2, 3, 1), pixels)
        assert source.label.tolist() == [-1] * 3
    assert len(ImagesInFolder("iSUN", str(tmp_path), num_images=2).of_no_class((3, 32, 32), 0).label) == 2


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ood must name at least one set"):
        OutOfDistribution({}, images=EIGHT)
    with pytest.raises(ValueError, match="and not in_distribution, got 'in_distribution'"):
        OutOfDistribution({"in_distribution": UniformNoise(3)}, images=EIGHT)
    with pytest.raises(ValueError, match="got 'a/b'"):
        OutOfDistribution({"a/b": UniformNoise(3)}, images=EIGHT)
    for images, message in (
        (SVHN(str(tmp_path)), r"ood.x: SVHN has images \[3, 32, 32\], and those in distribution are"),
        (ImagesInFolder("LSUN_resize", str(tmp_path)), r"ood.x: LSUN_resize: .* colour squares"),
    ):
        data = OutOfDistribution({"x": images}, images=EIGHT)
        with pytest.raises(ValueError, match=message):
            data.setup("test")
    folder = ImagesInFolder("LSUN_resize", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"LSUN_resize does not exist; expected .*set data_dir to the folder"):
        folder.of_no_class((3, 32, 32), 0)
    (tmp_path / "LSUN_resize").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no image; expected files that end with \.avif"):
        folder.of_no_class((3, 32, 32), 0)
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        UniformNoise(0)
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        GaussianNoise(std=0)
    with pytest.raises(ValueError, match=r"digits must be some of 0\.\.\.9, got \[10\]"):
        OtherDigits([10])
    with pytest.raises(ValueError, match=r"num_classes must be in \[1, 10\], got 11"):
        Digits(num_classes=11)
