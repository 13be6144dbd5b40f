import pytest
import timm
import torch
from torch import nn

from lightning_modules.backbones.factories import timm_model
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.mahalanobis.layers import layer_features, named_layers, num_features
from lightning_modules.robustness.mahalanobis.module import Mahalanobis
from tests.robustness.mahalanobis.small_detector import LAYERS


def test_features_are_the_means_over_places_of_the_named_layers() -> None:
    network = ConvNet(1, [3, 4], 6).eval()
    image = torch.rand(5, 1, 8, 8)
    layers = named_layers(network, LAYERS)
    logits, features = layer_features(network, layers, image)
    first = network.relu1(network.conv1(image))
    torch.testing.assert_close(features[0], first.mean(dim=(2, 3)))
    torch.testing.assert_close(features[1], network.relu2(network.conv2(first)).mean(dim=(2, 3)))
    assert torch.equal(logits, network(image))
    assert num_features(network, layers, (1, 8, 8)) == [3, 4]
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_of_timm_models_are_named_inside_the_normalisation() -> None:
    network = timm_model("vit_tiny_patch16_224", num_classes=4, image_size=32)
    assert num_features(network, named_layers(network, ["blocks.0", "norm"]), (3, 32, 32)) == [192, 192]
    assert isinstance(network, Normalized)


def test_channels_may_be_last() -> None:
    """If the order of a layer's dimensions were declared wrongly, features would be means of rows, or the rows."""
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=4, img_size=32, window_size=2, embed_dim=6, depths=(1, 1),
        num_heads=(1, 2),
    ).eval()  # fmt: skip
    shape, names = (3, 32, 32), ["patch_embed.proj", "layers.0", "norm"]
    module = Mahalanobis(network, 4, names, shape, channels_last=["layers.0", "norm"])
    assert module.gaussians.num_features == [6, 6, 12]
    image = torch.rand(2, *shape)
    _, features = layer_features(network, module.layers, image)
    first = network.patch_embed.proj(image)
    torch.testing.assert_close(features[0], first.mean(dim=(2, 3)))
    last = network.forward_features(image)
    assert last.shape == (2, 4, 4, 12)
    torch.testing.assert_close(features[2], last.mean(dim=(1, 2)))
    for few, message in (
        (["layers.0"], r"norm outputs \[2, 4, 4, 12\], which is not \[B, d, H, W\] .*, name it in channels_last"),
        (names, r"proj outputs \[2, 6, 8, 8\], which is not \[B, H, W, d\] .*; leave it out of channels_last"),
    ):
        with pytest.raises(ValueError, match=message):
            num_features(network, named_layers(network, names, few), shape)
    with pytest.raises(ValueError, match=r"channels_last must name some of the layers norm.*, got layers\.1"):
        named_layers(network, ["norm"], ["layers.1"])


def test_what_is_no_layer_is_refused_with_the_names_that_there_are() -> None:
    network = ConvNet(1, [3, 4], 6)
    with pytest.raises(ValueError, match=r"no layer named relu3; did you mean .*relu2.*has: conv1, relu1"):
        named_layers(network, ["relu3"])
    with pytest.raises(ValueError, match=r"at least one module, got \[\]; ConvNet has: conv1"):
        named_layers(network, [])
    with pytest.raises(ValueError, match="got relu1 twice"):
        named_layers(network, ["relu1", "relu1"])
    network.unused = nn.ReLU()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="unused is not used in the forward pass"):
        num_features(network, named_layers(network, ["unused"]), (1, 8, 8))
    network.relu2 = network.relu1
    with pytest.raises(ValueError, match="relu1 is used more than once"):
        num_features(network, named_layers(network, ["relu1"]), (1, 8, 8))
    with pytest.raises(ValueError, match=r"image_shape \[3, 8, 8\] is not accepted by the network"):
        num_features(network, named_layers(network, ["conv2"]), (3, 8, 8))


def test_a_perceptron_has_features_too() -> None:
    module = Mahalanobis(MLP(64, [32, 16], 8), 8, ["layers.1", "layers.3"], (1, 8, 8))
    assert module.gaussians.num_features == [32, 16]
