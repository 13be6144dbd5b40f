from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, ScoreSdeVePipeline, ScoreSdeVeScheduler, UNet2DModel

from lightning_modules.backbones import diffusers_model
from lightning_modules.diffusion.score_sde import ScoreSDE, pretrained_process
from lightning_modules.optim.optimizers import sgd
from lightning_modules.sde.processes import VE, VP
from lightning_modules.sde.samplers import PredictorCorrector

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


def drawn(network: UNet2DModel) -> UNet2DModel:
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_a_folder_of_ddpm_is_loaded_sampled_as_diffusers_samples_it_and_fine_tuned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = drawn(UNet2DModel(in_channels=3, out_channels=3, **blocks, **SMALL))
    scheduler = DDPMScheduler(num_train_timesteps=20, beta_start=0.005, beta_end=0.5, clip_sample=False)
    DDPMPipeline(network, scheduler).save_pretrained(tmp_path)
    process = pretrained_process(str(tmp_path))
    assert isinstance(process, VP)
    assert (process.beta_min, process.beta_max) == pytest.approx((0.1, 10.0))
    sampler = PredictorCorrector("ancestral", "none", num_steps=20)
    loaded = diffusers_model(str(tmp_path), subfolder="unet")
    module = ScoreSDE(loaded, process, [3, 8, 8], sampler, num_levels=20, optimizer=sgd)
    x = torch.randn(2, 3, 8, 8)
    for level in (19, 7, 0):  # the predictor's mean equals the scheduler's, and its noise is sqrt(beta), "fixed_large"
        t = torch.full((2,), level / 19)
        with torch.no_grad():
            mean, _ = process.ancestral(x, t, 20, module.eval().score(x, t))
            output = network.eval()(x, level).sample
        alone = scheduler.step(output, level, x, generator=torch.Generator().manual_seed(0)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) if level else torch.zeros_like(x)
        variance = scheduler._get_variance(level)
        torch.testing.assert_close(mean + variance**0.5 * noise, alone, rtol=1e-3, atol=1e-3)
    before = next(module.network.parameters()).detach().clone()
    [[optimizer], _] = module.configure_optimizers()
    module.training_step({"image": torch.rand(2, 3, 8, 8), "global_batch_size": 2}, 0)["loss"].backward()  # type: ignore[typeddict-item]
    optimizer.step()
    assert not torch.equal(next(module.network.parameters()), before)


def test_a_folder_of_a_ve_score_model_is_loaded_and_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2}
    network = drawn(UNet2DModel(time_embedding_type="fourier", center_input_sample=True, **blocks, **SMALL))
    ScoreSdeVePipeline(network, ScoreSdeVeScheduler(sigma_max=348.0)).save_pretrained(tmp_path)
    process = pretrained_process(str(tmp_path))
    assert isinstance(process, VE)
    assert (process.sigma_min, process.sigma_max) == (0.01, 348.0)
    loaded = diffusers_model(str(tmp_path), subfolder="unet").eval()
    module = ScoreSDE(loaded, process, [3, 8, 8], PredictorCorrector(num_steps=3))
    x, t = torch.rand(2, 3, 8, 8), torch.tensor([0.5, 1.0])
    with torch.no_grad():
        torch.testing.assert_close(module.score(x, t), network.eval()(x, process.sigma(t)).sample)
    assert module.sample(2).isfinite().all()


def test_a_folder_without_a_scheduler_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected .*scheduler/scheduler_config.json"):
        pretrained_process(str(tmp_path))
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "EulerDiscreteScheduler"}')
    with pytest.raises(ValueError, match=r"_class_name must be .* got 'EulerDiscreteScheduler'"):
        pretrained_process(str(tmp_path))
