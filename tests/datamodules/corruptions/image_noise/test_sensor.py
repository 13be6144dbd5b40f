import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.corruptions.image_noise import CounterRNG, SeededImageRNG, Sensor
from datamodules.corruptions.image_noise.camera import camera
from datamodules.corruptions.image_noise.sensor import SensorState, tukey_lambda_quantile, tukey_lambda_variance


def numbers(count: int) -> CounterRNG:
    return CounterRNG(0, 0, torch.arange(count))


def fixed(count: int, gain: float = 2.0, read: float = 3.0, row: float = 1.2, shape: float = -0.12) -> SensorState:
    one = torch.ones(count, 1, 1, 1, dtype=torch.float64)
    bias = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64).view(1, 4, 1, 1).expand(count, 4, 1, 1)
    return SensorState(gain * one, read * one, row * one, shape * one, bias)


def test_tukeys_law_is_scipys() -> None:
    """The quantile function and the variance of the Tukey lambda distribution equal those in SciPy."""
    u = torch.linspace(1e-6, 1 - 1e-6, 2001, dtype=torch.float64)
    for shape in (-0.4, -0.12, 0.0, 0.14, 0.5, 1.3):
        expected = stats.tukeylambda.ppf(u.numpy(), shape)
        np.testing.assert_allclose(tukey_lambda_quantile(u, shape), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            tukey_lambda_quantile(u, shape), -tukey_lambda_quantile(1 - u, shape), atol=1e-8, rtol=1e-8
        )
        assert tukey_lambda_variance(shape) == pytest.approx(float(stats.tukeylambda(shape).var()), rel=1e-6)
    middle = u[(u > 0.02) & (u < 0.98)]  # the distributions differ in the tails
    for tiny in (1e-7, -1e-7):
        logistic = tukey_lambda_quantile(middle, 0.0)
        torch.testing.assert_close(tukey_lambda_quantile(middle, tiny), logistic, rtol=0, atol=1e-6)
    assert np.corrcoef(tukey_lambda_quantile(u, 0.14), stats.norm.ppf(u))[0, 1] > 0.999


def test_moments_in_the_dark_and_in_even_light_are_those_of_the_model() -> None:
    """Mean and variance have their closed forms, with and without light."""
    count = 40
    dark = torch.zeros(count, 4, 50, 50, dtype=torch.float64)
    state = fixed(count)
    noise = Sensor()
    in_the_dark = 9 * tukey_lambda_variance(-0.12) + 1.2**2 + 1 / 12
    for light in (0.0, 80.0):
        recorded = noise.expose(dark + light, state, numbers(count))
        means = recorded.mean(dim=(0, 2, 3)) - light
        torch.testing.assert_close(means, state.bias[0, :, 0, 0], rtol=0, atol=0.15)
        variance = float((recorded - recorded.mean(dim=(0, 2, 3), keepdim=True)).square().mean())
        assert variance == pytest.approx(in_the_dark + 2.0 * light, rel=0.05)


def test_two_colours_share_the_noise_of_a_row() -> None:
    """R and one G are in the same sensor row; B and the other G are in the next row, whose noise is independent."""
    state = fixed(3, gain=1e-9, read=0.0)._replace(bias=torch.zeros(3, 4, 1, 1, dtype=torch.float64))
    recorded = Sensor().expose(torch.zeros(3, 4, 200, 30, dtype=torch.float64), state, numbers(3))
    rows = recorded.mean(dim=3)  # averaging removes the quantisation
    assert float((recorded - rows[..., None]).abs().max()) < 0.8
    for image in rows.numpy():
        correlation = np.corrcoef(image)
        assert correlation[0, 1] > 0.95
        assert correlation[2, 3] > 0.95
        assert abs(correlation[[0, 0, 1, 1], [2, 3, 2, 3]]).max() < 0.25
    assert float(rows.std()) == pytest.approx(1.2, rel=0.08)


