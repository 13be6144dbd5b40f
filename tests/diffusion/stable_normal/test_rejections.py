from pathlib import Path

from diffusers import UNet2DConditionModel

from lightning_modules.diffusion.stable_normal import PixelUNet
from tests.diffusion.stable_normal.small import module
from tests.rejections import Row, rejection_test


def other_channels(_: Path) -> object:
    network = UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), norm_num_groups=4,
    )  # fmt: skip
    return PixelUNet(network)


# fmt: off
REJECTED: list[Row] = [
    ("other channels", other_channels, ValueError, r"model.network must have 3 input and output channels, got 4 and 4"),
    ("module refiner", lambda _: module(yoso=False, refiner=False), ValueError, "yoso and refiner are both None"),
    ("module yoso_target 1", lambda _: module(yoso_target="x0"), ValueError,
     "a refiner after yoso starts at the noise level of yoso's target"),
    ("module repeated", lambda _: module(repeated=False), ValueError,
     "a refiner after yoso starts at the noise level of yoso's target"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
