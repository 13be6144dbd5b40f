from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from lightning_modules.backbones.diffusion.pixel_model import PixelModel
from lightning_modules.diffusion.ddpm import DDPM
from lightning_modules.diffusion.hash_embedding import HashedWords
from lightning_modules.networks.time_conditioned_mlp import PromptedImageMLP


def training(**more: Any) -> DDPM:
    torch.manual_seed(0)
    network, encoder = PromptedImageMLP(16, 6, width=8, depth=1), HashedWords(features=6, length=1)
    module = DDPM(PixelModel(network, DDIMScheduler(), encoder), **more)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    return module.double()


def batch(**more: Any) -> Any:
    image = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"image": image, "index": torch.arange(4), "global_batch_size": 4, **more}


@pytest.mark.parametrize("caption_dropout", [0.0, 0.999999])
def test_a_step_is_the_denoising_error_for_captions_or_for_the_empty_text(caption_dropout: float) -> None:
    module, texts = training(caption_dropout=caption_dropout), ["a", "b", "a", "c"]
    torch.manual_seed(1)
    loss = module.training_step(batch(caption=texts), 0)["loss"]
    torch.manual_seed(1)
    torch.rand(4)  # chooses the captions to omit
    model = module.network
    prompts = model.empty_prompts(4) if caption_dropout else model.encode_prompts(texts)
    expected = model.denoising_loss(batch()["image"], prompts)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, list(model.parameters())) for each in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
