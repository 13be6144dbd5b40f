"""A score model restores images of which only some pixels, or only the grey values, are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from datamodules.corruptions.operators import AverageDownsampling, Grayscale, RandomPixels
from datamodules.loading import Loading
from datamodules.restoration.images import Images, PairSet, PatchSampling
from datamodules.restoration.measured_images import MeasuredImages
from lightning_modules.diffusion.score_sde import ScoreSDE
from lightning_modules.sde.processes import VE, VP, Process
from lightning_modules.sde.samplers import PredictorCorrector
from tests.diffusion.score_sde.exact_network import DEVIATION, MEAN, Exact
from tests.trainers import quiet

PREDICTED = PredictorCorrector("reverse_diffusion", "none", num_steps=20)


class GaussianPixels(PairSet):
    """Colour images with independent Gaussian pixels, for which `Exact` is the best network."""

    channels = 3

    def images(self, split: Any) -> Images:
        values = np.random.default_rng(0).normal(MEAN, DEVIATION, (5, 3, 4, 4)).clip(0, 1)
        return Images([f"image{n}" for n in range(5)], list((255 * values).round().astype(np.uint8)))


def module(process: Process | None = None, sampler: Any = PREDICTED) -> ScoreSDE:
    process = process or VE()
    return ScoreSDE(Exact(process), process, [3, 4, 4], sampler)


def data(operator: Any, size: int = 5) -> MeasuredImages:
    return MeasuredImages(
        operator,
        GaussianPixels(),
        GaussianPixels(),
        patches=PatchSampling(size=4),
        loading=Loading(evaluation_batch_size=size),
    )


@pytest.mark.parametrize("process", [VE(), VP()], ids=["VE", "VP"])
@pytest.mark.parametrize("operator", [RandomPixels(0.5), Grayscale()], ids=["pixels", "grey"])
def test_what_is_known_is_kept_in_whatever_batch(process: Process, operator: Any) -> None:
    tables, kept = [], []
    for size in (5, 2):
        tested = module(process, PredictorCorrector("reverse_diffusion", "none", 20, end=1e-3))
        estimated: list[torch.Tensor] = []
        step = tested.test_step

        def watched(batch: Any, *arguments: Any, step: Any = step, estimated: Any = estimated) -> Any:
            outputs = step(batch, *arguments)
            own = operator.of(batch["index"], (4, 4))
            measured = own.forward(2 * outputs["estimate"] - 1)
            estimated.append((measured - batch["measured"]).abs().max())
            return outputs

        tested.test_step = watched  # type: ignore[method-assign]
        quiet(precision="64-true").test(tested, data(operator, size), verbose=False)
        tables.append(tested.quality.table)
        kept.append(max(map(float, estimated)))
    for one, other in zip(*tables, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
        assert set(one) == {"set", "index", "name", "psnr", "noisy_psnr"}
    assert max(kept) < 0.02  # the noise at the authors' smallest level


def test_training_is_on_patches_and_a_prediction_writes_files(tmp_path: Path) -> None:
    trained = module()
    trained.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    batch: Any = {"clean": torch.rand(2, 3, 4, 4), "global_batch_size": 2}
    torch.manual_seed(0)
    loss = trained.training_step(batch, 0)["loss"]
    torch.manual_seed(0)
    assert torch.equal(loss, trained.training_step({"image": batch["clean"], "global_batch_size": 2}, 0)["loss"])  # type: ignore[typeddict-item]
    quiet(logger=CSVLogger(tmp_path, name="", version="")).predict(trained, data(Grayscale()))
    files = sorted(tmp_path.glob("restored/*.png"))
    assert [file.stem for file in files] == [f"image{n}" for n in range(5)]
    clean = GaussianPixels().images("test").clean
    assert clean is not None
    shown = np.asarray(Image.open(files[0])).astype(float)
    np.testing.assert_allclose(shown.mean(axis=2), clean[0].mean(axis=0), atol=6)
    assert shown.std(axis=2).mean() > 5  # it has colours
    columns = trained.image_columns({"noisy": torch.rand(1, 3, 4, 4)}, {"estimate": torch.rand(1, 3, 4, 4)})
    assert list(columns) == ["pseudo-inverse", "estimate"]


@pytest.mark.parametrize("process", [VE(), VP()], ids=["VE", "VP"])
@pytest.mark.parametrize("operator", [RandomPixels(0.5).of(torch.arange(2), (4, 4)), Grayscale()], ids=["mask", "grey"])
def test_restoring_is_a_function_of_measurements(process: Process, operator: Any) -> None:
    """Without a Trainer, what is measured is kept up to the noise at the smallest level."""
    restorer = module(process, PredictorCorrector("reverse_diffusion", "none", 20, end=1e-3)).double()
    measured = operator.forward(0.4 + 0.2 * torch.rand(2, 3, 4, 4, dtype=torch.float64))
    found, again, other = (
        restorer.restore(measured, operator, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert (operator.forward(found) - measured).abs().max() < 0.02
    assert torch.equal(found, again)
    assert (found - other).abs().max() > 0.05
    with pytest.raises(ValueError, match=r"operator must be a mask .* for a score model, got AverageDownsampling"):
        restorer.restore(measured, AverageDownsampling(2))
