import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.backbones import timm_model
from lightning_modules.diffusion.stable_normal import PatchFeatures
from tests.diffusion.stable_normal.small import features


def test_features_are_the_patch_tokens_in_their_places() -> None:
    found = features()
    image = torch.rand(2, 3, 10, 13, dtype=torch.float64)
    resized = F.interpolate(image, (16, 16), mode="bicubic", align_corners=True, antialias=True)
    tokens = found.network.network.forward_features((resized - 0.5) / 0.25)
    assert tokens.shape == (2, 1 + 2 + 16, 12)
    given = found(image)
    assert given.shape == (2, found.channels, 4, 4)
    torch.testing.assert_close(given[1, :, 2, 3], tokens[1, 3 + 2 * 4 + 3])
    assert not given.requires_grad
    assert not found.train().network.training


def test_a_network_of_timm_gives_its_features_and_others_are_refused() -> None:
    with torch.device("meta"):
        network = timm_model("vit_small_patch14_dinov2", num_classes=0, image_size=56)
        assert PatchFeatures(network, image_size=56)(torch.empty(1, 3, 9, 9)).shape == (1, 384, 4, 4)
        maps = PatchFeatures(timm_model("resnet18", num_classes=0), image_size=64)
        assert maps(torch.empty(1, 3, 9, 9)).shape == (1, maps.channels, 2, 2)
    for other in (nn.Conv2d(3, 3, 1), timm.create_model("resnet18", num_classes=0)):
        with pytest.raises(TypeError, match=r"features.network must be a timm_model with normalize: true"):
            PatchFeatures(other)