def test_parameters_are_drawn_around_their_lines() -> None:
    """The logarithms of the scales scatter around the fitted lines with the fitted standard deviation."""
    like, noise = torch.empty(20_000, 4, 1, 1, dtype=torch.float64), Sensor("NikonD850")
    state = noise.state(like, numbers(20_000))
    log_gain = state.gain.log().flatten().numpy()
    low, high = (math.log(gain) for gain in noise.parameters.gain)
    assert stats.kstest(log_gain, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for scale, (slope, intercept, spread) in ((state.read, noise.parameters.read), (state.row, noise.parameters.row)):
        fitted = np.polyfit(log_gain, (log_scale := scale.log().flatten().numpy()), 1)
        np.testing.assert_allclose(fitted, [slope, intercept], atol=0.02)
        assert np.std(log_scale - np.polyval(fitted, log_gain)) == pytest.approx(spread, rel=0.03)
    # Shape and bias come from the same recording, close to the gain, and all recordings occur.
    known = list(zip(noise.parameters.tukey_lambda, noise.parameters.colour_bias, strict=True))
    pairs = {(float(s), tuple(b)) for s, b in zip(state.shape.flatten(), state.bias[:, :, 0, 0].tolist(), strict=True)}
    assert pairs == set(known)
    highest = state.shape.flatten()[torch.from_numpy(log_gain) > high - 0.1]
    assert {*highest.tolist()} == {*noise.parameters.tukey_lambda[-2:]}


def test_images_of_much_light_have_little_noise_and_the_light_factor_cancels() -> None:
    """With much light, the noise vanishes. The light factor does not change the mean of noisy images."""
    clean = torch.full((1, 4, 30, 30), 0.5, dtype=torch.float64)
    bright = Sensor(levels=1e9, light_factors=(1, 1)).sample(clean, numbers(1))
    torch.testing.assert_close(bright, clean, rtol=1e-3, atol=0)
    errors = [
        float((Sensor(light_factors=(f, f), model="shot and gaussian").sample(clean, numbers(1)) - clean).mean())
        for f in (100, 300)
    ]
    assert max(map(abs, errors)) < 0.05


@pytest.mark.parametrize("model", ["gaussian", "shot and gaussian"])
def test_baselines_have_neither_rows_nor_offsets(model: str) -> None:
    """The variance equals the formula of a baseline model, which has no row noise and no colour bias."""
    noise = Sensor(model=model, light_factors=(1, 1))  # type: ignore[arg-type]
    clean = torch.full((1, 4, 100, 100), 0.01, dtype=torch.float64)
    state = noise.state(clean, numbers(1))
    levels = 16383 - 512
    recorded = noise.expose(clean * levels, state, numbers(1)) - 0.01 * levels
    expected = float(state.read**2 + (state.gain * 0.01 * levels if model != "gaussian" else 0))
    assert float(recorded.var()) == pytest.approx(expected, rel=0.04)
    assert float(recorded.mean(dim=3).var()) == pytest.approx(expected / 100, rel=0.3)
    assert abs(float(recorded.mean())) < 4 * math.sqrt(expected / 40_000)


def test_banding_and_colour_bias_can_be_changed() -> None:
    like = torch.empty(5, 4, 1, 1, dtype=torch.float64)
    own, other = Sensor().state(like, numbers(5)), Sensor(banding=6, colour_bias=False).state(like, numbers(5))
    torch.testing.assert_close(other.row, 6 * own.row)
    assert float(other.bias.abs().max()) == 0
    # Gaussian noise in the dark has the total variance of all noise there, including that of the enlarged row noise.
    own, other = (Sensor(model="gaussian", banding=factor).state(like, numbers(5)) for factor in (1.0, 6.0))
    torch.testing.assert_close(other.read**2, own.read**2 + 35 * own.row**2)


def test_the_range_of_levels_is_the_cameras(tmp_path: Path) -> None:
    """In ELD, white is 16383; in the raw images, black is 512 (Sony), 400 (Nikon) and 2048 (both Canon cameras)."""
    ranges = {"SonyA7S2": 15871, "NikonD850": 15983, "CanonEOS70D": 14335, "CanonEOS700D": 14335}
    assert {name: Sensor(name).signal_range for name in ranges} == ranges
    clean = torch.full((1, 4, 8, 8), 0.5, dtype=torch.float64)
    own, of_sony = (Sensor("CanonEOS70D", levels).sample(clean, numbers(1)) for levels in (None, 15871))
    assert torch.equal(own, Sensor("CanonEOS70D", 14335).sample(clean, numbers(1)))
    assert not torch.equal(own, of_sony)
    replace(camera("SonyA7S2"), levels=None).save(tmp_path / "own.yaml")
    with pytest.raises(
        ValueError, match=r"levels must be set to white level minus black level, because .*own.yaml does not contain"
    ):
        Sensor(str(tmp_path / "own.yaml"))
    replace(camera("SonyA7S2"), levels=1023).save(tmp_path / "own.yaml")
    assert Sensor(str(tmp_path / "own.yaml")).signal_range == 1023


def test_each_tested_image_has_a_camera_state_of_its_own_and_the_same_again() -> None:
    clean = torch.full((1, 4, 6, 6), 0.5)
    one, again, other = (Sensor().sample(clean, SeededImageRNG(index=index)) for index in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape == clean.shape
    states = [Sensor().state(clean, SeededImageRNG(index=index)) for index in range(50)]
    assert len({float(state.gain) for state in states}) == 50
    assert not torch.equal(one, other)
