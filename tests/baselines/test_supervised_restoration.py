import pytest
import torch

from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.baselines.supervised_restoration import SupervisedRestoration
from tests.baselines.restoration import Restored, gradient_of_a_step

NOISY, CLEAN = torch.rand(2, 3, 1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_step_fits_the_clean_images() -> None:
    error = 0.75 * NOISY - CLEAN
    loss, [gradient] = gradient_of_a_step(SupervisedRestoration(Restored()), {"noisy": NOISY, "clean": CLEAN})
    assert loss == pytest.approx(float(error.square().mean()), abs=1e-12)
    assert float(gradient) == pytest.approx(float((2 * error * NOISY).mean()), abs=1e-12)
    absolute = SupervisedRestoration(Restored(), loss="l1")
    loss, [gradient] = gradient_of_a_step(absolute, {"noisy": NOISY, "clean": CLEAN})
    assert loss == pytest.approx(float(error.abs().mean()), abs=1e-12)
    assert float(gradient) == pytest.approx(float((error.sign() * NOISY).mean()), abs=1e-12)


def test_images_are_restored_as_inference_says() -> None:
    seen = []
    module = SupervisedRestoration(Restored(), inference=TiledInference(multiple=4, tile=8, overlap=2))
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    image = torch.rand(1, 1, 9, 7)
    torch.testing.assert_close(module.restore(image), 0.75 * image)
    assert seen == [(8, 8), (4, 8)]
