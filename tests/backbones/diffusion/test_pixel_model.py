from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from lightning_modules.backbones import diffusers_model
from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.diffusion.hash_embedding import HashedWords
from lightning_modules.networks.time_conditioned_mlp import PromptedImageMLP


class Copies(nn.Module):
    """Returns its input x_t as the prediction."""

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


def test_with_texts_images_are_guided_by_what_the_network_says_of_both() -> None:
    torch.manual_seed(0)
    network, encoder = PromptedImageMLP(16, 6, width=8, depth=1), HashedWords(features=6, length=1)
    model = PixelModel(network, DDIMScheduler(clip_sample=False), encoder).double()
    prompts, empty = model.encode_prompts(["a", "b"]), model.empty_prompts(2)
    assert prompts is not None
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    found = model.generate(x, 3, prompts, guidance_scale=2.0)
    scheduler = DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(3)
    with torch.no_grad():
        for t in scheduler.timesteps:
            without, given = (model(x, t.expand(2), each) for each in (empty, prompts))
            x = scheduler.step(without + 2 * (given - without), int(t), x).prev_sample
    torch.testing.assert_close(found, ((x + 1) / 2).clamp(0, 1), rtol=0, atol=1e-6)  # float32 in diffusers
    torch.manual_seed(1)
    loss = model.denoising_loss(x, prompts)
    torch.manual_seed(1)
    other = model.denoising_loss(x, prompts.rows([1, 0]))
    assert loss != other
