"""Noise of a camera's sensor in the dark: a model of its physics, of which all parameters are measured."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from datamodules.arguments import one_of, positive
from datamodules.corruptions.image_noise.camera import Camera, Line, camera
from datamodules.corruptions.image_noise.interface import ImageNoise
from datamodules.randomness.counter import RNG

Model = Literal["physical", "shot and gaussian", "gaussian"]


def tukey_lambda_quantile(uniform: Tensor, shape: Tensor | float) -> Tensor:
    """Invert the distribution function of Tukey's lambda law: (u^l - (1 - u)^l) / l, and its limit for l = 0.

    Args:
        uniform: u, in (0, 1).
        shape: l; 0 is the logistic law, 0.14 nearly the normal one; smaller ones have heavier tails.
    """
    shape = torch.as_tensor(shape, dtype=uniform.dtype, device=uniform.device)
    ends = uniform.log(), (-uniform).log1p()
    safe = torch.where(shape == 0, 1, shape)
    powers = [torch.expm1(safe * end) for end in ends]  # u^l - 1, which is exact for small l
    return torch.where(shape == 0, ends[0] - ends[1], (powers[0] - powers[1]) / safe)


def tukey_lambda_variance(shape: float) -> float:
    """Compute the variance of the Tukey lambda distribution of scale 1, for a shape above -1/2."""
    if abs(shape) < 1e-4:
        return math.pi**2 / 3
    beta = math.exp(2 * math.lgamma(shape + 1) - math.lgamma(2 * shape + 2))
    return 2 / shape**2 * (1 / (1 + 2 * shape) - beta)


class SensorState(NamedTuple):
    """Parameters that are the same in all pixels of an exposure, each `[B, 1, 1, 1]` but for the bias."""

    gain: Tensor
    """K, digital numbers for an electron."""
    read: Tensor
    """Scale of the read noise."""
    row: Tensor
    """Standard deviation of rows."""
    shape: Tensor
    """Tukey's lambda of the read noise."""
    bias: Tensor
    """Offsets of the colours, `[B, 4, 1, 1]`."""


@dataclass(frozen=True)
class Sensor(ImageNoise):
    """Noise of a brightened short exposure: shot, read and row noise, colour bias and quantisation.

    A clean raw image x is darkened to D0 = x L / f digital numbers, with the signal range L and the light factor f, and
    a gain K is drawn log-uniformly; then

        D = K Poisson(D0 / K) + TukeyLambda(l, s_TL) + bias + N(0, s_row) for each row + U(-1/2, 1/2),
        y = D f / L,

    where log s_TL and log s_row are normal around lines in log K. Two baselines are shot noise with Gaussian noise, and
    Gaussian noise alone. y is not clipped here; the method clips it to [0, 1], as it does real images. The paper's
    camera parameters have two recordings of shape and bias a gain, of which one near K is drawn.

    Images are packed, `[B, 4, H, W]` with the channels R, G, B, G of `datamodules.files.bayer.packed`: the first two
    are of one row of the sensor, the others of the next one.

    Source: Wei, Fu, Zheng and Yang, Physics-based Noise Modeling for Extreme Low-light Photography, TPAMI 2022, arXiv
    2108.02158. The law of the parameters is that of the authors' tables, their own sampler is not published.

    Args:
        camera: name of a camera that comes along (SonyA7S2, NikonD850, CanonEOS70D, CanonEOS700D, CanonEOS5D4), or a
            file with the parameters of your own, as calibration writes it.
        levels: signal range L, from black to white, in digital numbers; None takes the camera's.
        light_factors: least and greatest light factor f, between which each image's is uniform.
        model: `physical`, `shot and gaussian` or `gaussian`.
        banding: factor of the row noise, which Gaussian noise in its place has, too; 1 is the camera's own.
        colour_bias: whether colours have their offsets.

    Raises:
        ValueError: if an argument is out of range, or the camera is not known.
    """

    camera: str = "SonyA7S2"
    levels: float | None = None
    light_factors: tuple[float, float] = (100.0, 300.0)
    model: Model = "physical"
    banding: float = 1.0
    colour_bias: bool = True

    def __post_init__(self) -> None:
        positive(levels=self.levels, least_light_factor=self.light_factors[0])
        one_of(get_args(Model), model=self.model)
        if self.light_factors[1] < self.light_factors[0] or self.banding < 0:
            raise ValueError(
                f"light_factors must be in order and banding at least 0, got {list(self.light_factors)}, {self.banding}"
            )
        if self.signal_range is None:
            raise ValueError(
                f"levels must be white minus black of {self.camera}, whose file does not say them, got None"
            )

    @cached_property
    def parameters(self) -> Camera:
        """The camera's calibrated parameters."""
        return camera(self.camera)

    @property
    def signal_range(self) -> float | None:
        """L: the given levels, or the camera's."""
        return self.parameters.levels if self.levels is None else self.levels

    def state(self, like: Tensor, numbers: RNG) -> SensorState:
        """Draw gain, scales, shape and bias of each exposure.

        Args:
            like: `[B, ...]`, of the type and device of the result.
            numbers: random numbers.
        """
        one, of = like[:, :1, :1, :1], self.parameters
        low, high = (math.log(gain) for gain in of.gain)
        place = numbers.uniform(one).to(like)
        log_gain = low + (high - low) * place

        def scale(line: Line) -> Tensor:
            slope, intercept, spread = line
            return (slope * log_gain + intercept + spread * numbers.normal(one).to(like)).exp()

        read, row = scale(of.gaussian if self.model != "physical" else of.read), scale(of.row)
        if self.model != "physical":  # all noise in the dark, of which rows are a part
            read = (read**2 + (self.banding**2 - 1) * row**2).clamp(min=0).sqrt()
        # Recordings are two of a gain, and gains are evenly spread over log K.
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
        """Draw what a sensor records of light.

        Args:
            signal: D0, `[B, 4, H, W]`, in digital numbers above black.
            state: gain and scales.
            numbers: random numbers.

        Returns:
            D, in the same units.
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
