"""`predict` writes files for each pair of images, resumes after a kill, and is rejected with different settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor, nn

from callbacks.generation.fid import FID
from datamodules.classification.digits import Digits
from datamodules.interpolation.end_points import PairsOfOneClass
from datamodules.interpolation.folder_sets import PairsInFolder
from datamodules.interpolation.images_to_interpolate import ImagesToInterpolate
from datamodules.loading import Loading
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.noise_diffusion import NoiseDiffusion
from lightning_modules.diffusion.noise_diffusion.mixing import MixingSettings
from tests.trainers import quiet


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Write three images of different shapes."""
    folder, random = tmp_path / "photographs", np.random.default_rng(0)
    folder.mkdir()
    for name, size in (("a", (20, 30)), ("b", (16, 16)), ("c", (40, 20))):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def predict(pipeline: Path, photographs: Path, directory: Path, batches: float = 1.0, **more: Any) -> list[Any]:
    options: dict[str, Any] = {"num_steps": 6, "encoded_steps": 4, "positions": [0.25, 0.5], **more}
    data = ImagesToInterpolate(PairsInFolder(str(photographs), image_size=16), batch_size=1)
    trainer = quiet(default_root_dir=directory, limit_predict_batches=batches)
    return trainer.predict(NoiseDiffusion(TextToImage(str(pipeline)), **options), data) or []


def test_a_folder_is_interpolated_and_continued(text_to_image: Path, photographs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert predict(text_to_image, photographs, directory, 1) == [["a_b"]]  # then it is killed
    strip = directory / "interpolated" / "a_b.png"
    first = strip.read_bytes()
    assert predict(text_to_image, photographs, directory) == [[], ["b_c"]]
    assert strip.read_bytes() == first
    found = sorted(str(path.relative_to(directory / "interpolated")) for path in directory.rglob("*.png"))
    assert found == ["a_b.png", "a_b/0.25.png", "a_b/0.5.png", "b_c.png", "b_c/0.25.png", "b_c/0.5.png"]
    row = np.asarray(Image.open(strip))
    assert row.shape == (16, 64, 3)
    given = np.asarray(Image.open(photographs / "a.png").resize((16, 16), Image.Resampling.BICUBIC))
    assert (row[:, :16] == given).all()
    assert (row[:, 16:32] == np.asarray(Image.open(directory / "interpolated/a_b/0.25.png"))).all()


def test_other_settings_and_other_images_are_refused(text_to_image: Path, photographs: Path, tmp_path: Path) -> None:
    predict(text_to_image, photographs, tmp_path / "run", 1)
    for other, message in (
        ({"mixing": MixingSettings(1.0)}, "was made with mixing .*2.0.*, and this run has .*1.0"),
        ({"positions": [0.5]}, r"with positions \[0.25, 0.5\], and this run has \[0.5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(text_to_image, photographs, tmp_path / "run", **other)
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(photographs / "a.png")
    with pytest.raises(ValueError, match=r"a_b.png was written for other input data"):
        predict(text_to_image, photographs, tmp_path / "run")


class Shrinks(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x


class Seen(Callback):
    """Stores the tested images, and the images that FID would get if they were generated in one block or in two."""

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
        self.tested = torch.cat([*([self.tested] if hasattr(self, "tested") else []), outputs["frames"].flatten(0, 1)])

    def on_test_epoch_end(self, trainer: Any, module: Any) -> None:
        self.drawn, self.more = (module.sample(n, torch.Generator().manual_seed(0)) for n in (20, 23))


def test_frechet_distance_is_of_each_image_between_each_pair(tmp_path: Path) -> None:
    module = NoiseDiffusion(PixelModel(Shrinks(), DDIMScheduler()), num_steps=6, encoded_steps=4)
    data = ImagesToInterpolate(PairsOfOneClass(Digits(), 4), loading=Loading(evaluation_batch_size=3))
    options: dict[str, Any] = {"extractor": nn.AvgPool2d(4), "images": Digits(), "cache_dir": str(tmp_path)}
    options["extractor"] = nn.Sequential(options["extractor"], nn.Flatten())
    fid, seen = FID(20, batch_size=20, extractor_name="means", **options), Seen()
    trainer = quiet(callbacks=[seen, fid], default_root_dir=tmp_path)
    [metrics] = trainer.test(module, data, verbose=False)
    assert {"test/fd_means", "test/kd_means"} < set(metrics)
    assert seen.drawn.min() >= 0
    expected = seen.tested.clamp(0, 1).flatten(1)
    assert (torch.cdist(expected, seen.drawn.flatten(1)).amin(dim=1) < 1e-5).all()
    assert torch.equal(seen.more[:20], seen.drawn)
