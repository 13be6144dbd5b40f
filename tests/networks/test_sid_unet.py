import torch
import torch.nn.functional as F

from lightning_modules.backbones.tiled import apply_tiled
from lightning_modules.networks.sid_unet import SIDUNet


def test_the_network_is_what_is_written_out() -> None:
    torch.manual_seed(0)
    network = SIDUNet(2, widths=[3, 4, 5]).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.randn(2, 2, 16, 8, dtype=torch.float64)
    weights = iter(network.state_dict().values())
    pairs = list(zip(weights, weights, strict=True))

    def twice(x: torch.Tensor, number: int) -> torch.Tensor:
        for pair in pairs[number : number + 2]:
            x = F.conv2d(x, *pair, padding=1)
            x = torch.maximum(x, 0.2 * x)
        return x

    def joined(x: torch.Tensor, number: int, level: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.conv_transpose2d(x, *pairs[number], stride=2), level], dim=1)

    first = twice(image, 0)
    second = twice(F.max_pool2d(first, 2), 2)
    x = twice(F.max_pool2d(second, 2), 4)
    x = twice(joined(x, 6, second), 8)
    x = twice(joined(x, 7, first), 10)
    torch.testing.assert_close(network(image), F.conv2d(x, *pairs[12]), rtol=0, atol=1e-12)


def test_images_of_any_size_are_reflected_to_a_multiple_of_the_stride_and_cut_again() -> None:
    network = SIDUNet(4, widths=[2, 3, 4]).double()
    image = torch.rand(1, 4, 13, 18, dtype=torch.float64)
    whole = network(F.pad(image, (0, 2, 0, 3), mode="reflect"))
    assert torch.equal(network(image), whole[..., :13, :18])


def test_tiles_that_overlap_by_twice_the_reach_give_what_the_whole_image_gives() -> None:
    """With three levels, the reach is 2 (1 + 2) + 2 * 4 + 2 (2 + 1) = 20 pixels, plus up to 3 due to pooling cells."""
    torch.manual_seed(0)
    network = SIDUNet(4, widths=[2, 3, 4]).double()
    image = torch.rand(1, 4, 140, 84, dtype=torch.float64)
    torch.testing.assert_close(apply_tiled(network, image, 100, 48), network(image), rtol=0, atol=1e-12)
