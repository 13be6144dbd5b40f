import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.networks.time_conditioned_vit import TimeConditionedViT
from lightning_modules.networks.time_embedding import sinusoidal_embedding
from tests.networks.compared import count


@settings(max_examples=20)
@given(time=st.lists(st.floats(-2000, 2000), min_size=1, max_size=5), half=st.integers(2, 40))
def test_the_embedding_is_that_of_diffusers_with_the_cosines_first(time: list[float], half: int) -> None:
    times = torch.tensor(time)
    expected = get_timestep_embedding(times, 2 * half, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoidal_embedding(times, 2 * half), expected, rtol=0, atol=2e-3)


def test_the_embedding_of_half_precision_times_is_computed_in_single_precision() -> None:
    assert sinusoidal_embedding(torch.tensor([7.0], dtype=torch.float16), 8).dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "patch", "width", "depth", "heads", "millions"),
    [(32, 4, 768, 12, 12, 85.1), (224, 16, 768, 12, 12, 85.8), (224, 16, 512, 6, 8, 19.4)],
    ids=["B of CIFAR-10", "B of ImageNet", "S of ImageNet"],
)
def test_parameters_of_the_papers_networks(
    size: int, patch: int, width: int, depth: int, heads: int, millions: float
) -> None:
    with torch.device("meta"):
        network = TimeConditionedViT(size, patch, width, depth, heads)
    tokens = 2 + (size // patch) ** 2
    expected = depth * (12 * width**2 + 10 * width) + 3 * patch**2 * width + (4 + tokens) * width
    found = count(network)
    assert found == expected
    assert found / 1e6 == pytest.approx(millions, abs=0.06)
    assert not [name for name, _ in network.named_parameters() if "qkv.bias" in name]
    assert {m.eps for m in network.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


def test_tokens_are_class_time_and_patches_row_by_row_plus_positions() -> None:
    network = TimeConditionedViT(8, 4, width=6, depth=1, num_heads=2, in_channels=2).double()
    seen: list[torch.Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image, time = torch.randn(3, 2, 8, 8).double(), torch.tensor([-3.0, 0.5, 900.0]).double()
    feature = network(image, time)
    tokens = seen[0] - network.pos_embed
    torch.testing.assert_close(tokens[:, 0], network.cls_token[0].expand(3, -1))
    torch.testing.assert_close(tokens[:, 1], sinusoidal_embedding(time, 6))
    weight, bias = network.patch_embed.weight.flatten(1), network.patch_embed.bias
    for row in range(2):
        for column in range(2):
            patch = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
            torch.testing.assert_close(tokens[:, 2 + 2 * row + column], patch @ weight.T + bias)
    torch.testing.assert_close(feature.mean(dim=1), torch.zeros(3).double(), atol=1e-12, rtol=0)  # the last LayerNorm
    bare = TimeConditionedViT(8, 4, width=6, depth=1, num_heads=2, in_channels=2, final_norm=False).double()
    bare.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("norm.")})
    torch.testing.assert_close(network.norm(bare(image, time)), feature)


def test_initialisations() -> None:
    network = TimeConditionedViT(16, 4, 64, depth=1, num_heads=4, initialization="moco_v3", train_patches=False)
    block = network.blocks[0]
    bounds = {
        block.attn.qkv.weight: math.sqrt(6 / (64 + 64)),
        block.mlp.fc1.weight: math.sqrt(6 / (64 + 256)),
        network.patch_embed.weight: math.sqrt(6 / (3 * 16 + 64)),
    }
    for weight, bound in bounds.items():
        assert 0.97 * bound < weight.abs().max() <= bound
    biases = [block.attn.proj.bias, block.mlp.fc1.bias, block.mlp.fc2.bias, network.patch_embed.bias]
    assert not any(bias.any() for bias in biases)
    assert not any(parameter.requires_grad for parameter in network.patch_embed.parameters())
    other = TimeConditionedViT(16, 4, 64, depth=1, num_heads=4)
    fan_in = {other.patch_embed: 3 * 16}
    fan_in |= {layer: layer.in_features for layer in other.modules() if isinstance(layer, torch.nn.Linear)}
    for layer, fan in fan_in.items():  # PyTorch's initialisation, which also samples biases
        for parameter in layer.parameters():
            assert 0.8 * fan**-0.5 < parameter.abs().max() <= fan**-0.5
    assert other.patch_embed.weight.requires_grad
    for either in (network, other):
        torch.testing.assert_close(either.pos_embed.std(), torch.tensor(0.02), rtol=0.1, atol=0)
        assert 0 < either.cls_token.abs().max() < 1e-5


def test_the_perceptron_hears_the_time_and_refuses_other_images() -> None:
    network = TimeConditionedMLP(16, width=8, depth=2)
    image = torch.rand(3, 1, 4, 4)
    first, second = (network(image, torch.full((3,), t)) for t in (0.0, 100.0))
    assert first.shape == (3, 8)
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="in_features is 16"):
        network(torch.rand(3, 1, 5, 4), torch.zeros(3))
