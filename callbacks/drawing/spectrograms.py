"""Draw spectrograms of recordings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 512
"""Maximum length of a spectrogram's window, in samples."""
RANGE = 60.0
"""Range of the spectrograms' colour scale, in decibels. The scale ends at the maximum of a recording's last signal."""


def spectrogram_decibels(signal: Tensor) -> np.ndarray:
    """Compute the spectrogram `[frequencies, frames]` of a signal `[samples]`, in decibels."""
    window = min(WINDOW, 2 ** int(np.log2(len(signal) / 8)))
    transform = torch.stft(signal, window, window // 4, window=torch.hann_window(window), return_complex=True)
    return (20 * transform.abs().clamp(min=1e-10).log10()).numpy()


def draw_spectrograms(recordings: Sequence[Mapping[str, Any]], kinds: Sequence[str], waves: bool = False) -> "Figure":
    """Draw one row per recording: a spectrogram of each of its signals, with the same scale in decibels.

    Args:
        recordings: dicts with the key `name`, the key `sample_rate` (in Hz), and a signal `[samples]` for each kind.
        kinds: keys of the signals. The loudest value of the last signal ends the scale.
        waves: whether to draw the waveform above each spectrogram.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(kinds), (2.2 + waves) * len(recordings) + 0.3), layout="constrained")
    heights = ([1, 2.2] if waves else [1]) * len(recordings)
    panels = figure.subplots(len(heights), len(kinds), squeeze=False, height_ratios=heights)
    for row, recording in zip(panels[waves :: 1 + waves], recordings, strict=True):
        levels = {kind: spectrogram_decibels(recording[kind]) for kind in kinds}
        loudest, highest = levels[kinds[-1]].max(), recording["sample_rate"] / 2000
        for panel, kind in zip(row, kinds, strict=True):
            drawn = panel.imshow(
                levels[kind],
                origin="lower",
                aspect="auto",
                extent=(0, len(recording[kind]) / recording["sample_rate"], 0, highest),
                vmin=loudest - RANGE,
                vmax=loudest,
                cmap="magma",
            )
            panel.set_title(f"{recording['name']}, {kind}" if not waves else "", fontsize=8)
        row[0].set_ylabel("kHz")
    for row, recording in zip(panels[::2] if waves else (), recordings, strict=waves):
        for panel, kind in zip(row, kinds, strict=True):
            panel.plot(
                np.arange(len(recording[kind])) / recording["sample_rate"], recording[kind].numpy(), linewidth=0.5
            )
            panel.set_title(f"{recording['name']}, {kind}", fontsize=8)
            panel.margins(x=0)
            panel.set_xticklabels([])
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    figure.colorbar(drawn, ax=panels[waves :: 1 + waves], label="dB")
    return figure
