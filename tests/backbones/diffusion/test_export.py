from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from lightning_modules.backbones import with_weights
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace, pixel_pipeline
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.networks.mnist_unet import MNISTUNet


def moved(model: nn.Module) -> None:
    """Perturb all trainable parameters, as training would do."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("kind", ["text_to_image", "xl"])
def test_diffusers_alone_loads_a_text_to_image_pipeline(
    kind: str, tuning: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    model = TextToImage(str(folder), tuning=tuning, **({"adapters": Adapters(rank=2)} if tuning == "lora" else {}))
    moved(model)
    model.eval()
    save_model(model, tmp_path / "saved", writes=True)
    pipeline: Any = StableDiffusionPipeline if kind == "text_to_image" else StableDiffusionXLPipeline
    if tuning == "full":
        alone = pipeline.from_pretrained(tmp_path / "saved")
    else:
        alone = pipeline.from_pretrained(folder)
        alone.load_lora_weights(tmp_path / "saved")
        assert [file.name for file in (tmp_path / "saved").iterdir()] == ["pytorch_lora_weights.safetensors"]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0}
    expected = alone("a cat", latents=noise, output_type="pt", **options).images
    drawn = model.generate(model.encode_prompts(["a cat"]), noise, **options)
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=0)
    before = TextToImage(str(folder)).generate(model.encode_prompts(["a cat"]), noise, **options)
    assert (drawn - before).abs().max() > 1e-3


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_diffusers_alone_loads_a_model_of_images(unconditional: Path, tuning: Any, tmp_path: Path) -> None:
    options: Any = {"adapters": Adapters(rank=2, targets=["to_q", "to_v", "conv1"])} if tuning == "lora" else {}
    model = pixel_pipeline(str(unconditional), tuning=tuning, **options)
    moved(model)
    save_model(model, tmp_path / "saved", writes=True)
    alone = DDPMPipeline.from_pretrained(tmp_path / "saved")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        torch.testing.assert_close(alone.unet(x, t).sample, model.eval()(x, t), atol=1e-4, rtol=0)


def test_a_network_of_another_kind_is_saved_as_weights(tmp_path: Path) -> None:
    model = PixelSpace(MNISTUNet(), DDPMScheduler(), image_shape=[1, 28, 28])
    moved(model)
    save_model(model, tmp_path / "saved", writes=True)
    again = with_weights(MNISTUNet(), str(tmp_path / "saved"))
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[name])


def test_another_process_writes_nothing(unconditional: Path, tmp_path: Path) -> None:
    save_model(pixel_pipeline(str(unconditional)), tmp_path / "saved", writes=False)
    assert not (tmp_path / "saved").exists()
