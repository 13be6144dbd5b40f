"""The small vision transformer: its size, its attention, and the order of the pixels in a patch."""

import torch
from torch import nn

from lightning_modules.networks.cifar_vit import Attention, CIFARViT, ViTBlock


def test_scores_are_divided_by_the_root_of_the_width() -> None:
    torch.manual_seed(0)
    layer, token = Attention(6, 2).double(), torch.randn(3, 5, 6, dtype=torch.float64)
    query, key, value = (each(token).view(3, 5, 2, 3) for each in (layer.query, layer.key, layer.value))
    weight = (torch.einsum("bihf,bjhf->bhij", query, key) / 6**0.5).softmax(dim=3)
    mixed = torch.einsum("bhij,bjhf->bihf", weight, value).reshape(3, 5, 6)
    torch.testing.assert_close(layer(token), layer.output(mixed))
    block = ViTBlock(6, 2).double()
    after = token + block.attention(block.norm1(token))
    first, _, second, _ = block.perceptron
    gelu = nn.functional.gelu
    torch.testing.assert_close(block(token), after + gelu(second(gelu(first(block.norm2(after))))))


def test_a_patch_is_embedded_as_rows_of_pixels_of_channels() -> None:
    network = CIFARViT(num_classes=3, image_size=4, patch_size=2, width=4, depth=0, num_heads=2)
    image = torch.rand(1, 3, 4, 4)
    seen: list[torch.Tensor] = []
    network.embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(image)
    patch = image[0, :, 2:, :2]  # the third patch
    assert seen[0][0, 2].tolist() == [
        float(patch[channel, y, x]) for y in (0, 1) for x in (0, 1) for channel in range(3)
    ]
