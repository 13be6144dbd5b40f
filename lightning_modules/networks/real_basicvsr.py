"""RealBasicVSR: clean each frame of a clip, then upscale the clip by a bidirectional recurrent network.

    v   = x + clean(x),      repeated while the mean of |clean(v)| is not below a threshold, at most three times
    b_t = B(v_t, warp(b_{t+1}, flow t -> t+1)),    f_t = F(v_t, warp(f_{t-1}, flow t -> t-1))
    y_t = up(v_t) + U(b_t, f_t)

B, F and clean are residual convolutional networks; U fuses the features of both directions and upscales by pixel
shuffle or CARAFE, once or twice; up is bilinear interpolation. In training, each clip is cleaned once. In evaluation,
the mean of |clean(v)| over a clip decides how often the clip is cleaned. In the authors' code, the mean is taken over
the batch, and the result for a clip therefore depends on the other clips of its batch. For mirrored clips, the flow is
computed separately for both directions, whereas the authors' code computes it for one direction and copies it to the
other.

Source: Chan, Zhou, Xu and Loy, Investigating Tradeoffs in Real-World Video Super-Resolution, CVPR 2022, arXiv
2111.12704; BasicVSR, CVPR 2021, arXiv 2012.02181.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datamodules.arguments import at_least, one_of, within
from lightning_modules.backbones.weights import below, load, on_meta, read_weights, renamed_key
from lightning_modules.networks.spynet import ZeroFlow, own_name, warp

SLOPE = 0.1
MOST_CLEANINGS = 3
Upscaling = Literal["pixel_shuffle", "carafe"]
PUBLISHED = {  # maps names in the authors' files to names in `RealBasicVSR`
    "image_cleaning.0.main": "cleaning.0",
    "image_cleaning": "cleaning",
    "backward_resblocks.main": "backward_trunk",
    "forward_resblocks.main": "forward_trunk",
    "backward_resblocks_layer10.main": "backward_trunk",
    "forward_resblocks_layer10.main": "forward_trunk",
    "fusion": "enlargement.fuse",
    "upsample1.upsample_conv": "enlargement.doublings.0",
    "upsample2.upsample_conv": "enlargement.doublings.1",
    "carafe1.channel_compressor": "enlargement.doublings.0.compress",
    "carafe1.content_encoder": "enlargement.doublings.0.weights",
    "carafe2.channel_compressor": "enlargement.doublings.1.compress",
    "carafe2.content_encoder": "enlargement.doublings.1.weights",
    "conv_hr": "enlargement.before_last",
    "conv_last": "enlargement.last",
}
NORMALISATION = ("basicvsr.spynet.mean", "basicvsr.spynet.std")
"""Names of constants that published weight files contain. These constants are not loaded."""


def small_normal(layer: nn.Conv2d, scale: float = 0.1) -> nn.Conv2d:
    """Set a convolution's bias to 0, and its weights by Kaiming initialisation for ReLU, multiplied by `scale`."""
    nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(scale)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class VSRResidualBlock(nn.Module):
    """A residual block of two convolutions with a ReLU between them, initially close to the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (small_normal(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


def residual_convolutions(channels: int, width: int, num_blocks: int) -> nn.Sequential:
    """Build a convolution with LeakyReLU, followed by residual blocks."""
    first = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(SLOPE), *(VSRResidualBlock(width) for _ in range(num_blocks)))


class Carafe(nn.Module):
    """Double the height and width of features. Each output is a mean of 5 x 5 inputs, weighted by predicted weights.

    Source: Wang, Chen, Xu, Liu, Loy and Lin, CARAFE: Content-Aware ReAssembly of FEatures, ICCV 2019, arXiv 1905.02188.
    """

    side = 5

    def __init__(self, width: int) -> None:
        super().__init__()
        self.compress = nn.Conv2d(width, 64, 1)
        self.weights = nn.Conv2d(64, 4 * self.side**2, 3, padding=1)
        nn.init.normal_(self.weights.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.pixel_shuffle(self.weights(self.compress(x)), 2).softmax(dim=1)
        height, width = x.shape[2:]
        padded = F.pad(x, (self.side // 2,) * 4)
        doubled = torch.zeros_like(weights[:, :1])
        for place, weight in enumerate(weights.split(1, dim=1)):  # `unfold` would need 25 times the memory
            row, column = divmod(place, self.side)
            neighbour = padded[..., row : row + height, column : column + width]
            doubled = doubled + weight * F.interpolate(neighbour, scale_factor=2)
        return doubled


class Enlargement(nn.Module):
    """Compute a frame, upscaled by `scale`, from the features of both directions."""

    def __init__(self, channels: int, width: int, scale: int, upscaling: Upscaling = "pixel_shuffle") -> None:
        super().__init__()
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.shuffled = upscaling == "pixel_shuffle"
        self.doublings = nn.ModuleList(
            small_normal(nn.Conv2d(width, 4 * width, 3, padding=1), 1.0) if self.shuffled else Carafe(width)
            for _ in range(scale.bit_length() - 1)
        )
        self.before_last = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, backward: Tensor, forward: Tensor) -> Tensor:
        x = F.leaky_relu(self.fuse(torch.cat([backward, forward], dim=1)), SLOPE)
        for layer in self.doublings:
            x = F.leaky_relu(F.pixel_shuffle(layer(x), 2) if self.shuffled else layer(x), SLOPE)
        return self.last(F.leaky_relu(self.before_last(x), SLOPE))


class RealBasicVSR(nn.Module):
    """Clean clips `[B, T, C, h, w]` and upscale them to `[B, T, C, s h, s w]`.

    Args:
        flow: optical-flow network: `SPyNet` with its weights, or `ZeroFlow`, which assumes no motion.
        channels: channels of a frame, C.
        width: number of channels of the features.
        num_blocks: number of residual blocks in each direction: 20 in RealBasicVSR, 10 in NegVSR.
        num_cleaning_blocks: number of residual blocks of the cleaning network.
        scale: upscaling factor s, 2 or 4.
        threshold: in evaluation, cleaning is repeated until the mean of |clean(v)|, for pixels in [0, 1], is below this
            value.
        checkpointed: whether to recompute the recurrence's activations in the backward pass instead of storing them.
        upscaling: `pixel_shuffle`, as in RealBasicVSR, or `carafe`, as in the authors' code of NegVSR.
    """

    def __init__(
        self,
        flow: nn.Module,
        channels: int = 3,
        width: int = 64,
        num_blocks: int = 20,
        num_cleaning_blocks: int = 20,
        scale: Literal[2, 4] = 4,
        threshold: float = 5 / 255,
        checkpointed: bool = False,
        upscaling: Upscaling = "pixel_shuffle",
    ) -> None:
        super().__init__()
        one_of(("pixel_shuffle", "carafe"), upscaling=upscaling)
        at_least(1, channels=channels, width=width, num_blocks=num_blocks, num_cleaning_blocks=num_cleaning_blocks)
        one_of((2, 4), scale=scale)
        within(0, 1, threshold=threshold)
        self.scale = scale
        self.threshold = threshold
        self.checkpointed = checkpointed
        self.flow = flow
        last = nn.Conv2d(width, channels, 3, padding=1)
        self.cleaning = nn.Sequential(residual_convolutions(channels, width, num_cleaning_blocks), last)
        self.backward_trunk, self.forward_trunk = (
            residual_convolutions(channels + width, width, num_blocks) for _ in range(2)
        )
        self.enlargement = Enlargement(channels, width, scale, upscaling)
        self.width = width

    def forward(self, clip: Tensor) -> Tensor:
        """Clean and upscale clips."""
        return self.upscale(self.clean_frames(clip))

    def clean_frames(self, clip: Tensor) -> Tensor:
        """Apply the cleaning network to clips, once in training and up to three times in evaluation."""
        self.require_fit(clip)
        cleaned, unclean = clip, None
        for _ in range(1 if self.training else MOST_CLEANINGS):
            residue = self.cleaning(cleaned.flatten(0, 1)).view_as(clip)
            cleaned = cleaned + (residue if unclean is None else unclean * residue)
            if not self.training:
                again = (residue.abs().mean(dim=(1, 2, 3, 4), keepdim=True) >= self.threshold).to(residue.dtype)
                unclean = again if unclean is None else unclean * again
                if not unclean.any():
                    break
        return cleaned

    def upscale(self, clip: Tensor) -> Tensor:
        """Upscale cleaned clips."""
        self.require_fit(clip)
        to_later, to_earlier = self.flows(clip)
        frames = clip.unbind(dim=1)
        count, zero = len(frames), clip.new_zeros(len(clip), self.width, *clip.shape[3:])
        backward, forward = [zero], [zero]
        for t in range(count - 1, -1, -1):
            flow = None if to_later is None or t == count - 1 else to_later[:, t]
            backward.insert(0, self._step(self._state, self.backward_trunk, frames[t], backward[0], flow))
        for t in range(count):
            flow = None if to_earlier is None or t == 0 else to_earlier[:, t - 1]
            forward.append(self._step(self._state, self.forward_trunk, frames[t], forward[-1], flow))
        both = backward[:-1], forward[1:]
        if torch.is_grad_enabled() and not self.checkpointed:  # all activations are stored anyway
            stacked = (torch.stack(states, dim=1).flatten(0, 1) for states in both)
            return self._frame(clip.flatten(0, 1), *stacked).unflatten(0, clip.shape[:2])
        return torch.stack([self._step(self._frame, *given) for given in zip(frames, *both, strict=True)], dim=1)

    def flows(self, clip: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Estimate flows `[B, T - 1, 2, h, w]` to the next and to the previous frame; both are None for `ZeroFlow`."""
        if isinstance(self.flow, ZeroFlow):
            return None, None
        pairs = clip[:, :-1].flatten(0, 1), clip[:, 1:].flatten(0, 1)
        shape = (len(clip), clip.shape[1] - 1)
        if not shape[1]:
            return None, None
        return self.flow(*pairs).unflatten(0, shape), self.flow(*pairs[::-1]).unflatten(0, shape)

    def require_fit(self, clip: Tensor) -> None:
        """Reject frames that are too small for the flow network."""
        least: Any = getattr(self.flow, "least_side", 1)
        if min(clip.shape[3:]) < least:
            raise ValueError(
                f"frames must have at least {least} x {least} pixels for {type(self.flow).__name__}, "
                f"got {clip.shape[3]} x {clip.shape[4]}"
            )

    def _step(self, step: Callable[..., Tensor], *given: Any) -> Tensor:
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(step, *given, use_reentrant=False, preserve_rng_state=False)
        return step(*given)

    def _state(self, trunk: nn.Module, frame: Tensor, before: Tensor, flow: Tensor | None) -> Tensor:
        before = before if flow is None else warp(before, flow)
        return trunk(torch.cat([frame, before], dim=1))

    def _frame(self, frame: Tensor, backward: Tensor, forward: Tensor) -> Tensor:
        larger = F.interpolate(frame, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return larger + self.enlargement(backward, forward)


def negvsr_weights(network: RealBasicVSR, path: str) -> RealBasicVSR:
    """Load weights that the authors of NegVSR or RealBasicVSR published, including those of the flow network.

    If the file contains averaged weights of the generator, these are loaded instead of the trained weights. If the
    network is on the meta device, where parameters have no values, the file is not read.

    Args:
        network: `RealBasicVSR` with the layout of the file: `num_blocks: 10` and `upscaling: carafe` for NegVSR.
        path: downloaded file, such as `pretrain_wNegVSR_100000itr_finetune_wNegVSR_150000itr.pth`.
    """
    if on_meta(network):
        return network
    weights = read_weights(path)
    generator = below(weights, "generator_ema.") or below(weights, "generator.") or weights
    load(network, {_own_name(key): value for key, value in generator.items() if key not in NORMALISATION}, path)
    return network


def _own_name(key: str) -> str:
    """Translate a published layer name. An unknown name is returned unchanged, and is reported later."""
    key = key.removeprefix("basicvsr.")
    if key.startswith("spynet."):
        return f"flow.{own_name(key.removeprefix('spynet.'))}"
    block = re.fullmatch(r"(.+)\.2\.(\d+)\.conv([12])\.(weight|bias)", renamed_key(key, PUBLISHED))
    if block is None:
        return renamed_key(key, PUBLISHED)
    return f"{block[1]}.{2 + int(block[2])}.{('first', 'second')[int(block[3]) - 1]}.{block[4]}"
