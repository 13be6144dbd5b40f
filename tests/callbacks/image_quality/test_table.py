from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import save_file
from skimage.data import astronaut
from torch import Tensor
from torchmetrics.functional.image import total_variation, universal_image_quality_index
from torchmetrics.image import (
    TotalVariation,
    UniversalImageQualityIndex,
)

from callbacks.image_quality import ImageMetricsTable
from callbacks.image_quality.measures import LPIPS, measures_of
from datamodules.files.data_directory import data_directory
from lightning_modules.baselines.supervised_restoration import SupervisedRestoration
from lightning_modules.metrics.image_quality import psnr

SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
MEAN, STD = (torch.tensor(each)[:, None, None] for each in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return random weights under the parameter names of the published ones."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for head, (place, (out, inner, side)) in enumerate(SHAPES.items()):
        scale = (2 / (inner * side**2)) ** 0.5
        tensors[f"features.{place}.weight"] = scale * torch.randn(out, inner, side, side, generator=random)
        tensors[f"features.{place}.bias"] = 0.1 * torch.randn(out, generator=random)
        tensors[f"lin{head}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=random)
    path = tmp_path_factory.mktemp("weights") / "lpips.safetensors"
    save_file(tensors, path)
    return path


def written_out(weights: Path, image: Tensor, clean: Tensor) -> Tensor:
    """Compute LPIPS layer by layer."""
    from safetensors.torch import load_file

    given = load_file(weights)
    one, other = ((2 * each - 1 - MEAN) / STD for each in (image, clean))
    total = torch.zeros(len(image))
    for head, (place, options) in enumerate({0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}.items()):
        if place in (3, 6):
            one, other = (F.max_pool2d(each, 3, 2) for each in (one, other))
        kernel, bias = given[f"features.{place}.weight"], given[f"features.{place}.bias"]
        one, other = (F.relu(F.conv2d(each, kernel, bias, *options)) for each in (one, other))
        units = [each / (each.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for each in (one, other)]
        difference = (units[0] - units[1]).square() * given[f"lin{head}.model.1.weight"]
        total += difference.sum(dim=1).mean(dim=(1, 2))
    return total


@pytest.mark.parametrize("channels", [1, 3])
def test_the_perceptual_distance_is_its_definition(weights: Path, channels: int) -> None:
    lpips = LPIPS(str(weights))
    clean = torch.rand(2, channels, 64, 72)
    image = clean + 0.3 * torch.randn(clean.shape)
    found = lpips(image, clean, "clipped")
    expected = written_out(weights, image.clamp(0, 1).expand(-1, 3, -1, -1), clean.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(lpips(clean, clean, "clipped"), torch.zeros(2))


@pytest.mark.data
def test_published_weights_give_their_distance() -> None:
    weights = data_directory(None, "LPIPS") / "weights" / "lpips_alex.safetensors"
    clean = torch.from_numpy(astronaut()[None, :128, 160:288].copy()).permute(0, 3, 1, 2) / 255
    distances = []
    for deviation in (0.02, 0.1, 0.3):
        noisy = (clean + deviation * torch.randn(clean.shape)).clamp(0, 1)
        distances.append(float(LPIPS(str(weights))(noisy, clean, "clipped")))
        assert distances[-1] == pytest.approx(float(written_out(weights, noisy, clean)), abs=1e-5)
    assert 0 < distances[0] < distances[1] < distances[2] < 1.5


class Loader:
    """Two images, one per batch."""

    def __iter__(self) -> Any:
        for row in range(2):
            clean = torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(row))
            noisy = clean + 0.1
            yield {
                "noisy": noisy,
                "clean": clean,
                "index": torch.tensor([row]),
                "global_batch_size": 1,
                "name": [f"image{row}"],
            }

    def __len__(self) -> int:
        return 2


def measures_of_a_run(folder: Path, callback: ImageMetricsTable) -> dict[str, float]:
    module = SupervisedRestoration(torch.nn.Identity())
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    [found] = Trainer(default_root_dir=folder, callbacks=[callback], **options).test(module, Loader(), verbose=False)
    assert set(module.quality.measures) == {"psnr", "ssim"}
    return dict(found)


def test_the_table_has_each_image_and_the_mean(tmp_path: Path) -> None:
    found = measures_of_a_run(tmp_path, ImageMetricsTable())
    table = pd.read_csv(tmp_path / "image_quality.csv", keep_default_na=False)
    assert list(table["name"]) == ["image0", "image1", "mean"]
    assert [name for name in table if name.endswith(("psnr", "ssim"))] == ["noisy_psnr", "psnr", "noisy_ssim", "ssim"]
    assert "lpips" not in table
    for row in range(2):
        clean = torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(row))
        assert table["psnr"][row] == pytest.approx(float(psnr(clean + 0.1, clean)), abs=1e-9)
    assert table["psnr"][2] == pytest.approx(table["psnr"][:2].mean(), abs=1e-9)
    assert table["psnr"][2] == pytest.approx(found["test/psnr"], abs=1e-5)


def test_with_weights_the_perceptual_distance_is_a_measure(tmp_path: Path, weights: Path) -> None:
    found = measures_of_a_run(tmp_path, ImageMetricsTable(lpips_weights=str(weights)))
    table = pd.read_csv(tmp_path / "image_quality.csv")
    assert table["lpips"][2] == pytest.approx(found["test/lpips"], abs=1e-6)
    assert found["test/noisy_lpips"] > 0


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lpips_weights .*none\.safetensors does not exist"):
        ImageMetricsTable(lpips_weights=str(tmp_path / "none.safetensors"))
    save_file({"features.0.bias": torch.zeros(64)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors does not contain the weights of LPIPS"):
        ImageMetricsTable(lpips_weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(TypeError, match="ImageMetricsTable needs a ImageMeasurer, and LightningModule lacks quality"):
        ImageMetricsTable().setup(Trainer(logger=False), LightningModule(), "test")


def test_any_image_metric_of_torchmetrics_is_a_column(tmp_path: Path) -> None:
    """Metrics may need a reference, are named after their class or by the user, and are computed image by image."""

    def synced(*args: Any) -> Any:
        raise AssertionError("ranks have different numbers of images, so that this would wait for ever")

    quality = UniversalImageQualityIndex(distributed_available_fn=lambda: True, dist_sync_fn=synced)
    variation = TotalVariation(reduction="mean")
    found = measures_of_a_run(tmp_path, ImageMetricsTable({"uqi": quality, "total_variation": variation}))
    table = pd.read_csv(tmp_path / "image_quality.csv")
    for row in range(2):
        clean = torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(row))
        noisy = ((clean + 0.1).clamp(0, 1) * 255).round() / 255
        expected = universal_image_quality_index(noisy, (clean * 255).round() / 255)
        assert table["uqi"][row] == pytest.approx(float(expected), abs=1e-5)
        assert table["total_variation"][row] == pytest.approx(float(total_variation(noisy)), rel=1e-5)
    assert table["uqi"][2] == pytest.approx(found["test/uqi"], abs=1e-6)
    assert found["test/noisy_total_variation"] > 0
    assert [*measures_of([UniversalImageQualityIndex(), TotalVariation()], ["psnr"])] == [
        "universal_image_quality_index",
        "total_variation",
    ]


def test_a_metric_is_named_in_a_configuration(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageMetricsTable, "table", instantiate=True)
    path = "torchmetrics.image.UniversalImageQualityIndex"
    for given in ([{"class_path": path}], {"uqi": {"class_path": path, "init_args": {"kernel_size": [7, 7]}}}):
        table = {"class_path": "callbacks.image_quality.ImageMetricsTable", "init_args": {"metrics": given}}
        [(name, measure)] = parser.instantiate_classes(parser.parse_object({"table": table})).table.measures.items()
        assert isinstance(measure.metric, UniversalImageQualityIndex)
        assert name == ("uqi" if isinstance(given, dict) else "universal_image_quality_index")
