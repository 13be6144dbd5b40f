from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn

from lightning_modules.diffusion.pixel_model import PixelModel
from lightning_modules.networks import diffusers_model


class Copies(nn.Module):
    """Predicts x_t."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def test_images_go_there_and_back() -> None:
    model, image = PixelModel(Copies(), DDPMScheduler()), torch.rand(2, 1, 4, 4)
    assert torch.equal(model.encode(image), 2 * image - 1)
    torch.testing.assert_close(model.decode(model.encode(image)), image)
    assert model.encode_prompts(["a", "b"]) is None
    assert model.empty_prompts(2) is None


def test_a_saved_network_of_diffusers_predicts(unconditional: Path) -> None:
    network = diffusers_model(str(unconditional), subfolder="unet")
    assert isinstance(network, UNet2DModel)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 900])
    torch.testing.assert_close(PixelModel(network, DDPMScheduler())(x, t), network(x, t).sample)


@pytest.mark.parametrize(
    ("prediction", "loss"), [("epsilon", "noise"), ("sample", "clean"), ("v_prediction", "velocity")]
)
def test_the_loss_is_the_error_of_what_the_scheduler_names(prediction: str, loss: str) -> None:
    model = PixelModel(Copies(), DDPMScheduler(prediction_type=prediction))
    image, abar = torch.rand(50, 1, 4, 4), model.alphas_cumprod
    torch.manual_seed(0)
    found = model.denoising_loss(image)
    torch.manual_seed(0)
    level = abar[torch.randint(1000, (50,))].view(-1, 1, 1, 1)
    noise, clean = torch.randn_like(image), 2 * image - 1
    target = {"noise": noise, "clean": clean, "velocity": level.sqrt() * noise - (1 - level).sqrt() * clean}[loss]
    x_t = level.sqrt() * clean + (1 - level).sqrt() * noise
    torch.testing.assert_close(found, (x_t - target).square().mean())


def test_a_scheduler_of_another_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction_type must be one of epsilon, v_prediction, sample, got 'flow'"):
        PixelModel(Copies(), EulerDiscreteScheduler(prediction_type="flow"))  # type: ignore[arg-type]
