"""The module with an exact score instead of a trained network, and its weight averages."""

import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from lightning_modules.diffusion.score_sde import ScoreSDE
from lightning_modules.diffusion.score_sde.conditions import ClassGuidance
from lightning_modules.interfaces import Denoiser, Generator
from lightning_modules.sde.flow import ProbabilityFlow
from lightning_modules.sde.processes import VE, VP, Process
from lightning_modules.sde.samplers import PredictorCorrector
from tests.diffusion.score_sde.exact_network import DEVIATION, MEAN, Exact
from tests.sde.exact import PROCESSES


def module(process: Process, sampler: Any = None, **options: Any) -> ScoreSDE:
    return ScoreSDE(
        Exact(process), process, [1, 4, 4], sampler or PredictorCorrector(num_steps=200), **options
    ).double()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("sampler", [PredictorCorrector(num_steps=200, end=1e-3), ProbabilityFlow()])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_samples_are_gaussian_images_and_follow_from_the_generator(process: Process, sampler: Any) -> None:
    built = module(process, sampler)
    assert isinstance(built, Generator)
    image = built.sample(200, torch.Generator().manual_seed(1))
    assert image.shape == (200, 1, 4, 4)
    assert float(image.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(image.std()) == pytest.approx(DEVIATION, rel=0.1)
    assert torch.equal(built.sample(200, torch.Generator().manual_seed(1)), image)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_denoised_images_are_posterior_means(process: Process) -> None:
    built = module(process)
    assert isinstance(built, Denoiser)
    noisy, sigma = MEAN + 0.15 * randn(3, 1, 4, 4), 0.2
    expected = MEAN + DEVIATION**2 / (DEVIATION**2 + sigma**2) * (noisy - MEAN)
    torch.testing.assert_close(built.denoise(noisy, sigma), expected)
    each = torch.tensor([0.2, 0.2, 0.2], dtype=torch.float64)
    torch.testing.assert_close(built.denoise(noisy, each), expected)
    with pytest.raises(ValueError, match="sigma must be given"):
        built.denoise(noisy)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_bits_per_dimension_are_those_of_the_density(process: Process) -> None:
    """For any image range of the process, the result is 8 minus the log density on [0, 1], in bits per dimension."""
    image = MEAN + DEVIATION * randn(3, 1, 4, 4)
    bits = module(process).bits_per_dim(image, torch.ones_like(image))
    normal = torch.distributions.Normal(torch.tensor(MEAN, dtype=torch.float64), DEVIATION)
    expected = -normal.log_prob(image).flatten(1).mean(dim=1) / math.log(2) + 8
    torch.testing.assert_close(bits, expected, rtol=0, atol=0.04)  # x_1 of VE does not follow its prior exactly


def test_known_pixels_and_grey_values_are_respected() -> None:
    image = (MEAN + DEVIATION * randn(2, 1, 4, 4)).clamp(0, 1)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., 1:3] = 1
    found = module(VP(), PredictorCorrector(num_steps=50, end=1e-3)).inpaint(image, mask)
    torch.testing.assert_close(found[..., 1:3], image[..., 1:3], rtol=0, atol=1e-3)
    assert not torch.allclose(found[..., 0], image[..., 0], atol=1e-3)
    colour = ScoreSDE(Exact(VE()), VE(), [3, 4, 4], PredictorCorrector(num_steps=50)).double()
    found = colour.colourise(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found.mean(dim=1, keepdim=True), image, rtol=0, atol=0.02)
    with pytest.raises(ValueError, match="sampler: the probability flow"):
        module(VP(), ProbabilityFlow()).inpaint(image, mask)


class Thirds(nn.Module):
    """A classifier of the mean value that receives the noise level."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([-mean, mean], dim=1) * 200 / (1 + sigma[:, None])


def test_guided_samples_are_of_the_classes_in_turn() -> None:
    built = module(VE(), guidance=ClassGuidance(Thirds(), 2))
    mean = built.sample(6, torch.Generator().manual_seed(0)).flatten(1).mean(dim=1)
    assert (mean[1::2].min() > mean[::2].max()).all()
    chosen = built.sample(2, torch.Generator().manual_seed(0), label=torch.tensor([1, 0])).flatten(1).mean(dim=1)
    assert chosen[0] > chosen[1]


def test_a_guided_model_takes_the_checkpoint_of_an_unguided_one() -> None:
    plain, guided = module(VE()), module(VE(), guidance=ClassGuidance(nn.Linear(2, 3), 3))
    assert guided.state_dict().keys() == plain.state_dict().keys()
    guided.load_state_dict(plain.state_dict())


def test_a_step_follows_the_networks_gradient_and_moves_the_average() -> None:
    built = module(VE(), average_decay=0.999, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    batch: Any = {"image": MEAN + DEVIATION * randn(5, 1, 4, 4), "global_batch_size": 5}
    [[optimizer], _] = built.configure_optimizers()
    torch.manual_seed(0)
    loss = built.training_step(batch, 0)["loss"]
    torch.manual_seed(0)
    t = 1e-5 + (1 - 1e-5) * torch.rand(5, dtype=torch.float64)
    noise = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    sigma = VE().sigma(t).view(-1, 1, 1, 1)
    score = built.network(batch["image"] + sigma * noise, sigma.flatten())
    torch.testing.assert_close(loss, 0.5 * (score * sigma + noise).square().flatten(1).sum(dim=1).mean())
    loss.backward()
    optimizer.step()
    anchor = float(built.network.anchor.detach())
    assert anchor != 0
    assert float(built.average.weights[0]) == pytest.approx(anchor * 9 / 11)  # the first update keeps 2 / 11


def test_measures_use_the_average_and_leave_the_mode() -> None:
    built = module(VP())
    built.average.weights[0].data.fill_(0.3)
    built.network.train()
    with built._average():
        assert float(built.network.anchor.detach()) == pytest.approx(0.3)
        assert not built.network.training
    assert float(built.network.anchor.detach()) == 0.0
    assert built.network.training


def test_discrete_models_of_diffusers_networks_train_and_draw() -> None:
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    )
    for process in (VP(), VE()):
        sampler = PredictorCorrector("ancestral", "none", num_steps=21)
        built = ScoreSDE(network, process, [1, 8, 8], sampler, num_levels=1000, reduce_mean=True)
        loss = built.training_step({"image": torch.rand(2, 1, 8, 8), "global_batch_size": 2}, 0)["loss"]  # type: ignore[typeddict-item]
        loss.backward()
        sample = built.sample(2)
        assert sample.shape == (2, 1, 8, 8)
        assert sample.isfinite().all()
        assert built.denoise(torch.rand(2, 1, 8, 8), 0.1).shape == (2, 1, 8, 8)
