from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.diffusion.stable_normal import ConditionedUNet, PixelUNet, ReleasedModel
from tests.diffusion.stable_normal.small import features, latent, released_folder, stage, stirred, unet

TIME = torch.tensor([3, 700])


def test_at_first_the_output_is_that_of_the_plain_unet() -> None:
    torch.manual_seed(0)
    found, x = stage(semantic=True), latent(2, 3, 8, 8)
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    semantics = found.semantics(image, (8, 8))
    plain = found.model.network(x, TIME, torch.zeros(2, 1, 8, dtype=torch.float64)).sample
    output = found(x, TIME, 2 * image - 1, semantics)
    torch.testing.assert_close(output, plain)
    output.square().sum().backward()
    zero_layers = [*found.encoder.controlnet_down_blocks, found.encoder.controlnet_mid_block]
    assert found.semantic_encoder is not None
    assert all(layer.weight.grad.any() for layer in zero_layers)
    assert all(layer.bias.grad.any() for layer in found.semantic_encoder.encoder.controlnet_down_blocks)


def test_the_encoder_sees_the_image_and_its_outputs_go_to_the_decoder_as_diffusers_adds_them() -> None:
    """Compare with diffusers' own ControlNet, with a hint that has no effect."""
    torch.manual_seed(0)
    found, x, image = stage(), latent(2, 3, 8, 8), latent(2, 3, 8, 8, seed=1)
    stirred(found)
    alone = ControlNetModel.from_config(found.encoder.config).double()
    assert isinstance(alone.controlnet_cond_embedding, ControlNetConditioningEmbedding)
    alone.load_state_dict(found.encoder.state_dict(), strict=False)
    text = torch.zeros(2, 1, 8, dtype=torch.float64)
    skips, middle = alone(image, TIME, text, torch.rand(2, 3, 64, 64, dtype=torch.float64), return_dict=False)
    expected = found.model.network(
        x, TIME, text, down_block_additional_residuals=skips, mid_block_additional_residual=middle
    ).sample
    torch.testing.assert_close(found(x, TIME, image), expected)
    assert (found(x, TIME, image) - found(x, TIME, -image)).abs().max() > 1e-3


def test_the_decoder_alone_is_trained_where_that_is_asked_for() -> None:
    found = stage(semantic=True, trained="decoder")
    trained = {name for name, parameter in found.named_parameters() if parameter.requires_grad}
    of_unet = {name.split(".")[2] for name in trained if name.startswith("model.network.")}
    assert of_unet == {"up_blocks", "conv_norm_out", "conv_out"}
    assert any(name.startswith("encoder.down_blocks") for name in trained)
    assert any(name.startswith("semantic_encoder.embedding") for name in trained)
    assert not any(name.startswith("features") for name in trained)
    assert any("model.network.conv_in" in name for name, one in stage().named_parameters() if one.requires_grad)


def test_a_saved_pipeline_is_read_trained_saved_and_read_by_diffusers_alone(
    text_to_image: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    found = ConditionedUNet(TextToImage(str(text_to_image), tuning="full"), features().float())
    assert found.pixels_per_latent == 2
    assert found.text.shape == (1, 16, 16)
    assert not torch.equal(found.text, ConditionedUNet(TextToImage(str(text_to_image)), prompt="").text)
    stirred(found)
    with torch.no_grad():
        found.model.network.conv_out.bias.add_(1)
    found.save(tmp_path)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(pipeline.unet.conv_out.bias, found.model.network.conv_out.bias)
    ControlNetModel.from_pretrained(tmp_path / "controlnet")
    again = ConditionedUNet(TextToImage(str(tmp_path), tuning="full"), features().float(), encoders=str(tmp_path))
    x, image = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 16, 16)
    again.features = found.features  # the weights come from a different source
    outputs = [one(x, TIME, one.model.encode(image), one.semantics(image, (8, 8))) for one in (found, again)]
    assert torch.equal(*outputs)
    small = ConditionedUNet(PixelUNet(unet()))
    small.save(tmp_path / "small")
    UNet2DConditionModel.from_pretrained(tmp_path / "small" / "unet")
    with pytest.raises(FileNotFoundError, match=r"encoders: .*semantic_encoder.pt does not exist"):
        ConditionedUNet(PixelUNet(unet()), features(), encoders=str(tmp_path / "small"))
    with pytest.raises(ValueError, match=r"encoders: .* does not fit"):
        ConditionedUNet(PixelUNet(unet()), encoders=str(tmp_path))


def test_a_released_folder_is_read_without_running_its_code(
    text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with diffusers' own ControlNet, with the image's latent as input and a hint that has no effect."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "yoso"
    control = released_folder(text_to_image, folder)
    network = UNet2DConditionModel.from_pretrained(folder / "unet")
    model = ReleasedModel(str(folder), tuning="full", prediction_types=("epsilon", "v_prediction", "sample"))
    found = ConditionedUNet(model, prompt="", encoders=str(folder))
    assert not Path("ran").exists()
    control.controlnet_cond_embedding = torch.nn.Identity()
    x, image, text = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), found.text.expand(2, -1, -1)
    skips, middle = control(image, TIME, text, torch.zeros(()), return_dict=False)
    residuals = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
    torch.testing.assert_close(found(x, TIME, image), network(x, TIME, text, **residuals).sample)
