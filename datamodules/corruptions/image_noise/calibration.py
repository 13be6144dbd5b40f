"""Calibration of a camera: noise parameters estimated from flat frames and bias frames.

Steps of the calibration:

1. The gain K, from flat frames: variance = K mean + constant (the photon transfer curve).
2. The colour bias: the mean of each colour in bias frames (frames without light), minus the black level.
3. The row noise: the standard deviation of the row means.
4. The read noise: after subtraction of the row means, the remaining noise has a Tukey lambda distribution. The shape
   parameter maximises the correlation in the probability plot of the noise. The scale is the slope of this plot.
5. Linear fits: log scale as a function of log K, over all gains of the camera.

Source: Wei, Fu, Zheng and Yang, TPAMI 2022, arXiv 2108.02158, and the authors' answers to questions on their code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar

from datamodules.corruptions.image_noise.camera import Camera, Line
from datamodules.files.bayer import pack_bayer, unpack_bayer

Frame = NDArray[np.floating] | NDArray[np.integer]


class Recording(NamedTuple):
    """Noise parameters at one gain, estimated from the frames recorded at this gain."""

    gain: float
    """System gain K."""
    read: float
    """Scale of the read noise."""
    row: float
    """Standard deviation of the row noise."""
    gaussian: float
    """Standard deviation of the total noise in frames without light."""
    tukey_lambda: float
    """Shape parameter of the distribution of the read noise."""
    colour_bias: tuple[float, ...]
    """Colour bias of R, G, B, G."""
    fit: float
    """Squared correlation of the probability plot of the Tukey lambda fit; `normal_fit` is that of a normal fit."""
    normal_fit: float


def photon_transfer(mean: Frame, variance: Frame) -> tuple[float, float]:
    """Fit the line variance = K mean + constant to evenly lit areas.

    Args:
        mean: mean of each area, in digital numbers above black.
        variance: variance of each area.

    Returns:
        The slope K and the constant, which is the variance of the noise without light.
    """
    if len(np.unique(mean)) < 2:
        raise ValueError(f"a photon transfer curve needs areas of at least two light levels, got {len(mean)}")
    gain, constant = np.polyfit(mean, variance, 1)
    if gain <= 0:
        raise ValueError(f"the variance falls with the mean (slope {gain:.3g}): are the areas evenly lit?")
    return float(gain), float(constant)


def flat_frames(frames: Sequence[Frame], black: float) -> tuple[float, float]:
    """Compute the mean and variance of flat frames at one light level.

    With two or more frames, the variance does not contain fixed-pattern noise.

    Args:
        frames: frames of one colour, all of the same shape.
        black: black level.
    """
    stack = np.stack([np.asarray(frame, dtype=np.float64) for frame in frames])
    if len(stack) < 2:
        return float(stack.mean() - black), float(stack.var(ddof=1))
    return float(stack.mean() - black), float(stack.var(axis=0, ddof=1).mean())


def even_areas(plane: Frame, size: int = 12) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the evenly lit squares of a frame, such as the patches of a grey chart.

    A square counts as evenly lit if two conditions hold. First, the means of its four quarters do not differ by more
    than noise explains. Second, two neighbouring pixels of the square differ, on average, about as much as two
    arbitrary pixels of the square.

    Args:
        plane: pixels of one colour, `[H, W]`, in digital numbers above black.
        size: side of a square in pixels, an even number.

    Returns:
        The means and variances of the evenly lit squares.
    """
    height, width = (extent // size * size for extent in plane.shape)
    cut = np.asarray(plane, dtype=np.float64)[:height, :width].reshape(height // size, size, width // size, size)
    squares = cut.swapaxes(1, 2).reshape(-1, size, size)
    mean, variance = squares.mean(axis=(1, 2)), squares.var(axis=(1, 2), ddof=1)
    quarters = squares.reshape(-1, 2, size // 2, 2, size // 2).mean(axis=(2, 4)).reshape(-1, 4)
    even = quarters.var(axis=1, ddof=1) * size**2 / 4 < 2.5 * variance
    even &= np.square(np.diff(squares, axis=2)).mean(axis=(1, 2)) / 2 > 0.75 * variance
    return mean[even], variance[even]


def tukey_lambda_fit(values: Frame, bounds: tuple[float, float] = (-0.45, 0.5)) -> tuple[float, float, float]:
    """Fit a Tukey lambda distribution to a sample, using the sample's probability plot.

    Args:
        values: the sample. It need not be centred.
        bounds: range of shape parameters in which the best one is searched for.

    Returns:
        Shape, scale, and squared correlation of the probability plot.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    # Filliben's estimates of the medians of the order statistics, as in `scipy.stats.probplot`.
    u = (np.arange(1, len(ordered) + 1) - 0.3175) / (len(ordered) + 0.365)
    u[-1] = 0.5 ** (1 / len(ordered))
    u[0] = 1 - u[-1]

    def correlation(shape: float) -> float:
        return float(np.corrcoef(stats.tukeylambda.ppf(u, shape), ordered)[0, 1])

    shape = float(minimize_scalar(lambda l: -correlation(l), bounds=bounds, method="bounded").x)  # noqa: E741
    scale = np.polyfit(stats.tukeylambda.ppf(u, shape), ordered, 1)[0]
    return shape, float(scale), correlation(shape) ** 2


def recording(bias_frame: Frame, gain: float, black: float) -> Recording:
    """Estimate the noise parameters at one gain from a frame without light.

    Args:
        bias_frame: frame of the full Bayer sensor without light, `[H, W]`, in digital numbers. The first pixel is red.
        gain: K, from `photon_transfer`.
        black: black level.
    """
    planes = pack_bayer(np.asarray(bias_frame, dtype=np.float64))
    bias = planes.mean(axis=(1, 2))
    centred = unpack_bayer(planes - bias[:, None, None])
    rows = centred.mean(axis=1)
    read = (centred - rows[:, None]).ravel()
    shape, scale, fit = tukey_lambda_fit(read)
    normal_fit = float(stats.probplot(read, fit=True)[1][2] ** 2)
    offsets = tuple(float(offset) for offset in bias - black)
    return Recording(gain, scale, float(rows.std()), float(centred.std()), shape, offsets, fit, normal_fit)


def line(gains: Sequence[float], scales: Sequence[float]) -> Line:
    """Fit the line log scale = slope log K + intercept, and compute the standard deviation of the residuals.

    Raises:
        ValueError: if there are fewer than three gains; the spread of the residuals cannot be estimated from fewer.
    """
    if len(gains) < 3:
        raise ValueError(f"to estimate its spread, a linear fit needs at least 3 gains, got {len(gains)}")
    slope, intercept = np.polyfit(np.log(gains), np.log(scales), 1)
    rest = np.log(scales) - slope * np.log(gains) - intercept
    return float(slope), float(intercept), float(np.sqrt((rest**2).sum() / (len(gains) - 2)))


def calibrate_camera(recordings: Sequence[Recording], levels: float | None = None) -> Camera:
    """Combine recordings at several gains into the noise parameters of a camera.

    `Camera.save` writes these parameters to a file.

    Args:
        recordings: recordings of at least three gains, one or two per gain.
        levels: white level minus black level. None means that this difference is unknown; in this case, `Sensor`
            requires its argument `levels`.
    """
    ordered = sorted(recordings, key=lambda one: one.gain)
    gains = [one.gain for one in ordered]
    read, row, gaussian = (line(gains, [getattr(one, name) for one in ordered]) for name in ("read", "row", "gaussian"))
    shapes, biases = tuple(one.tukey_lambda for one in ordered), tuple(one.colour_bias for one in ordered)
    return Camera((gains[0], gains[-1]), read, row, gaussian, shapes, biases, levels)
