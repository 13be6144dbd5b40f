"""FID of a module's images: in tests and validation, resumed after a kill, and equal with two processes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from callbacks.generation.fid import FID
from datamodules.classification.digits import Digits
from datamodules.randomness.generators import generator_of
from tests.callbacks.generation.tiny_generator import TinyGenerator, digits, fid, run
from tests.trainers import quiet
from tests.two_processes import in_two_processes

Finished = tuple[Path, dict[str, float]]


class Pixels(nn.Module):
    num_features = 64

    def forward(self, image: Tensor) -> Tensor:
        return (image.double() / 255).flatten(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(directory, TinyGenerator(), fid(directory))


def test_it_is_torchmetrics_distance_of_the_same_bytes(finished: Finished) -> None:
    directory, metrics = finished
    module = TinyGenerator()
    oracle = FrechetInceptionDistance(feature=Pixels()).set_dtype(torch.float64)
    with torch.no_grad():
        for block, size in enumerate([16, 16, 16, 16, 6]):
            images = module.sample(size, generator_of(0, block))
            oracle.update((images * 255).to(torch.uint8), real=False)
    real = Digits().training().image  # 0...16
    oracle.update((real.int() * 255 // 16).to(torch.uint8), real=True)
    assert metrics["test/fd_pixels"] == pytest.approx(float(oracle.compute()), abs=1e-5)
    assert set(metrics) == {"test/fd_pixels", "test/kd_pixels"}
    row = pd.read_csv(directory / "fid.csv").iloc[0]
    assert (row["images"], row["real_images"], row["real"]) == (70, 1300, "Digits-training")
    assert row["kid_of"] == "100 subsets of 70 among 70 and 1300 images"
    assert row["fd_pixels"] == pytest.approx(metrics["test/fd_pixels"])
    assert (directory / "figures" / "samples_test.png").is_file()
    assert not (directory / "generated_features").exists()


def two_main(directory: str) -> tuple[dict[str, float], int]:
    module = TinyGenerator()
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": True}
    return run(Path(directory), module, fid(Path(directory)), **options), module.sampled


class Drawing(TinyGenerator):
    """Records the images that its test steps sample."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(torch.rand(())))


def test_steps_draw_the_same_whether_real_images_were_measured_before(tmp_path: Path) -> None:
    drawn = []
    for name in ("first", "second"):  # uses the cached statistics of the first run
        module = Drawing()
        torch.manual_seed(0)
        run(tmp_path / name, module, fid(tmp_path))
        drawn.append(module.seen)
    assert drawn[0] == drawn[1]


def test_two_processes_measure_the_same_images(finished: Finished, tmp_path: Path) -> None:
    results = in_two_processes(two_main, str(tmp_path))
    for metrics, _ in results:
        assert metrics == pytest.approx(finished[1], abs=1e-6)
    assert [sampled for _, sampled in results] == [16 + 16 + 6, 16 + 16]
    first, second = (np.load(each / "generated_statistics.npz") for each in (finished[0], tmp_path))
    np.testing.assert_allclose(first["sigma"], second["sigma"], atol=1e-12)


def failing_main(directory: str) -> None:
    module = TinyGenerator(fails_after=16 if os.environ["RANK"] == "1" else None)
    run(Path(directory), module, fid(Path(directory)), devices=2, strategy="ddp")


def test_a_process_that_fails_ends_the_other_and_the_rest_is_generated_by_the_next_run(
    finished: Finished, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="killed"):
        in_two_processes(failing_main, str(tmp_path))
    module = TinyGenerator()
    assert run(tmp_path, module, fid(tmp_path)) == pytest.approx(finished[1], abs=1e-6)
    assert module.sampled < 70
    other = TinyGenerator()
    other.spread.data.fill_(2.0)
    assert run(tmp_path, other, fid(tmp_path)) != pytest.approx(finished[1], abs=1e-3)
    assert other.sampled == 70


@pytest.mark.parametrize("averaged_first", [True, False])
def test_validation_measures_the_averaged_weights_every_few_epochs(tmp_path: Path, averaged_first: bool) -> None:
    callback = fid(tmp_path, validation_samples=32, every_n_epochs=2)
    callbacks = [EMAWeightAveraging(decay=0.5), callback]
    trainer = quiet(callbacks=callbacks if averaged_first else callbacks[::-1], max_epochs=4, default_root_dir=tmp_path)
    module = TinyGenerator()
    trainer.fit(module, digits())
    assert sorted(set(module.seen)) == pytest.approx(sorted(expected_averages()), abs=1e-6)
    assert len(module.seen) == 4
    assert float(trainer.callback_metrics["val/fd_pixels_n32"]) > 0
    table = pd.read_csv(tmp_path / "fid.csv")
    assert list(table["epoch"]) == [1, 3]
    assert (tmp_path / "figures" / "fid.png").is_file()
    assert (tmp_path / "figures" / "samples_val_epoch_003.png").is_file()


def expected_averages() -> list[float]:
    """Compute the weight averages after two and four epochs of two steps; each step removes a fifth of the weight."""
    weight = average = 1.0
    averages = []
    for step in range(1, 9):
        weight *= 0.8
        average = weight if step == 1 else 0.5 * average + 0.5 * weight
        averages.append(average)
    return [averages[3], averages[7]]


class Bare(LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> None: ...


class Signed(TinyGenerator):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return 2 * super().sample(n, generator) - 1


class Rows(TinyGenerator):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n, generator).flatten(1)


@pytest.mark.parametrize(
    ("options", "module", "error"),
    [
        ({}, Bare, "FID needs a Generator, and Bare lacks sample"),
        ({}, Signed, r"Signed.sample must return images in \[0, 1\], got -0.9"),
        ({}, Rows, r"Rows.sample\(16\) must return images \[16, C, H, W\], got \[16, 64\]"),
        ({"split": "validation"}, TinyGenerator, "split: Digits has no validation images of its own; use training"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], module: type[LightningModule], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        run(tmp_path, module(), fid(tmp_path, **options))  # type: ignore[arg-type]


def test_a_fast_dev_run_leaves_nothing_behind(tmp_path: Path) -> None:
    module = TinyGenerator()
    assert run(tmp_path, module, fid(tmp_path), fast_dev_run=True) == {}
    assert module.sampled == 2
    assert not list(tmp_path.iterdir())


def test_another_set_may_be_the_reference(tmp_path: Path) -> None:
    few = FID(
        10, images=Digits(train_size=50), extractor=nn.Flatten(), extractor_name="pixels", cache_dir=str(tmp_path)
    )
    assert "test/fd_pixels_n10" in run(tmp_path, TinyGenerator(), few)
