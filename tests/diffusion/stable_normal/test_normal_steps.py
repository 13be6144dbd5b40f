import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor

from datamodules.loading import Loading
from datamodules.normals.height_fields import HeightFields
from datamodules.normals.normal_maps import NormalMaps
from datamodules.randomness.generators import generator_of
from lightning_modules.diffusion.stable_normal.angular_error import AngularErrors, angular_error
from lightning_modules.diffusion.stable_normal.normal_steps import NormalSteps
from tests.trainers import quiet


class Shaded(NormalSteps, LightningModule):
    """Uses colours as normals, and adds noise from each image's generator."""

    def __init__(self, draws: int = 2, noise: float = 0.3) -> None:
        super().__init__()
        self.draws = draws
        self.noise = noise
        self.calls = 0

    def normals(self, image: Tensor, generators: Any) -> Tensor:
        self.calls += 1
        drawn = torch.stack([torch.randn(image.shape[1:], generator=one) for one in generators])
        found = 2 * image - 1 + self.noise * drawn
        return found / found.norm(dim=1, keepdim=True)


def data(**more: Any) -> NormalMaps:
    sets = {"one": HeightFields(num_test=5, image_size=6), "other": HeightFields(num_test=3, image_size=4, seed=1)}
    return NormalMaps(
        test=sets, validation=sets["one"], loading=Loading(evaluation_batch_size=2, num_workers=0), **more
    )


def trainer(directory: Path) -> Any:
    return quiet(logger=CSVLogger(directory, name="", version=""))


def test_errors_are_logged_for_each_set_and_follow_from_seed_and_position(tmp_path: Path) -> None:
    first, again = (trainer(tmp_path).test(Shaded(), data(), verbose=False) for _ in range(2))
    assert first == again
    logged = {key: value for one in first for key, value in one.items()}
    for name, one in data().tests.items():
        source, expected = one.source("test"), AngularErrors()
        for position in range(len(source.sizes)):
            image, normal = (torch.from_numpy(array)[None] for array in source.read(position))
            draws = [Shaded().normals(image.float() / 255, [generator_of(0, position, draw)]) for draw in range(2)]
            expected.update(torch.stack(draws), normal)
        for key, value in expected.compute().items():
            assert logged[f"test/{name}/{key}"] == pytest.approx(float(value), rel=1e-6)
    [validated] = trainer(tmp_path).validate(Shaded(draws=1), data(), verbose=False)
    assert "val/mean_error" in validated
    assert "val/variance" not in validated


def test_pictures_show_normals_as_colours_and_the_error_in_grey(tmp_path: Path) -> None:
    module, source = Shaded(), HeightFields(num_test=2, image_size=6).source("test")
    image, normal = torch.from_numpy(source.image).float() / 255, torch.from_numpy(source.normal).clone()
    normal[0, :, 2, 3] = 0
    estimate = module.normals(image, [generator_of(0), generator_of(1)])
    batch: Any = {"image": image, "normal": normal, "index": torch.arange(2), "global_batch_size": 2}
    columns: Any = module.image_columns(batch, {"normal": estimate})
    assert list(columns) == ["image", "estimate", "truth", "error"]
    torch.testing.assert_close(columns["estimate"], (estimate + 1) / 2)
    assert columns["truth"][0, :, 2, 3].tolist() == [0, 0, 0]
    error = angular_error(estimate, normal)
    error[0, 2, 3] = 0
    torch.testing.assert_close(columns["error"].values[:, 0], (error / 90).clamp(max=1))
    assert columns["error"].captions[0] == f"{float(error[0].sum()) / 35:.1f} degrees"
    several: Any = module.image_columns(batch, {"normal": estimate, "spread": torch.full((2, 6, 6), 9.0)})
    assert list(several) == [*columns, "spread"]
    torch.testing.assert_close(several["spread"].values, torch.full((2, 1, 6, 6), 0.2))
    assert several["spread"].captions == ["9.0 degrees"] * 2
    del batch["normal"]
    assert list(module.image_columns(batch, {"normal": estimate})) == ["image", "estimate"]


def test_a_folder_of_photographs_becomes_a_folder_of_normals_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    for number, size in enumerate([(6, 9), (9, 6), (6, 9)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = tmp_path / "given" / ("below" if number else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    module = Shaded()
    photographs = data(predict_dir=str(tmp_path / "given"))
    trainer(tmp_path / "run").predict(module, photographs, return_predictions=False)
    written = {
        path.relative_to(tmp_path / "run" / "normals").as_posix(): path for path in (tmp_path / "run").rglob("*.png")
    }
    assert sorted(written) == ["0.png", "below/1.png", "below/2.png"]
    shown = np.asarray(Image.open(written["below/1.png"]))
    assert shown.shape == (9, 6, 3)
    length = np.linalg.norm(shown / 255 * 2 - 1, axis=2)
    np.testing.assert_allclose(length, 1, atol=0.01)
    before = {name: path.stat().st_mtime_ns for name, path in written.items()}
    os.remove(written["below/1.png"])
    calls, again = module.calls, Shaded()
    trainer(tmp_path / "run").predict(again, photographs, return_predictions=False)
    assert (calls, again.calls) == (2, 1)
    assert (np.asarray(Image.open(written["below/1.png"])) == shown).all()
    assert [name for name, path in written.items() if path.stat().st_mtime_ns != before[name]] == ["below/1.png"]
    with pytest.raises(ValueError, match="was made with draws 2, and this run has 1"):
        trainer(tmp_path / "run").predict(Shaded(draws=1), photographs, return_predictions=False)


def test_normals_are_estimated_without_a_trainer() -> None:
    image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found, other = (Shaded().estimate_normals(image, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    seeds = torch.randint(2**31, (2,), generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(found, Shaded().normals(image, [generator_of(seed) for seed in seeds]))
    assert not torch.equal(found, other)
