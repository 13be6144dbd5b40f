"""Measures of enhanced speech: what of it is speech, noise and artefact, intelligibility and perceived quality.

With clean speech x, noise n = y - x of the noisy speech y, and an estimate e,

    s = <e, x> / |x|^2 x,    r = <e, n> / |n|^2 n,    a = e - s - r,
    SI-SDR = 10 log10 |s|^2 / |r + a|^2,   SI-SIR = 10 log10 |s|^2 / |r|^2,   SI-SAR = 10 log10 |s|^2 / |a|^2

in decibels; no mean is subtracted. ESTOI and wideband PESQ are those of the packages `pystoi` and `pesq`, through
torchmetrics, DNSMOS that of `metrics.dnsmos`; a measure whose package is missing is left out of tables, and named once.

Sources: Le Roux, Wisdom, Erdogan and Hershey, SDR - Half-baked or Well Done?, ICASSP 2019, arXiv 1811.02508; Jensen and
Taal, An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers, IEEE/ACM TASLP 2016;
Rix, Beerends, Hollier and Hekstra, Perceptual Evaluation of Speech Quality, ICASSP 2001.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from lightning_modules.metrics.dnsmos import dnsmos
from lightning_modules.metrics.measured_items import MeasuredItems

WIDEBAND = 16_000
"""Sample rate of wideband PESQ and of DNSMOS, in hertz."""
NEEDS = {
    "pystoi": ("estoi", "pip install 'noiseworks[audio]'"),
    "pesq": ("pesq", "pip install 'noiseworks[pesq]', which needs a C compiler"),
    "speechmos": ("dnsmos", "pip install 'noiseworks[dnsmos]'"),
}
"""Packages that measures need: the measure, and how to get it."""


def projected(signal: Tensor, on: Tensor) -> Tensor:
    """Project signals `[B, samples]` on others."""
    return (signal * on).sum(-1, keepdim=True) / on.square().sum(-1, keepdim=True) * on


def decibels(signal: Tensor, rest: Tensor) -> Tensor:
    """Compute 10 log10 |signal|^2 / |rest|^2, `[B]`."""
    return 10 * (signal.square().sum(-1) / rest.square().sum(-1)).log10()


def parts(estimate: Tensor, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
    """Compute `si_sdr`, `si_sir` and `si_sar` of estimates `[B, samples]`, in decibels, `[B]` each."""
    speech, noise = projected(estimate, clean), projected(estimate, noisy - clean)
    return {
        "si_sdr": scale_invariant_signal_distortion_ratio(estimate, clean),
        "si_sir": decibels(speech, noise),
        "si_sar": decibels(speech, estimate - speech - noise),
    }


def perceived(estimate: Tensor, clean: Tensor, rate: int) -> dict[str, Tensor]:
    """Compute `estoi` and, at 16 kHz, `pesq` and DNSMOS, `[B]` each, as far as their packages are installed."""
    found = dnsmos(estimate) if rate == WIDEBAND else {}
    if find_spec("pystoi"):
        from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

        found["estoi"] = short_time_objective_intelligibility(estimate, clean, rate, extended=True)
    if find_spec("pesq") and rate == WIDEBAND:
        from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality

        found["pesq"] = perceptual_evaluation_speech_quality(estimate, clean, rate, "wb")
    return found


class SpeechQuality(MeasuredItems):
    """Measures of a set's recordings; in the table `noisy_<measure>` are those of the noisy recording.

    `input_snr` is the ratio of speech to noise in the noisy recording, in decibels.
    """

    warned = False

    def update(
        self,
        noisy: Tensor,
        estimate: Tensor,
        clean: Tensor,
        rate: int,
        index: Tensor,
        name: Sequence[str],
        loader: int = 0,
        perception: bool = True,
    ) -> None:
        """Measure a batch.

        Args:
            noisy: `[B, samples]`.
            estimate: `[B, samples]`.
            clean: `[B, samples]`.
            rate: samples a second.
            index: `[B]`, position in the set.
            name: `[B]`, names of the recordings.
            loader: number of the set.
            perception: whether intelligibility and quality are measured, which takes seconds a recording.
        """
        noisy, estimate, clean = (each.detach().double() for each in (noisy, estimate, clean))
        values = {"input_snr": decibels(clean, noisy - clean)}
        values["noisy_si_sdr"] = scale_invariant_signal_distortion_ratio(noisy, clean)
        values |= parts(estimate, clean, noisy)
        if perception:
            told = {f"noisy_{key}": value for key, value in perceived(noisy, clean, rate).items()}
            values |= told | perceived(estimate, clean, rate)
            missing = [told for package, told in NEEDS.items() if not find_spec(package)]
            if missing and not SpeechQuality.warned and rate == WIDEBAND:
                SpeechQuality.warned = True
                rank_zero_warn(f"left out: {'; '.join(f'{column} ({how})' for column, how in missing)}")
        self.add({key: torch.as_tensor(value) for key, value in values.items()}, index, name, loader)
