"""The command line reads a folder of images and writes a folder of restored images."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image
from skimage.data import camera
from torch import Tensor, nn
from torch.utils.data import DataLoader

import train
from datamodules.distributed.collectives import rank, world_size
from datamodules.restoration.image_pairs import ImagePairs
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.tasks.writers import ImageWriter, levels_of
from tests.command import ROOT
from tests.trainers import quiet
from tests.two_processes import TwoProcesses, in_two_processes

SMALL = ("--model.network.features", "4", "--model.network.depth", "2", "--ckpt_path", "none")


def predict(folder: Path, out: Path, *arguments: str) -> int:
    config = ROOT / "configs" / "supervised_restoration" / "demo.yaml"
    quietly = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
    line = ("predict", "--config", config, "--data.predict_dir", folder, "--run_directory", out, *SMALL, *quietly)
    return train.main([str(argument) for argument in (*line, *arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write three images of two sizes, one of them in a subfolder, and a file that is not an image."""
    given = tmp_path / "given"
    (given / "below").mkdir(parents=True)
    for name, side in {"a.png": 24, "b.bmp": 32, "below/c.tif": 24}.items():
        Image.fromarray(camera()[200 : 200 + side, 100:132]).save(given / name)
    (given / "damaged.png").write_bytes(b"no image")
    return given


def test_one_damaged_file_is_named_at_the_end_and_the_others_are_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(folder, out) == 1
    assert "all images are written except 1" in (said := capsys.readouterr().err)
    assert "damaged.png cannot be read as an image" in said
    written = sorted((out / "restored").rglob("*.*"))
    assert [path.relative_to(out / "restored").as_posix() for path in written] == ["a.png", "b.png", "below/c.tif"]
    for path in written:
        with Image.open(path) as image, Image.open(next(folder.glob(f"**/{path.stem}.*"))) as given:
            assert (image.mode, image.size) == (given.mode, given.size)
            assert np.asarray(image).std() > 0
    before = {path: path.stat().st_mtime_ns for path in written}
    written[0].unlink()
    (folder / "damaged.png").unlink()
    assert predict(folder, out) == 0
    after = {path: path.stat().st_mtime_ns for path in written}
    assert [path.stem for path in written if before[path] != after[path]] == ["a"]


@pytest.mark.nightly
def test_two_processes_share_a_folder(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options: Any = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert predict(folder, one) == 1
    assert in_two_processes(predict, folder, two, *options) == [1, 1]
    for path in sorted((one / "restored").rglob("*.png")):
        assert (two / path.relative_to(one)).read_bytes() == path.read_bytes()


class Halved(ImageWriter, LightningModule):
    """Halves the pixel values; one of two processes can be killed, or fail, at its second batch."""

    written, given, settings_name = "halved", "image", "settings.json"

    def __init__(self) -> None:
        super().__init__()
        self.ends = ""
        self.computed: list[int] = []

    def pixels(self, batch: Any) -> Tensor:
        self.computed += batch["index"].tolist()
        if rank() == 1 and len(self.computed) == 2:
            if self.ends == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            assert self.ends != "failing", "no such image"
        return levels_of(batch["image"] / 2, 255)


class Batches(LightningDataModule):
    """Eight batches of one image each, distributed over the processes."""

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(list(self.batches())[rank() :: world_size()], batch_size=None)  # type: ignore[arg-type]

    def batches(self) -> Iterator[dict[str, Any]]:
        for index in range(8):
            image = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(index))
            yield {"image": image, "index": torch.tensor([index]), "name": [f"{index}"]}


def halve(directory: Path, end: str = "") -> list[int]:
    module = Halved()
    module.ends = end
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp"} if "RANK" in os.environ else {}
    trainer = quiet(default_root_dir=directory, **options)
    trainer.predict(module, Batches(), return_predictions=False)
    return module.computed


