import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor

from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.stable_normal import ConditionedUNet, PixelUNet, StableNormal
from lightning_modules.diffusion.stable_normal.module import latent_weight, weighted_square, yoso_start
from tests.diffusion.stable_normal.small import batch, features, latent, module, stirred, unet
from tests.trainers import standing


def gradients(found: StableNormal, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*[(n, p) for n, p in found.named_parameters() if p.requires_grad], strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("target", ["independent", "shared", "x0"])
def test_a_step_of_the_first_stage_has_the_papers_loss_and_gradient(target: Any) -> None:
    found, given = module(refiner=False, yoso_target=target, zero_noise=0.5), batch()
    stirred(found)
    other = copy.deepcopy(found)
    torch.manual_seed(3)
    step = gradients(found, found.training_step(given, 0)["loss"])
    torch.manual_seed(3)
    noise, uniform = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.rand(4)
    seen = torch.stack([torch.zeros(3, 8, 8) if u < 0.5 else n for n, u in zip(noise, uniform, strict=True)])
    assert 0 < sum(not one.any() for one in seen) < 4
    abar = 1.0
    for t in range(402):
        abar *= 1 - (0.00085**0.5 + t / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
    fresh = seen if target == "shared" else torch.randn(4, 3, 8, 8, dtype=torch.float64)
    wanted = given["normal"] if target == "x0" else abar**0.5 * given["normal"] + (1 - abar) ** 0.5 * fresh
    assert other.yoso is not None
    time = torch.full((4,), 0 if target == "x0" else 401)
    output = other.yoso(seen.double(), time, 2 * given["image"] - 1)
    expected = gradients(other, (output - wanted).square().sum() / wanted.numel())
    for name, gradient in expected.items():
        torch.testing.assert_close(step[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_a_step_of_the_second_stage_has_the_papers_loss_and_gradient() -> None:
    found, given = module(yoso=False, semantic=True), batch()
    stirred(found)
    other = copy.deepcopy(found)
    torch.manual_seed(3)
    step = gradients(found, found.training_step(given, 0)["loss"])
    torch.manual_seed(3)
    time, noise = torch.randint(1000, (4,)), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    abar = (1 - beta).cumprod(dim=0)[time].view(4, 1, 1, 1)
    refiner = other.refiner
    assert refiner is not None
    semantics = refiner.semantics(given["image"], (8, 8))
    noisy = abar.sqrt() * given["normal"] + (1 - abar).sqrt() * noise
    output = refiner(noisy, time, 2 * given["image"] - 1, semantics)
    expected = gradients(other, (output - given["normal"]).square().mean())
    assert any(name.startswith("refiner.semantic_encoder.embedding") for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(step[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_zeros_are_given_for_noise_with_the_probability_that_is_asked_for() -> None:
    noise, uniform = torch.ones(20_000, 1, 1, 1), torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    zeros = 1 - yoso_start(noise, uniform, 0.4).mean()
    assert float(zeros) == pytest.approx(0.4, abs=4 * (0.24 / 20_000) ** 0.5)
    assert yoso_start(noise, uniform, 0.0).all()
    assert not yoso_start(noise, uniform, 1.0).any()


def test_latents_that_see_an_unknown_normal_count_nothing() -> None:
    normal = F.normalize(latent(1, 3, 4, 7), dim=1)
    normal[0, :, 1, 2] = 0
    weight = latent_weight(normal, 2)
    assert weight[0, 0].tolist() == [[1, 0, 1, 1], [1, 1, 1, 1]]
    prediction, target = latent(1, 2, 2, 4, seed=1), latent(1, 2, 2, 4, seed=2)
    difference = (prediction - target).square()
    expected = (difference.sum() - difference[0, :, 0, 1].sum()) / difference.numel()
    torch.testing.assert_close(weighted_square(prediction, target, weight), expected)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_normals_follow_from_the_images_generator_alone() -> None:
    found, image = module(semantic=True), batch()["image"]
    stirred(found)
    found.eval()
    with torch.no_grad():
        whole = found.normals(image, generators(0, 1, 2, 3))
        torch.testing.assert_close(found.normals(image[1:2], generators(1))[0], whole[1], rtol=0, atol=1e-9)
        assert not torch.allclose(found.normals(image[1:2], generators(5))[0], whole[1])
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(4, 8, 8, dtype=torch.float64))


class Fixed(ConditionedUNet):
    """Returns a fixed truth plus a part of its input, like a network that does not ignore its input."""

    def __init__(self, truth: Tensor, part: float = 0.0) -> None:
        super().__init__(PixelUNet(UNet2DConditionModel(**SMALLEST)))
        self.truth, self.part = truth, part

    def forward(self, x: Tensor, timestep: Tensor, image: Tensor, semantics: Any = None) -> Tensor:
        return self.truth + self.part * x


SMALLEST: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": (4,), "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",), "norm_num_groups": 2, "cross_attention_dim": 4, "layers_per_block": 1,
    "attention_head_dim": 2,
}  # fmt: skip


def test_the_start_decides_what_noise_is_left_in_the_result() -> None:
    """Without a refiner, noise in the start remains in the result; a refiner that knows the truth always returns it."""
    truth = batch(1)["normal"]
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)

    def spread(part: float) -> float:
        alone = StableNormal(Fixed(truth, part), resolution=None).double()
        return float(torch.stack([alone.normals(image, generators(seed)) for seed in range(6)]).var(dim=0).mean())

    assert 0 == spread(0.0) < spread(0.05) < spread(0.2)
    both = StableNormal(Fixed(truth, 0.5), Fixed(truth), resolution=None).double()
    torch.testing.assert_close(both.normals(image, generators(0)), truth)


def test_images_of_any_size_go_through_a_saved_pipeline(text_to_image: Any) -> None:
    """Use a tiny Stable Diffusion pipeline for both stages, a training step, and normals of an odd size."""
    torch.manual_seed(0)
    stages = [
        ConditionedUNet(TextToImage(str(text_to_image), tuning="full"), semantic, trained="decoder")
        for semantic in (None, features().float())
    ]
    found = StableNormal(*stages, resolution=24, steps=4)
    found.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    given = batch(2, 16)
    given["image"], given["normal"] = given["image"].float(), given["normal"].float()
    found.training_step(given, 0)["loss"].backward()
    without = [name for name, p in found.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    with torch.no_grad():
        normal = found.eval().normals(torch.rand(2, 3, 30, 21), generators(0, 1))
    assert normal.shape == (2, 3, 30, 21)
    torch.testing.assert_close(normal.norm(dim=1), torch.ones(2, 30, 21))
    assert not any("text_encoder" in name or "vae" in name for name in found.state_dict())


def test_the_networks_have_the_papers_sizes() -> None:
    """Stable Diffusion 2.1 has 865.9 million parameters; its ControlNet has 364.2 million with the hint branch."""
    down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            in_channels=3, out_channels=3, block_out_channels=(320, 640, 1280, 1280), down_block_types=down,
            up_block_types=up, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True,
        )  # fmt: skip
        network = ConditionedUNet(PixelUNet(unet), trained="decoder")
        image, text = torch.empty(2, 3, 96, 96), torch.empty(2, dtype=torch.int64)
        assert network(image, text, image).shape == image.shape
    channel = 9 * 320  # it has four latent input channels instead of three
    assert sum(p.numel() for p in unet.parameters()) + 2 * channel + 1 == 865_910_724
    hint = ControlNetConditioningEmbedding(320, 3, (16, 32, 96, 256))
    own = sum(p.numel() for p in (*network.encoder.parameters(), *hint.parameters()))
    assert round((own + channel) / 1e6, 1) == 364.2


def test_stages_of_other_schedules_or_latents_and_targets_that_keep_noise_are_refused(text_to_image: Any) -> None:
    found = module()
    assert found.yoso is not None
    other = ConditionedUNet(TextToImage(str(text_to_image), tuning="full"))
    with pytest.raises(ValueError, match="yoso and refiner have different autoencoders or schedules"):
        StableNormal(found.yoso, other)
    with pytest.raises(ValueError, match="yoso_target shared leaves noise in the output of yoso"):
        module(refiner=False, yoso_target="shared").normals(batch()["image"], generators(0, 1, 2, 3))


def test_a_first_stage_that_was_trained_for_other_steps_is_refused(tmp_path: Path) -> None:
    """The weights come from a checkpoint, or from the folder that a run exports."""
    trained, checkpoint = module(steps=10), dict[str, Any]()
    trained.on_save_checkpoint(checkpoint)
    module(steps=10).on_load_checkpoint(checkpoint)
    module(yoso=False, steps=4).on_load_checkpoint(checkpoint)
    message = "was trained for the target independent at the level t = 401, but .* steps 4 needs .* level t = 251"
    with pytest.raises(ValueError, match=f"yoso of the checkpoint {message}"):
        module(steps=4).on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="needs the target shared at the level t = 401"):
        module(yoso_target="shared").on_load_checkpoint(checkpoint)
    trained.trainer = standing(loggers=[None], log_dir=str(tmp_path), is_global_zero=True, fast_dev_run=False)
    trained.on_fit_end()
    assert (tmp_path / "saved" / "yoso" / "first_stage.json").is_file()
    assert not (tmp_path / "saved" / "refiner" / "first_stage.json").exists()
    again = ConditionedUNet(PixelUNet(unet()), encoders=str(tmp_path / "saved" / "yoso"))
    StableNormal(again, steps=10)
    with pytest.raises(ValueError, match=message):
        StableNormal(again, steps=4)
