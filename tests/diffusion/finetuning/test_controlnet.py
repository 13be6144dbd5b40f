"""A ControlNet is trained as plain diffusers calls would train it, and plain diffusers loads the saved files."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, FluxControlNetModel, SD3ControlNetModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor
from torch.optim import SGD

import train
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.files.pixels import read_pixels
from lightning_modules.backbones.diffusion.families import text_to_image_pipeline
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage, Weights
from lightning_modules.diffusion.finetuning import ControlNet
from lightning_modules.diffusion.finetuning.controlled_network import (
    ControlledNetwork,
    CopiedBlocks,
    control_of,
    new_controlnet,
)
from tests.backbones.diffusion.test_full_sizes import stable_diffusion_3_medium
from tests.datamodules.image_folders import photograph, save
from tests.diffusion.finetuning.models import assert_gradients_equal, captioned, conditioned, loss_of_a_step, trainer

FAMILIES: dict[str, tuple[Any, str]] = {
    "text_to_image": (ControlNetModel, "StableDiffusionControlNetPipeline"),
    "xl": (ControlNetModel, "StableDiffusionXLControlNetPipeline"),
    "stable_diffusion_3": (SD3ControlNetModel, "StableDiffusion3ControlNetPipeline"),
    "flux": (FluxControlNetModel, "FluxControlNetPipeline"),
}
CAPTIONS = ["a cat", "dog", "bird"]


def controlled(folder: Path, **options: Any) -> ControlNet:
    network = text_to_image_pipeline(str(folder))
    if type(network).__name__ == "Flux":
        network.pipeline.default_sample_size = 8
    settings = {"sampling": Sampling(2, 2.0), **options}
    return ControlNet(network, optimizer=lambda p: SGD(p, lr=0.2), **settings)


def opened(module: ControlNet) -> ControlNet:
    """Randomise the parameters of a new ControlNet, whose outputs are zero at first."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.controlnet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def loss_alone(alone: Any, family: str, controlnet: Any, image: Tensor, condition: Tensor) -> Tensor:
    """Compute the loss with the pipeline's networks; the random numbers are for latents, noise, times, conditions."""
    draw, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    config = alone.vae.config

    def latents(pixels: Tensor, draw: Tensor) -> Tensor:
        with torch.no_grad():
            posterior = alone.vae.encode(2 * pixels - 1).latent_dist
        return (posterior.mean + posterior.std * draw - (config.shift_factor or 0.0)) * config.scaling_factor

    z = latents(image, draw)
    if family in ("text_to_image", "xl"):
        t = torch.randint(1000, (3,))
        abar = alone.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        found = alone.encode_prompt(CAPTIONS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
        sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 3)
        added = {"text_embeds": found[2], "time_ids": sizes} if family == "xl" else None
        noisy = abar.sqrt() * z + (1 - abar).sqrt() * e
        given: dict[str, Any] = {"encoder_hidden_states": found[0], "added_cond_kwargs": added}
        down, middle = controlnet(noisy, t, controlnet_cond=condition, return_dict=False, **given)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return (alone.unet(noisy, t, **residuals, **given).sample - e).square().mean()
    u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
    shift = math.exp(calculate_shift(16)) if family == "flux" else 3.0
    t = shift * u / (1 + (shift - 1) * u)
    seen = latents(condition, torch.randn(3, 4, 8, 8))
    noisy = (1 - t.view(-1, 1, 1, 1)) * z + t.view(-1, 1, 1, 1) * e
    if family == "stable_diffusion_3":
        embedding, _, pooled, _ = alone.encode_prompt(CAPTIONS, CAPTIONS, CAPTIONS, do_classifier_free_guidance=False)
        given = {"timestep": 1000 * t, "encoder_hidden_states": embedding, "pooled_projections": pooled}
        blocks = controlnet(noisy, controlnet_cond=seen, return_dict=False, **given)[0]
        output = alone.transformer(noisy, block_controlnet_hidden_states=blocks, **given).sample
        return (output - (e - z)).square().mean()
    embedding, pooled, text_ids = alone.encode_prompt(CAPTIONS, CAPTIONS)
    packed = alone._pack_latents(noisy, *noisy.shape)
    _, image_ids = alone.prepare_latents(3, 4, 16, 16, z.dtype, z.device, None, packed)
    given = {
        "timestep": t, "guidance": torch.full([3], 3.5), "pooled_projections": pooled, "img_ids": image_ids,
        "encoder_hidden_states": embedding, "txt_ids": text_ids,
    }  # fmt: skip
    both, single = controlnet(
        packed, controlnet_cond=alone._pack_latents(seen, *seen.shape), return_dict=False, **given
    )
    output = alone.transformer(
        packed, controlnet_block_samples=both, controlnet_single_block_samples=single, **given
    ).sample
    return (output - alone._pack_latents(e - z, *z.shape)).square().mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_steps_loss_and_gradient_are_those_of_calls_as_the_pipeline_makes_them(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(family)
    module = opened(controlled(folder))
    image, condition = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    module.controlnet.save_pretrained(tmp_path)
    loss = loss_of_a_step(module, {"image": image, "condition": condition, "caption": CAPTIONS})
    alone: Any = DiffusionPipeline.from_pretrained(folder)
    other: Any = FAMILIES[family][0].from_pretrained(tmp_path).train()
    torch.manual_seed(5)
    expected = loss_alone(alone, family, other, image, condition)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert_gradients_equal(module.controlnet, other)
    assert all(parameter.grad is None for parameter in module.network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_prediction_is_the_networks_and_what_is_trained_is_loaded_by_diffusers_alone(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(family)
    kind, pipeline = FAMILIES[family]
    module, own, data = controlled(folder), trainer(tmp_path), conditioned(tmp_path / "images")
    network, config = module.network, dict(DiffusionPipeline.load_config(folder))
    part = "unet" if family in ("text_to_image", "xl") else "transformer"
    assert part in config
    assert dict(network.network.config) == dict(getattr(DiffusionPipeline.from_pretrained(folder), part).config)
    image, condition = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts, z = network.encode_prompts(CAPTIONS[:2]), torch.randn(2, 4, 8, 8)
    t = torch.tensor([5.0, 600.0]) if network.prediction == "flow" else torch.tensor([5, 600])
    with torch.no_grad():
        model: Any = module.model_of({"image": image, "condition": condition}, torch.zeros_like)  # type: ignore[typeddict-item]
        assert torch.equal(model(z, t, prompts), network(z, t, prompts))
    own.fit(module, data)
    assert own.validate(module, data, verbose=False)[0]["val/loss"] > 0
    assert {name.partition(".")[0] for name in module.state_dict()} == {"controlnet", "average"}
    columns = module.image_columns({**next(iter(data.val_dataloader()))}, None)  # type: ignore[typeddict-item]
    assert list(columns) == ["image", "condition", "sample"]
    with torch.no_grad():
        assert not torch.allclose(model(z, t, prompts), network(z, t, prompts), atol=1e-4)
    other = kind.from_pretrained(tmp_path / "run" / "pipeline" / "controlnet")
    alone: Any = getattr(diffusers, pipeline).from_pretrained(folder, controlnet=other)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    argument = "image" if part == "unet" else "control_image"
    given = {argument: condition[:1], "latents": network.pack(noise), "height": 16, "width": 16}
    torch.manual_seed(7)  # seeds the latents of the condition
    expected = alone("a cat", num_inference_steps=2, guidance_scale=2.0, output_type="pt", **given).images
    module.prompts, module.condition = ["a cat"], condition[:1]
    torch.manual_seed(7)
    inputs = module.sampling_inputs(None, 1)
    found = module._sample(network.encode_prompts(["a cat"]), noise, **inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert module.sample(2, torch.Generator().manual_seed(0)).shape == (2, 3, 16, 16)


def test_a_small_transformer_controlnet_copies_the_first_blocks(flux: Path, stable_diffusion_3: Path) -> None:
    module = controlled(stable_diffusion_3, blocks=CopiedBlocks(num_layers=1))
    assert len(module.controlnet.transformer_blocks) == 1
    assert module.network.network.config.num_layers == 2
    for name, value in module.controlnet.transformer_blocks[0].state_dict().items():
        assert torch.equal(value, module.network.network.transformer_blocks[0].state_dict()[name])
    with pytest.raises(ValueError, match="num_layers must be at most 1 for a ControlNet of this network, got 2"):
        controlled(stable_diffusion_3, blocks=CopiedBlocks(num_layers=2))
    assert len(controlled(flux).controlnet.single_transformer_blocks) == 1
    with pytest.raises(ValueError, match=r"num_single_layers.*FLUX\.1"):
        controlled(stable_diffusion_3, blocks=CopiedBlocks(num_single_layers=1))


def test_crops_and_flips_of_images_and_conditions_are_alike(tmp_path: Path) -> None:
    data = conditioned(tmp_path / "images", augmentation=Augmentation(crop_padding=3, flip=True))
    images: Any = data.images
    images.resize = 18
    data.setup("fit")
    found = [torch.equal(batch["image"], batch["condition"]) for batch in data.train_dataloader()]
    assert found == [True]
    (tmp_path / "conditions" / "2.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"condition_dir: .*2.png, the condition of an image, does not exist \(1"
    ):
        images.training()
    save(tmp_path / "conditions" / "2.png", photograph(10, 30, 0))
    with pytest.raises(ValueError, match=r"the condition image 2\.png has .* both must have the same aspect ratio"):
        images.training()


def test_half_precision_trains_a_controlnet_in_float32_and_samples(text_to_image: Path, tmp_path: Path) -> None:
    module = ControlNet(
        TextToImage(str(text_to_image), weights=Weights(dtype="bfloat16")), CopiedBlocks(gradient_checkpointing=True)
    )
    image = torch.rand(2, 3, 16, 16)
    loss_of_a_step(module, {"image": image, "condition": image, "caption": ["a", "b"]})
    assert {parameter.dtype for parameter in module.controlnet.parameters()} == {torch.float32}
    module.condition, module.num_inference_steps = image[:1], 1
    assert module.sample(1).dtype == torch.float32


def test_what_does_not_fit_is_rejected(
    text_to_image: Path, pixart_sigma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for network, options, message in (
        (text_to_image_pipeline(str(pixart_sigma)), {}, "network must be TextToImage .* got PixArtSigma"),
        (TextToImage(str(text_to_image), tuning="lora"), {}, "network must have tuning: frozen"),
        (TextToImage(str(text_to_image)), {"blocks": CopiedBlocks(2)}, "num_layers.*a transformer"),
    ):
        with pytest.raises(ValueError, match=message):
            ControlNet(network, **options)
    with pytest.raises(ValueError, match=r"needs condition images: set data\.images\.condition_dir"):
        trainer(tmp_path).fit(controlled(text_to_image), captioned(tmp_path / "images"))
    with pytest.raises(ValueError, match="needs a condition image for sampling"):
        controlled(text_to_image).sample(1)
    shutil.copytree(text_to_image, tmp_path / "sd", ignore=shutil.ignore_patterns("*.safetensors"))
    command = ["fit", "--config", "configs/finetuning/controlnet.yaml", "--run_directory", str(tmp_path / "run")]
    command += ["--data.images.data_dir", str(tmp_path / "images"), "--data.images.image_size", "16"]
    conditions = ["--data.images.condition_dir", str(tmp_path / "conditions")]
    sana = ["--model.network", "lightning_modules.backbones.diffusion.Sana"]
    conditioned(tmp_path / "images")
    for more, message in (
        ([], "set data.images.condition_dir"),
        ([*conditions, *sana], "to train a ControlNet, got Sana"),
        (conditions, "no weights of CLIPTextModel"),
    ):
        assert train.main([*command, *more, "--model.network.pipeline", str(tmp_path / "sd")]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "conditions" / "1.png").unlink()
    assert train.main([*command, *conditions, "--model.network.pipeline", str(tmp_path / "sd")]) == 1
    assert "1.png, the condition of an image, does not exist" in capsys.readouterr().err


FULL: dict[str, Callable[[], Any]] = {
    "text_to_image": lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
    "xl": lambda: diffusers.UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    ),
    "stable_diffusion_3": lambda: stable_diffusion_3_medium("meta"),
    "flux": lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
}  # fmt: skip
"""The networks of Stable Diffusion 1.5, SDXL, Stable Diffusion 3 Medium and FLUX.1-dev."""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("family", "parameters", "condition", "prompts"),
    [
        ("text_to_image", 361_279_120, (3, 512, 512), [(77, 768)]),
        ("xl", 1_251_014_160, (3, 1024, 1024), [(77, 2048), (1280,)]),
        ("stable_diffusion_3", 1_062_855_168, (16, 128, 128), [(333, 4096), (2048,)]),
        ("flux", 2_046_461_952, (4096, 64), [(512, 4096), (768,)]),
    ],
)
def test_a_step_at_full_size_on_the_meta_device(
    family: str, parameters: int, condition: Any, prompts: Any, request: pytest.FixtureRequest
) -> None:
    network = text_to_image_pipeline(str(request.getfixturevalue(family)))
    network.pipeline.vae_scale_factor = 8
    with torch.device("meta"):
        network.network = FULL[family]().requires_grad_(False)
        controlnet = new_controlnet(network, CopiedBlocks(num_single_layers=4 if family == "flux" else None))
        assert sum(parameter.numel() for parameter in controlnet.parameters()) == parameters
        size = condition[1] // 8 if condition[0] == 3 else 128
        z = torch.empty(2, 4 if condition[0] == 3 else 16, size, size)
        model = ControlledNetwork.__new__(ControlledNetwork)
        model.network, model.controlnet, model.control = network, controlnet, control_of(network)
        model.condition = torch.empty(2, *condition)
        output = model(z, torch.empty(2), Prompts(*(torch.empty(2, *shape) for shape in prompts)))
        assert output.shape == z.shape
        output.square().mean().backward()
    trained = {name for name, parameter in controlnet.named_parameters() if parameter.grad is not None}
    assert len(trained) > 0.9 * len(list(controlnet.parameters()))
    assert all(parameter.grad is None for parameter in network.network.parameters())


def test_generate_uses_the_controlnet_of_a_run_with_a_condition_image(
    text_to_image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conditioned(tmp_path / "images")
    command = ["fit", "--config", "configs/finetuning/controlnet.yaml", "--run_directory", str(tmp_path / "run")]
    command += ["--data.images.data_dir", str(tmp_path / "images"), "--data.images.image_size", "16"]
    command += ["--data.images.condition_dir", str(tmp_path / "conditions"), "--data.loading.num_workers", "0"]
    command += ["--model.network.pipeline", str(text_to_image), "--trainer.max_steps", "2", "--data.batch_size", "2"]
    command += ["--model.optimizer.lr", "0.01", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    assert train.main(command) == 0
    line = ["generate", "--resume", str(tmp_path / "run"), "--prompts", "a cat", "--steps", "2", "--guidance", "2"]
    line += ["--seed", "7", "--output", str(tmp_path / "new"), "--accelerator", "cpu"]
    assert train.main(line) == 2
    assert "ControlNet needs --image, its condition image" in capsys.readouterr().err
    save(tmp_path / "condition.png", photograph(16, 16, 9))
    assert train.main([*line, "--image", str(tmp_path / "condition.png")]) == 0
    [path] = (tmp_path / "new" / "images").glob("*.png")
    other = ControlNetModel.from_pretrained(tmp_path / "run" / "pipeline" / "controlnet")
    alone: Any = diffusers.StableDiffusionControlNetPipeline.from_pretrained(text_to_image, controlnet=other)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    condition = torch.from_numpy(read_pixels(tmp_path / "condition.png"))[None] / 255
    given = {"latents": noise, "num_inference_steps": 2, "guidance_scale": 2.0, "height": 16, "width": 16}
    expected = 255 * alone("a cat", condition, output_type="np", **given).images[0]
    np.testing.assert_allclose(read_pixels(path, channels=3).transpose(1, 2, 0), expected, atol=1)
