"""The published blur network: values of the authors' code in float64, and weight files with the authors' names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules.networks.kernel_wizard import KernelWizard, kernel_wizard_weights

PLACES = [0, 777, 20000, 33333, 49151]
CHANGES = [-0.4818526049631665, -0.3327141680669951, -0.06377071674984891, 0.2334757484394942, -0.004377148474673003]
"""The change that the authors' code makes to an image, with the weights of `state`."""


def state(network: KernelWizard) -> dict[str, Tensor]:
    """Set every parameter to values that depend only on its name and shape."""
    found = {}
    for name, value in network.state_dict().items():
        places = torch.arange(value.numel(), dtype=torch.float64)
        fan = max(value.numel() // len(value), 1)
        found[name] = (0.7 * places + len(name)).sin().view_as(value) * (0.2 / fan) ** 0.5
    return found


def test_a_published_file_gives_what_the_authors_code_gives(tmp_path: Path) -> None:
    network = KernelWizard(features=8, front_blocks=1, back_blocks=1)
    torch.save({**state(network), "kernel_extractor.model.1.weight": torch.zeros(8, 16, 7, 7)}, tmp_path / "wvae.pth")
    assert kernel_wizard_weights(str(tmp_path / "wvae.pth"), network.double()) is network
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = (0.013 * torch.arange(3 * 128 * 128, dtype=torch.float64)).sin().view(1, 3, 128, 128) / 2 + 0.5
    code = 1.2 * (0.9 * torch.arange(network.code_channels, dtype=torch.float64)).cos().view(1, -1, 1, 1)
    change = (network(image, code) - image).flatten()[PLACES]
    torch.testing.assert_close(change, torch.tensor(CHANGES, dtype=torch.float64), rtol=0, atol=1e-9)

    torch.save({"adapter.model.down.0.weight": torch.zeros(8, 8, 4, 4)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth does not fit KernelWizard: missing: feature_extractor.0.weight"):
        kernel_wizard_weights(str(tmp_path / "other.pth"), network)
    with torch.device("meta"):  # no file is read
        assert kernel_wizard_weights("absent.pth").code_channels == 512  # type: ignore[union-attr]
