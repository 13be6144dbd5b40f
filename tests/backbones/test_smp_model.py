"""Networks of segmentation-models-pytorch; the tests that build a network need the package."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.backbones import smp_model
from lightning_modules.backbones.smp_model import FilledUp


def test_images_of_any_size_are_filled_up_and_cut_back() -> None:
    seen: list[torch.Size] = []

    class Twice(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image.shape)
            return 2 * image

    image = torch.rand(2, 3, 5, 9)
    assert torch.equal(FilledUp(Twice(), 8)(image), 2 * image)
    assert seen == [torch.Size([2, 3, 8, 16])]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("segmentation_models_pytorch"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'noiseworks\[segmentation\]'"):
        smp_model("Unet", 3)


def test_a_network_takes_images_in_the_unit_interval_and_its_own_weights(tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = smp_model("unet", 3, encoder="resnet18").eval()
    plain = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    inner: Any = network.network
    torch.save(getattr(inner, "network", inner).state_dict(), tmp_path / "weights.pt")
    plain.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    image = torch.rand(1, 3, 32, 64)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(network(image), plain((image - mean) / std))
    assert network(torch.rand(1, 3, 33, 40)).shape == (1, 3, 33, 40)
    again = smp_model("Unet", 3, encoder="resnet18", weights=str(tmp_path / "weights.pt")).eval()
    assert torch.equal(again(image), network(image))
