import torch
from diffusers import UNet2DConditionModel

from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.one_more_step import PromptedMLP, TimeFreeUNet
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
