import torch

from callbacks.drawing.spectrograms import draw_spectrograms, spectrogram_decibels


def test_a_tone_is_loudest_at_its_frequency() -> None:
    levels = spectrogram_decibels(torch.sin(2 * torch.pi * 0.125 * torch.arange(4096)))
    assert levels.shape[0] == 257
    assert (levels[:, 5:-5].argmax(axis=0) == 64).all()


def test_signals_have_the_scale_of_the_last_signal_and_waveforms_above() -> None:
    tone = torch.sin(torch.arange(2000.0))
    recording = {"name": "a", "sample_rate": 1000, "noisy": 10 * tone, "clean": tone}
    noisy, clean, *waves, bar = draw_spectrograms([recording], ["noisy", "clean"], waves=True).axes
    spectrograms = [panel for panel in (noisy, clean, *waves) if panel.images]
    assert len(spectrograms) == 2
    highest = spectrogram_decibels(tone).max()
    assert [panel.images[0].get_clim() for panel in spectrograms] == [(highest - 60, highest)] * 2
    assert [[*panel.images[0].get_extent()] for panel in spectrograms] == [[0, 2, 0, 0.5]] * 2
    assert [panel.get_title() for panel in (noisy, clean, *waves) if panel.lines] == ["a, noisy", "a, clean"]
    assert bar.get_ylabel() == "dB"
