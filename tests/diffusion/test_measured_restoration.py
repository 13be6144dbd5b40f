import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger

from datamodules.classification.mnist import MNIST
from datamodules.corruptions.operators import AverageDownsampling, RandomPixels
from datamodules.restoration.measured_images import MeasuredImages
from lightning_modules.backbones import diffusers_model, with_weights
from lightning_modules.diffusion.dps import DPS
from lightning_modules.diffusion.pigdm import PiGDM
from lightning_modules.diffusion.red_diff import REDDiff, red_diff
from lightning_modules.metrics.image_quality import psnr
from lightning_modules.networks.mnist_unet import MNISTUNet
from tests.datamodules.restoration.test_measured_images import Five
from tests.diffusion.gaussian_images import ABAR, SCHEDULER, GaussianImages
from tests.tiny_pipelines import save_unconditional
from tests.trainers import quiet

METHODS = [REDDiff, DPS, PiGDM]


def module(kind: Any, **more: Any) -> LightningModule:
    return kind(GaussianImages(), SCHEDULER, steps=5, **more)


def data(size: int, operator: Any = None) -> MeasuredImages:
    return MeasuredImages(operator or RandomPixels(0.5), Five(), evaluation_batch_size=size)


@pytest.mark.parametrize("kind", METHODS)
def test_estimates_do_not_depend_on_the_batch_and_beat_the_pseudo_inverse(kind: Any) -> None:
    tables = []
    for size in (5, 2):
        tested: Any = module(kind)
        quiet(precision="64-true").test(tested, data(size))
        tables.append(tested.quality.table)
    for one, other in zip(*tables, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
        assert 5 < one["psnr"] < 40
        assert set(one) == {"set", "index", "name", "psnr", "noisy_psnr", "ssim", "noisy_ssim"}


@pytest.mark.parametrize("kind", METHODS)
def test_the_model_may_be_that_of_a_saved_pipeline(kind: Any, tmp_path: Path) -> None:
    folder = save_unconditional(tmp_path, size=16, channels=3)
    ours = diffusers_model(str(folder), "unet", tuning="frozen")
    theirs = UNet2DModel.from_pretrained(folder / "unet").requires_grad_(False)
    tables = []
    for network in (ours, theirs):
        tested = kind(network, SCHEDULER, steps=3)
        quiet().test(tested, data(5))
        tables.append(tested.quality.table)
    for one, other in zip(*tables, strict=True):
        assert one == pytest.approx(other)


def test_the_network_works_in_the_precision_of_the_run_and_the_optimisation_in_float32() -> None:
    seen: list[torch.dtype] = []
    tested: Any = module(REDDiff)
    tested.network.register_forward_hook(lambda _, given, output: seen.append(given[0].dtype))
    quiet(precision="bf16-true").test(tested, data(5))
    assert set(seen) == {torch.bfloat16}
    whole: Any = module(REDDiff)
    quiet().test(whole, data(5))
    for low, full in zip(tested.quality.table, whole.quality.table, strict=True):
        assert low["psnr"] == pytest.approx(full["psnr"], abs=0.5)


def test_prediction_continues_where_it_was_stopped_and_refuses_other_settings(tmp_path: Path) -> None:
    def predict(**more: Any) -> None:
        logger = CSVLogger(tmp_path, name="", version="")
        quiet(logger=logger).predict(module(REDDiff, **more), data(5, AverageDownsampling(2)))

    predict()
    files = {path: path.read_bytes() for path in sorted(tmp_path.glob("restored/*.png"))}
    assert len(files) == 5
    gone = sorted(files)[3]
    gone.unlink()
    predict()
    assert gone.read_bytes() == files[gone]
    with pytest.raises(ValueError, match="strength"):
        predict(strength=0.1)


def test_pictures_show_the_pseudo_inverse_and_the_estimate() -> None:
    for side, closer in ((16, False), (64, True)):
        image = torch.rand(2, 1, side, side)
        columns = module(REDDiff).image_columns({"noisy": image, "clean": image}, {"estimate": image})  # type: ignore[operator]
        assert list(columns)[:4] == ["pseudo-inverse", "estimate", "clean", "estimate - clean"]
        assert ("pseudo-inverse, x4" in columns) == closer


@pytest.mark.data
def test_digits_are_restored_with_a_model_that_others_trained() -> None:
    root = os.environ.get("NOISEWORKS_DATA")
    weights = Path(root or "", "weights", "ddpm_mnist.safetensors")
    if not root or not weights.exists():
        pytest.skip(f"NOISEWORKS_DATA={root}: expected weights/ddpm_mnist.safetensors and MNIST/raw there")
    network = with_weights(MNISTUNet(), str(weights)).eval().requires_grad_(False)
    clean = MNIST(root).test().image[:8, 0].float() / 255
    operator = RandomPixels(0.5).of(torch.arange(8), (28, 28))
    measured = operator.forward(2 * clean[:, None] - 1)
    found = red_diff(network, measured, operator, range(980, -1, -20), ABAR, learning_rate=0.25)
    before, after = (psnr((each + 1) / 2, clean[:, None]).mean() for each in (measured, found))
    assert after > before + 5


def test_training_is_on_the_noise_at_random_times() -> None:
    trained: Any = module(REDDiff).double()
    trained.log = lambda *arguments, **options: None
    clean = torch.rand(4, 1, 2, 2, dtype=torch.float64)
    torch.manual_seed(3)
    loss = trained.training_step({"clean": clean, "index": torch.arange(4), "global_batch_size": 4}, 0)["loss"]
    torch.manual_seed(3)
    t = torch.randint(1000, (4,))
    noise = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    abar = torch.from_numpy(ABAR)[t].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * (2 * clean - 1) + (1 - abar).sqrt() * noise
    torch.testing.assert_close(loss, F.mse_loss(trained.network(noisy, t), noise), rtol=1e-6, atol=0)
    loss.backward()
    assert trained.network.factor.grad is not None
