import torch
import torch.nn.functional as F

from lightning_modules.networks.noise2noise_unet import Noise2NoiseUNet


def test_the_network_is_what_is_written_out() -> None:
    """Each convolution except the last feeds a leaky ReLU; the shared blocks are applied four and three times."""
    torch.manual_seed(0)
    network = Noise2NoiseUNet(2, width=4).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image = torch.randn(1, 2, 64, 32, dtype=torch.float64)
    weights = iter(network.state_dict().values())
    pairs = list(zip(weights, weights, strict=True))

    def conv(x: torch.Tensor, number: int, last: bool = False) -> torch.Tensor:
        x = F.conv2d(x, *pairs[number], padding=1)
        return x if last else torch.where(x > 0, x, 0.1 * x)

    def enlarged(x: torch.Tensor, number: int) -> torch.Tensor:
        return F.conv_transpose2d(x, *pairs[number], stride=2, padding=1, output_padding=1)

    levels = [F.max_pool2d(conv(conv(image, 0), 1), 2)]
    for _ in range(4):
        levels.append(F.max_pool2d(conv(levels[-1], 2), 2))
    x = enlarged(conv(levels[4], 3), 4)
    x = enlarged(conv(conv(torch.cat([x, levels[3]], 1), 5), 6), 7)
    for level in (2, 1, 0):
        x = enlarged(conv(conv(torch.cat([x, levels[level]], 1), 8), 9), 10)
    x = conv(conv(conv(torch.cat([x, image], 1), 11), 12), 13, last=True)
    torch.testing.assert_close(network(image), x, rtol=0, atol=1e-12)


def test_images_of_any_size_are_reflected_to_a_multiple_of_32_and_cut_again() -> None:
    network = Noise2NoiseUNet(1, width=4).double()
    image = torch.rand(1, 1, 41, 50, dtype=torch.float64)
    whole = network(F.pad(image, (0, 14, 0, 23), mode="reflect"))
    assert torch.equal(network(image), whole[..., :41, :50])
