import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.files.audio_files import read_recording
from lightning_modules.restoration.sgmse import speech_metrics as speech
from lightning_modules.restoration.sgmse.speech_metrics import (
    SpeechQuality,
    decibels,
    dnsmos,
    perceptual_metrics,
    project_signals,
    si_metrics,
    windows,
)


def signals() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 400, dtype=torch.float64)
    noisy = clean + 0.3 * noise
    return 0.9 * clean + 0.05 * noise + 0.02 * torch.randn(3, 400, dtype=torch.float64), clean, noisy


def test_parts_are_those_of_projections_and_of_the_least_squares_they_solve() -> None:
    estimate, clean, noisy = signals()
    found = si_metrics(estimate, clean, noisy)
    for row in range(3):
        e, x, n = estimate[row], clean[row], noisy[row] - clean[row]
        s, r = (e @ x) / (x @ x) * x, (e @ n) / (n @ n) * n
        assert float(found["si_sdr"][row]) == pytest.approx(10 * math.log10(s @ s / ((e - s) @ (e - s))))
        assert float(found["si_sir"][row]) == pytest.approx(10 * math.log10(s @ s / (r @ r)))
        rest = e - s - r
        assert float(found["si_sar"][row]) == pytest.approx(10 * math.log10(s @ s / (rest @ rest)))
    scaled = si_metrics(7 * estimate, clean, noisy)
    for key, value in found.items():
        torch.testing.assert_close(scaled[key], value)
    torch.testing.assert_close(
        project_signals(estimate, clean), project_signals(project_signals(estimate, clean), clean)
    )


def test_no_mean_is_subtracted() -> None:
    estimate, clean, noisy = signals()
    assert not torch.allclose(
        si_metrics(estimate + 1, clean + 1, noisy + 1)["si_sdr"], si_metrics(estimate, clean, noisy)["si_sdr"]
    )


def test_rows_tell_the_ratio_of_speech_to_noise_and_the_noisy_recordings_own_measures() -> None:
    estimate, clean, noisy = signals()
    quality = SpeechQuality()
    quality.update(noisy, estimate, clean, 2000, torch.arange(3), ["a", "b", "c"])
    [means] = quality.means().values()
    torch.testing.assert_close(means["input_snr"], float(decibels(clean, noisy - clean).mean()))
    assert means["si_sdr"] > means["noisy_si_sdr"] + 5
    assert [row["name"] for row in quality.table] == ["a", "b", "c"]


def test_zeros_after_a_recording_change_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        speech, "perceptual_metrics", lambda signal, clean, sample_rate: {"samples": torch.tensor([signal.shape[1]])}
    )
    estimate, clean, noisy = signals()
    tables = []
    for padded in (0, 100):
        quality = SpeechQuality()
        given = [torch.nn.functional.pad(one, (0, padded)) for one in (noisy, estimate, clean)]
        quality.update(*given, 16_000, torch.arange(3), ["a", "b", "c"], lengths=[400, 400, 400])
        quality.means()
        tables.append([list(row.values())[3:] for row in quality.table])
    np.testing.assert_allclose(*tables)
    assert quality.table[1]["samples"] == quality.table[1]["noisy_samples"] == 400


def test_intelligibility_rises_with_less_noise_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    time = torch.arange(16_000, dtype=torch.float64) / 10_000
    clean = (torch.sin(2 * math.pi * 300 * time) * torch.sin(2 * math.pi * 3 * time))[None]
    clean = clean + 0.2 * torch.randn_like(clean)
    noise = torch.randn_like(clean)
    little, much = (perceptual_metrics(clean + level * noise, clean, 10_000)["estoi"] for level in (0.1, 3.0))
    assert float(little) > float(much) + 0.2
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    monkeypatch.setattr(speech, "dnsmos", lambda signal: {})
    monkeypatch.setattr(SpeechQuality, "warned", False)
    assert perceptual_metrics(clean, clean, 16_000) == {}
    with pytest.warns(UserWarning, match=r"left out: estoi \(pip .*\[audio\]'\); pesq .* C compiler\); dnsmos \(pip"):
        SpeechQuality().update(clean + noise, clean, clean, 16_000, torch.arange(1), ["a"])


@pytest.mark.data
@pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with speech/pesq_example")
def test_quality_of_the_packages_example_is_what_it_states() -> None:
    pytest.importorskip("pesq")
    folder = Path(os.environ["NOISEWORKS_DATA"], "speech", "pesq_example")
    noisy, clean = (
        torch.from_numpy(read_recording(folder / f"{name}.wav", 16_000))[None] for name in ("speech_bab_0dB", "speech")
    )
    assert float(perceptual_metrics(noisy, clean, 16_000)["pesq"]) == pytest.approx(1.08323, abs=1e-4)
    for signal, meant in (
        (torch.zeros_like(clean), clean),
        (noisy[:, :2000], clean[:, :2000]),
    ):  # silence, and too short
        assert float(perceptual_metrics(signal, meant, 16_000)["pesq"]) == pytest.approx(speech.LEAST_PESQ)


class Told:
    """Replaces DNSMOS's network; the three raw scores of a window are its mean times 1, 2 and 3."""

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
    monkeypatch.setattr(speech, "dnsmos_network", Told)
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
    speech.dnsmos_network.cache_clear()
    assert dnsmos(torch.zeros(1, 16_000)) == {}
    speech.dnsmos_network.cache_clear()


@pytest.mark.data
@pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with speech/voicebank_demand")
def test_noise_is_heard_in_the_background() -> None:
    """The network's own background scores of p232_014 are known: clean 4.6, noisy 2.5."""
    pytest.importorskip("onnxruntime")
    folder = Path(os.environ["NOISEWORKS_DATA"], "speech", "voicebank_demand", "test")
    square, linear, constant = speech.SCALES["dnsmos_background"]
    for kind, raw in (("clean", 4.6), ("noisy", 2.5)):
        signal = torch.from_numpy(read_recording(folder / kind / "p232_014.wav", 16_000))[None]
        rated = float(dnsmos(signal)["dnsmos_background"])
        assert rated == pytest.approx(square * raw**2 + linear * raw + constant, abs=0.06)
