import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from datamodules.classification.mnist import MNIST
from datamodules.corruptions.operators import AverageDownsampling, RandomPixels
from datamodules.loading import Loading
from datamodules.randomness.generators import drawing
from datamodules.restoration.measured_images import MeasuredImages
from lightning_modules.backbones import diffusers_model, with_weights
from lightning_modules.diffusion.dps import DPS, dps_guidance
from lightning_modules.diffusion.pigdm import PiGDM, pigdm_guidance
from lightning_modules.diffusion.posterior_sampling import guided_ddim
from lightning_modules.diffusion.red_diff import REDDiff, red_diff
from lightning_modules.metrics.image_quality import psnr
from lightning_modules.networks.mnist_unet import MNISTUNet
from lightning_modules.sde.ddim import scheduler_path
from lightning_modules.sde.discrete import add_diffusion_noise
from tests.datamodules.restoration.test_measured_images import Five
from tests.diffusion.gaussian_images import ABAR, SCHEDULER, GaussianImages
from tests.tiny_pipelines import save_unconditional
from tests.trainers import quiet

METHODS = [REDDiff, DPS, PiGDM]


def module(kind: Any, **more: Any) -> LightningModule:
    return kind(GaussianImages(), SCHEDULER, steps=5, **more)


def data(size: int, operator: Any = None) -> MeasuredImages:
    return MeasuredImages(operator or RandomPixels(0.5), Five(), loading=Loading(evaluation_batch_size=size))


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


class Convolution(nn.Module):
    """A network whose operations autocast converts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return self.layer(noisy)


def test_the_network_alone_works_in_mixed_precision() -> None:
    tested: Any = DPS(Convolution(), SCHEDULER, steps=3)
    seen: list[torch.dtype] = []
    tested.network.register_forward_hook(lambda _, given, output: seen.extend((given[0].dtype, output.dtype)))
    quiet(precision="bf16-mixed").test(tested, data(5))
    assert seen == 3 * [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("operator", [RandomPixels(0.5).of(torch.arange(2), (4, 4)), AverageDownsampling(2)])
def test_a_method_is_a_function_of_measurements_in_the_unit_interval(operator: Any) -> None:
    """Without a Trainer, and equal to the sampler for images in [-1, 1]."""
    network, clean = GaussianImages().double(), torch.rand(2, 1, 4, 4, dtype=torch.float64)
    y, times = operator.forward(2 * clean - 1), scheduler_path(SCHEDULER, 5)

    def posterior(guidance: Any, draw: Any) -> Tensor:
        start = operator.pseudo_inverse(y)
        return guided_ddim(
            network, add_diffusion_noise(start, draw(start), ABAR[times[0]]), times, ABAR, guidance, eta=1, draw=draw
        )

    samplers: dict[Any, Any] = {
        REDDiff: lambda draw: red_diff(network, y, operator, times[:-1], ABAR, draw=draw),
        DPS: lambda draw: posterior(partial(dps_guidance, measured=y, operator=operator, strength=0.3), draw),
        PiGDM: lambda draw: posterior(partial(pigdm_guidance, measured=y, operator=operator), draw),
    }
    for kind, sampler in samplers.items():
        module = kind(network, SCHEDULER, steps=5)
        found, again, other = (
            module.restore(operator.forward(clean), operator, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
        )
        expected = (sampler(drawing(torch.Generator().manual_seed(0))) + 1) / 2
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert torch.equal(found, again)
        assert not torch.equal(found, other)


def test_orders_at_random_follow_from_the_generator() -> None:
    operator, y = AverageDownsampling(2), torch.rand(1, 1, 2, 2)
    module: Any = REDDiff(GaussianImages(), SCHEDULER, steps=9, order="random")
    found = [module.restore(y, operator, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_export_is_rejected_in_one_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"DPS cannot be exported, .* call restore\(measured, operator\) of the module"
    ):
        module(DPS).export_function()  # type: ignore[operator]


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
