"""Noise of a camera sensor in low light: a physical model with calibrated parameters."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from datamodules.arguments import ascending, at_least, one_of, positive
from datamodules.corruptions.image_noise.camera import Camera, Line, camera
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.randomness.counter import RNG

Model = Literal["physical", "shot and gaussian", "gaussian"]


def tukey_lambda_quantile(uniform: Tensor, shape: Tensor | float) -> Tensor:
    """Compute quantiles of the Tukey lambda distribution: (u^l - (1 - u)^l) / l, or the limit at l = 0.

    Args:
        uniform: u, in (0, 1).
        shape: shape l. The distribution is logistic for l = 0 and nearly normal for l = 0.14. A smaller l gives heavier
            tails.
    """
    shape = torch.as_tensor(shape, dtype=uniform.dtype, device=uniform.device)
    ends = uniform.log(), (-uniform).log1p()
    safe = torch.where(shape == 0, 1, shape)
    powers = [torch.expm1(safe * end) for end in ends]  # u^l - 1, accurate for small l
    return torch.where(shape == 0, ends[0] - ends[1], (powers[0] - powers[1]) / safe)


def tukey_lambda_variance(shape: float) -> float:
    """Compute the variance of the Tukey lambda distribution of scale 1, for a shape above -1/2."""
    if abs(shape) < 1e-4:
        return math.pi**2 / 3
    beta = math.exp(2 * math.lgamma(shape + 1) - math.lgamma(2 * shape + 2))
    return 2 / shape**2 * (1 / (1 + 2 * shape) - beta)


class SensorState(NamedTuple):
    """Parameters that are the same for all pixels of an exposure.

    All parameters except the bias have the shape `[B, 1, 1, 1]`.
    """

    gain: Tensor
    """System gain K, in digital numbers per electron."""
    read: Tensor
    """Scale of the read noise."""
    row: Tensor
    """Standard deviation of the row noise."""
    shape: Tensor
    """Shape parameter lambda of the Tukey distribution of the read noise."""
    bias: Tensor
    """Offsets of the colours, `[B, 4, 1, 1]`."""


@dataclass(frozen=True)
class Sensor(ImageNoise):
    """Noise of an amplified short exposure: shot, read and row noise, colour bias and quantisation.

    A clean raw image x is darkened to D0 = x L / f digital numbers, where L is the signal range and f the light factor.
    A gain K is sampled log-uniformly. The noisy image is

        D = K Poisson(D0 / K) + TukeyLambda(l, s_TL) + bias + N(0, s_row) for each row + U(-1/2, 1/2),
        y = D f / L.

    Here, log s_TL and log s_row are normally distributed, with means that are linear in log K. The shape l and the bias
    come from a random recording at a gain near K; the cameras of the paper have two recordings per gain. The argument
    `model` can also select one of two baseline models: shot noise plus Gaussian noise, or Gaussian noise only. The
    sampled y is not clipped here. The restoration method clips it to [0, 1], like real images.

    Images are packed, `[B, 4, H, W]`, with channels R, G, B, G as in `datamodules.files.bayer.pack_bayer`. R and the
    first G come from one sensor row, and B and the second G from the next row.

    Source: Wei, Fu, Zheng and Yang, Physics-based Noise Modeling for Extreme Low-light Photography, TPAMI 2022, arXiv
    2108.02158. The parameters are distributed as in the authors' tables. The authors have not published their sampling
    code.

    Args:
        camera: name of a bundled camera (SonyA7S2, NikonD850, CanonEOS70D, CanonEOS700D, CanonEOS5D4), or path of a
            file with your own calibration, written by `Camera.save`.
        levels: signal range L, which is white level minus black level, in digital numbers. None means the value in the
            camera's parameters.
        light_factors: smallest and largest light factor f, which is sampled uniformly for each image.
        model: noise model: `physical`, `shot and gaussian` or `gaussian`.
        banding: factor by which the row noise is multiplied. The baseline models apply it to the row noise contained in
            the Gaussian noise. With 1, the row noise is as calibrated.
        colour_bias: whether to add the colour bias.
    """

    camera: str = "SonyA7S2"
    levels: float | None = None
    light_factors: tuple[float, float] = (100.0, 300.0)
    model: Model = "physical"
    banding: float = 1.0
    colour_bias: bool = True

    def __post_init__(self) -> None:
        positive(levels=self.levels)
        at_least(0, banding=self.banding)
        ascending(0, math.inf, "()", light_factors=self.light_factors)
        one_of(get_args(Model), model=self.model)
        if self.signal_range is None:
            raise ValueError(
                f"levels must be set to white level minus black level, because {self.camera} does not contain this "
                f"number; got None"
            )

    @cached_property
    def parameters(self) -> Camera:
        """The camera's calibrated parameters."""
        return camera(self.camera)

    @property
    def signal_range(self) -> float | None:
        """The signal range L: the argument `levels` or, if this is None, the value in the parameters of the camera."""
        return self.parameters.levels if self.levels is None else self.levels

    def state(self, like: Tensor, numbers: RNG) -> SensorState:
        """Sample the gain, noise scales, shape parameter and colour bias of each exposure.

        Args:
            like: tensor `[B, ...]` with the dtype and device of the result.
            numbers: source of random numbers.
        """
        one, of = like[:, :1, :1, :1], self.parameters
        low, high = (math.log(gain) for gain in of.gain)
        place = numbers.uniform(one).to(like)
        log_gain = low + (high - low) * place

        def scale(line: Line) -> Tensor:
            slope, intercept, spread = line
            return (slope * log_gain + intercept + spread * numbers.normal(one).to(like)).exp()

        read, row = scale(of.gaussian if self.model != "physical" else of.read), scale(of.row)
        if self.model != "physical":  # total noise in the dark, including row noise
            read = (read**2 + (self.banding**2 - 1) * row**2).clamp(min=0).sqrt()
        # There are two recordings per gain, and gains are evenly spaced in log K.
        gains = (len(of.tukey_lambda) + 1) // 2
        second = (numbers.uniform(one).to(like) < 0.5).long()
        recording = (2 * (place * gains).long().clamp(max=gains - 1) + second).clamp(max=len(of.tukey_lambda) - 1)
        lambdas, biases = (
            torch.tensor(each, dtype=like.dtype).to(like.device, non_blocking=True)
            for each in (of.tukey_lambda, of.colour_bias)
        )
        shape, bias = lambdas[recording], biases[recording.flatten()]
        return SensorState(log_gain.exp(), read, self.banding * row, shape, self.colour_bias * bias[:, :, None, None])

    def expose(self, signal: Tensor, state: SensorState, numbers: RNG) -> Tensor:
        """Sample the noisy output of the sensor for a noise-free signal.

        Args:
            signal: D0, `[B, 4, H, W]`, in digital numbers above black.
            state: gain, scales, shape and bias of each exposure.
            numbers: source of random numbers.

        Returns:
            D, in digital numbers above black.
        """
        if self.model == "gaussian":
            return signal + state.read * numbers.normal(signal)
        recorded = state.gain * numbers.poisson(signal / state.gain)
        if self.model == "shot and gaussian":
            return recorded + state.read * numbers.normal(signal)
        recorded = recorded + state.read * tukey_lambda_quantile(numbers.uniform(signal).to(signal), state.shape)
        rows = state.row * numbers.normal(signal[:, :2, :, :1]).to(signal)
        recorded = recorded + state.bias + rows.repeat_interleave(2, dim=1)
        return recorded + numbers.uniform(signal) - 0.5

    def sample(self, clean: Tensor, numbers: RNG) -> Tensor:
        if clean.shape[1] != 4:
            raise ValueError(f"Sensor needs packed raw images of 4 channels, got {clean.shape[1]}")
        low, high = self.light_factors
        factor = low + (high - low) * numbers.uniform(clean[:, :1, :1, :1]).to(clean)
        state, levels = self.state(clean, numbers), self.signal_range
        assert levels is not None
        return self.expose(clean * levels / factor, state, numbers) * factor / levels
