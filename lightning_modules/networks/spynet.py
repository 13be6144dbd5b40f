"""SPyNet: optical flow between two frames. At each level of a pyramid, five convolutions refine the flow.

    v_l = 2 up(v_{l-1}) + G_l(I_l, warp(J_l, 2 up(v_{l-1})), 2 up(v_{l-1})), starting from v = 0 at the coarsest level.

I_l and J_l are the two frames at level l, and G_l are the convolutions. The operator `up` doubles the resolution.
Frames are first resized to heights and widths that are multiples of 32, and then downsampled five times by a factor of
2. The weights are frozen, but gradients flow to the frames, as in the video networks that use SPyNet.

Source: Ranjan and Black, Optical Flow Estimation using a Spatial Pyramid Network, CVPR 2017, arXiv 1611.00850; the form
of BasicVSR (Chan, Wang, Yu, Dong and Loy, CVPR 2021, arXiv 2012.02181).
"""

import itertools
import math
import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones.weights import load, on_meta, read_weights

LEVELS = 6
STRIDE = 2 ** (LEVELS - 1)
LEAST_SIDE = 64
"""Minimum size of frames for flow estimation, in pixels, as in BasicVSR."""


def warp(image: Tensor, flow: Tensor, padding: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Sample images bilinearly at the positions to which a flow points.

    Args:
        image: `[B, C, H, W]`.
        flow: `[B, 2, H, W]`: displacements to the right and down, in pixels.
        padding: value outside the image: `zeros`, or the value of the nearest pixel (`border`).

    Returns:
        `[B, C, H, W]`.
    """
    height, width = image.shape[2:]
    # Half precision would round the positions.
    dtype = torch.promote_types(torch.promote_types(image.dtype, flow.dtype), torch.float32)
    flow = flow.to(dtype)
    axes = (torch.arange(side, device=flow.device, dtype=dtype) for side in (height, width))
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    x = 2 * (columns + flow[:, 0]) / max(width - 1, 1) - 1
    y = 2 * (rows + flow[:, 1]) / max(height - 1, 1) - 1
    places = torch.stack([x, y], dim=3)
    found = F.grid_sample(image.to(dtype), places, mode="bilinear", padding_mode=padding, align_corners=True)
    return found.to(image.dtype)


class ZeroFlow(nn.Module):
    """Return zero flow, as for frames without motion. Small networks use it instead of a trained flow network."""

    least_side = 1


class SPyNet(nn.Module):
    """Network with frozen weights that estimates the optical flow between frames.

    Args:
        weights: file in safetensors or another format of `read_weights`, with BasicSR's or mmediting's layer names.
            None uses random weights, for tests.
    """

    least_side = LEAST_SIDE
    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        widths = (8, 32, 64, 32, 16, 2)

        def level() -> nn.Sequential:
            layers: list[nn.Module] = []
            for before, after in itertools.pairwise(widths):
                layers += [nn.Conv2d(before, after, 7, padding=3), nn.ReLU()]
            return nn.Sequential(*layers[:-1])

        self.levels = nn.ModuleList(level() for _ in range(LEVELS))
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):  # ImageNet's
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        if weights is not None and not on_meta(self):
            named = {own_name(key): value for key, value in read_weights(weights).items()}
            load(self, {key: value for key, value in named.items() if key not in ("mean", "std")}, weights)
        self.requires_grad_(False)

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Estimate the displacement of each pixel from one frame to the other.

        Args:
            frame: `[B, 3, H, W]` in [0, 1].
            other: `[B, 3, H, W]`.

        Returns:
            `[B, 2, H, W]`: displacements to the right and down, in pixels.
        """
        height, width = frame.shape[2:]
        size = [math.ceil(side / STRIDE) * STRIDE for side in (height, width)]
        pair = torch.stack([frame, other]).flatten(0, 1)
        pair = (F.interpolate(pair, size, mode="bilinear", align_corners=False) - self.mean) / self.std
        pyramid = [pair]
        for _ in range(LEVELS - 1):
            pyramid.insert(0, F.avg_pool2d(pyramid[0], 2))
        flow = frame.new_zeros(len(frame), 2, *pyramid[0].shape[2:])
        for number, (correct, level) in enumerate(zip(self.levels, pyramid, strict=True)):
            if number:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            first, second = level.chunk(2)
            flow = flow + correct(torch.cat([first, warp(second, flow, "border"), flow], dim=1))
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([width / size[1], height / size[0]])[:, None, None]


def own_name(key: str) -> str:
    """Translate a layer name of BasicSR or of mmediting, whose layer numbers do not count activations."""
    found = re.fullmatch(r"basic_module\.(\d)\.basic_module\.(\d)\.(conv\.)?(weight|bias)", key)
    if found is None:
        return key
    level, layer, counted_alone, kind = found.groups()
    return f"levels.{level}.{2 * int(layer) if counted_alone else layer}.{kind}"