@pytest.mark.parametrize(
    ("end", "said"), [("killed", "rank 1 was killed"), ("failing", "rank 1 failed: AssertionError: no such image")]
)
def test_a_process_that_ends_is_named_by_the_other_and_both_go_on(
    end: str, said: str, tmp_path: Path, two_processes: TwoProcesses
) -> None:
    halve(tmp_path / "whole")
    processes = two_processes(halve, tmp_path / "two", end)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert processes[1].returncode == (-signal.SIGKILL if end == "killed" else 1)
    assert f"PeerFailure: {said}" in outputs[0]
    computed = in_two_processes(halve, tmp_path / "two")
    assert computed[1] == [3, 5, 7]
    assert len(computed[0]) < 4
    for path in (tmp_path / "whole" / "halved").iterdir():
        assert (tmp_path / "two" / "halved" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "two" / "halved").iterdir())) == 8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_pages_of_a_stack_are_one_file_again(dtype: type, channels: int, tmp_path: Path) -> None:
    """Five pages come back as one TIFF of five pages of the same type; a repeated run computes no page again.

    Negative floating-point values are kept. The white value is a power of two, so that nothing is rounded.
    """
    white = 1024 if dtype == np.float32 else int(np.iinfo(dtype).max)
    shape = (5, 6, 7, 3) if channels == 3 else (5, 6, 7)
    pages = np.random.default_rng(0).integers(-9 if dtype == np.float32 else 0, white + 1, shape).astype(dtype)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="rgb" if channels == 3 else "minisblack")

    def restore(module: "Copied") -> None:
        data = ImagePairs(predict_dir=str(tmp_path / "stack.tif"), data_range=white if white > 255 else None)
        trainer = quiet(default_root_dir=tmp_path / "run")
        trainer.predict(module, data, return_predictions=False)

    written = tmp_path / "run" / "restored" / "stack.tif"
    restore(first := Copied())
    np.testing.assert_array_equal(tifffile.imread(written), pages)
    assert tifffile.imread(written).dtype == dtype
    assert [path.name for path in written.parent.rglob("*")] == ["stack.tif"]
    restore(again := Copied())
    assert (len(first.computed), len(again.computed)) == (5, 0)
    with tifffile.TiffFile(written) as file:
        assert len(file.pages) == 5
    tifffile.imwrite(tmp_path / "stack.tif", pages[::-1], photometric="rgb" if channels == 3 else "minisblack")
    with pytest.raises(ValueError, match=r"stack\.tif was written for other input data: remove it"):
        restore(Copied())


@pytest.mark.parametrize(("dtype", "white"), [(np.uint16, 200), (np.float32, 3021.7)])
def test_one_page_keeps_its_type_and_scale(dtype: type, white: float, tmp_path: Path) -> None:
    """A 16-bit file with values below 256 stays a 16-bit file. Values between levels are rounded, at most by half."""
    stored = np.random.default_rng(0).uniform(0, white, (6, 7)).astype(dtype)
    tifffile.imwrite(tmp_path / "one.tif", stored, imagej=True, metadata={"unit": "um"}, resolution=(4, 4))
    trainer, data = (
        quiet(default_root_dir=tmp_path),
        ImagePairs(predict_dir=str(tmp_path / "one.tif"), data_range=white),
    )
    trainer.predict(module := Copied(), data, return_predictions=False)
    with tifffile.TiffFile(tmp_path / "restored" / "one.tif") as file:
        np.testing.assert_allclose(file.asarray(), stored, rtol=0 if dtype == np.uint16 else 2e-7)
        assert file.asarray().dtype == dtype
        assert (file.imagej_metadata or {})["unit"] == "um"
    assert module.computed == [0]
    trainer.predict(again := Copied(), data, return_predictions=False)
    assert again.computed == []


class Convolved(RestorerSteps, LightningModule):
    """Three convolutions, whose receptive field has a radius of three pixels."""

    def __init__(self, tile: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]
        self.network = nn.Sequential(*layers, nn.Conv2d(8, 1, 3, padding=1))
        self.inference = TiledInference(tile=tile, overlap=6)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.network(image) / 8


@pytest.mark.parametrize(("dtype", "error"), [(np.uint16, 1), (np.float32, 65535 * 2e-6)])
def test_tiles_leave_no_seams_in_files(dtype: type, error: float, tmp_path: Path) -> None:
    """An overlap of twice the radius gives the whole image's result, up to one level or up to float32 rounding."""
    stored = np.random.default_rng(0).uniform(20_000, 40_000, (61, 75)).astype(dtype)
    tifffile.imwrite(tmp_path / "one.tif", stored)
    found = []
    for tile in (None, 16):
        data = ImagePairs(predict_dir=str(tmp_path / "one.tif"), data_range=65535)
        quiet(default_root_dir=tmp_path / str(tile)).predict(Convolved(tile), data, return_predictions=False)
        found.append(tifffile.imread(tmp_path / str(tile) / "restored" / "one.tif").astype(float))
    assert np.abs(found[0] - stored).mean() > 50
    np.testing.assert_allclose(found[1], found[0], atol=error, rtol=0)


class Copied(RestorerSteps, LightningModule):
    """Returns the images unchanged, and notes which were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[int] = []

    def estimate(self, batch: Any) -> Tensor:
        self.computed += batch["index"].tolist()
        return batch["noisy"]
