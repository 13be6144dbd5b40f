import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.files.audio_files import read_recording
from lightning_modules.metrics import dnsmos as module
from lightning_modules.metrics.dnsmos import dnsmos, network, windows


class Told:
    """A network that tells the mean of its windows and their number as raw scores."""

    def get_inputs(self) -> list:
        return [type("Input", (), {"name": "x"})]

    def run(self, outputs: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        mean = given["x"].mean(axis=1)
        return [np.stack([mean, 2 * mean, 3 * mean], axis=1)]


@pytest.mark.parametrize("samples", [5_000, 70_000, 144_160, 159_000, 170_000, 200_000, 296_000, 304_000])
def test_windows_are_those_of_the_published_code(samples: int) -> None:
    whole = np.arange(samples)
    while len(whole) < 144_160:
        whole = np.concatenate([whole, whole])
    count = int(np.floor(len(whole) / 16_000) - 9.01) + 1
    cut = [whole[start * 16_000 : int((start + 9.01) * 16_000)] for start in range(count)]
    expected = np.stack([one for one in cut if len(one) == 144_160])
    np.testing.assert_array_equal(windows(torch.arange(samples)[None])[0], expected)


def test_scores_are_means_of_polynomials_over_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "network", Told)
    signal = torch.cat([torch.zeros(16_000), torch.full((160_160,), 0.5)])[None]
    means = [1 - 16_000 / 144_160, 1.0]
    expected = sum(-0.13166888 * mean**2 + 1.60915514 * mean - 0.39604546 for mean in means) / 2
    found = dnsmos(torch.cat([signal, 7 * signal]))
    assert float(found["dnsmos_background"][0]) == pytest.approx(expected, abs=1e-5)
    clipped = [2 * mean for mean in means]
    loud = sum(-0.13166888 * mean**2 + 1.60915514 * mean - 0.39604546 for mean in clipped) / 2
    assert float(found["dnsmos_background"][1]) == pytest.approx(loud, abs=1e-5)


def test_without_the_packages_nothing_is_rated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    network.cache_clear()
    assert dnsmos(torch.zeros(1, 16_000)) == {}
    network.cache_clear()


@pytest.mark.data
@pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with speech/voicebank_demand")
def test_noise_is_heard_in_the_background() -> None:
    """The network's own scores of the background of p232_014 are known: clean 4.6, noisy 2.5."""
    pytest.importorskip("onnxruntime")
    folder = Path(os.environ["NOISEWORKS_DATA"], "speech", "voicebank_demand", "test")
    square, linear, constant = module.SCALES["dnsmos_background"]
    for kind, raw in (("clean", 4.6), ("noisy", 2.5)):
        signal = torch.from_numpy(read_recording(folder / kind / "p232_014.wav", 16_000))[None]
        rated = float(dnsmos(signal)["dnsmos_background"])
        assert rated == pytest.approx(square * raw**2 + linear * raw + constant, abs=0.06)
