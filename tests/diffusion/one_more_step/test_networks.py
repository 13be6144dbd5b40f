import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.one_more_step import PromptedMLP, TimeFreeUNet, released_unet
from tests.tiny_pipelines import conditional_unet


def prompts(width: int = 16) -> Prompts:
    return Prompts(torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0)))


def test_no_time_is_heard_and_nothing_of_it_is_trained() -> None:
    torch.manual_seed(0)
    unet: UNet2DConditionModel = conditional_unet()
    before = unet(torch.ones(2, 4, 8, 8), torch.tensor(500), prompts().embedding).sample
    network = TimeFreeUNet(unet)
    noise = torch.randn(2, 4, 8, 8)
    outputs = [unet(noise, torch.tensor(t), prompts().embedding).sample for t in (0, 500, 999)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(network(noise, prompts()), outputs[0])
    assert not torch.equal(network(torch.ones(2, 4, 8, 8), prompts()), before)
    network(noise, prompts()).sum().backward()
    timed = {name: p for name, p in network.named_parameters() if "time_emb" in name}
    assert timed
    assert all(p.grad is None and not p.requires_grad and not p.any() for p in timed.values())
    assert all(p.grad is not None for name, p in network.named_parameters() if name not in timed)


def test_a_perceptron_sees_noise_and_text() -> None:
    torch.manual_seed(0)
    network, noise = PromptedMLP(16, 16), torch.randn(2, 1, 4, 4)
    found = network(noise, prompts())
    assert found.shape == (2, 1, 4, 4)
    assert not torch.allclose(found, network(noise, Prompts(prompts().embedding + 1)))
    assert not torch.allclose(found, network(noise + 1, prompts()))


def released(folder: Path, unet: UNet2DConditionModel, *left_out: str) -> Path:
    """Save a U-Net like the authors' class: in half precision, and without the layers for the time embedding."""
    (place := folder / "oms_module").mkdir(parents=True)
    config = {key: value for key, value in unet.config.items() if "time" not in key}
    (place / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionWoCTModel"}))
    timed = ("time_embedding", "time_emb_proj", *left_out)
    state = {key: value.half() for key, value in unet.state_dict().items() if not any(name in key for name in timed)}
    save_file(state, place / "diffusion_pytorch_model.fp16.safetensors")
    return folder


def test_a_released_network_is_read_without_its_missing_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet: UNet2DConditionModel = conditional_unet()
    network = released_unet(str(released(tmp_path / "oms", unet)), variant="fp16")
    for name, parameter in unet.named_parameters():
        parameter.data = torch.zeros_like(parameter) if "time_emb" in name else parameter.half().float()
    noise = torch.randn(2, 4, 8, 8)
    assert torch.equal(network(noise, prompts()), unet(noise, torch.tensor(500), prompts().embedding).sample)


def test_a_released_network_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    folder = released(tmp_path / "oms", conditional_unet(), "conv_out.bias")
    with pytest.raises(
        ValueError, match=r"fp16\.safetensors does not fit UNet2DConditionModel: missing: conv_out\.bias$"
    ):
        released_unet(str(folder), variant="fp16")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*oms_module/diffusion_pytorch_model\.safetensors"):
        released_unet(str(folder))
    with pytest.raises(ValueError, match="variant must be one of None, fp16, got 'bf16'"):
        released_unet(str(folder), variant="bf16")  # type: ignore[arg-type]
