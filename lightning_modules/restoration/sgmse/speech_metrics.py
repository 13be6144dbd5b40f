"""Metrics of enhanced speech: ratios of signal to distortion, interference and artefacts; intelligibility; quality.

With clean speech x, noisy speech y, its noise n = y - x, and an estimate e,

    s = <e, x> / |x|^2 x,    r = <e, n> / |n|^2 n,    a = e - s - r,
    SI-SDR = 10 log10 |s|^2 / |r + a|^2,   SI-SIR = 10 log10 |s|^2 / |r|^2,   SI-SAR = 10 log10 |s|^2 / |a|^2

The ratios are in decibels. No mean is subtracted from the signals. ESTOI and wideband PESQ come from the packages
`pystoi` and `pesq`, through torchmetrics.

DNSMOS needs no clean speech. A network rates the speech, background and overall quality of a recording from 1 to 5. Its
inputs are windows of 9.01 seconds at 16 kHz, which start one second apart; shorter recordings are repeated to fill a
window. Polynomials convert the network's outputs to the scale of ratings by human listeners. The results are averaged
over windows. The package `speechmos` provides the network's file, and `onnxruntime` runs the network.

If the package of a metric is missing, the metric is left out of tables, and a warning is given once.

Sources: Le Roux, Wisdom, Erdogan and Hershey, SDR - Half-baked or Well Done?, ICASSP 2019, arXiv 1811.02508; Jensen and
Taal, An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise Maskers, IEEE/ACM TASLP 2016;
Rix, Beerends, Hollier and Hekstra, Perceptual Evaluation of Speech Quality, ICASSP 2001; Reddy, Gopal and Cutler,
DNSMOS P.835: A Non-intrusive Perceptual Objective Speech Quality Metric to Evaluate Noise Suppressors, ICASSP 2022,
arXiv 2110.01763.
"""

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from lightning_modules.metrics.measured_items import MeasuredItems

WIDEBAND = 16_000
"""Sample rate of wideband PESQ and of DNSMOS, in hertz."""
SECONDS = 9.01
"""Length of a DNSMOS window, in seconds."""
WINDOW = 144_160
"""Length of a DNSMOS window, in samples."""
PACKAGE, FILE = "speechmos", "speechmos/dnsmos_models/sig_bak_ovr.onnx"
SCALES = {
    "dnsmos_speech": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_background": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos": (-0.06766283, 1.11546468, 0.04602535),
}
"""Coefficients of one polynomial for each output of the network, in the order of the outputs; highest degree first."""
LEAST_PESQ = 1.04
"""PESQ of recordings for which it cannot be computed, because they are too short or contain no utterance."""
NEEDS = {
    "estoi": (["pystoi"], "pip install 'noiseworks[audio]'"),
    "pesq": (["pesq"], "pip install 'noiseworks[pesq]', which needs a C compiler"),
    "dnsmos": (["speechmos", "onnxruntime"], "pip install 'noiseworks[dnsmos]'"),
}
"""For each metric that needs further packages: the names of these packages, and the command that installs them."""


def project_signals(signal: Tensor, on: Tensor) -> Tensor:
    """Project each signal `[B, samples]` onto the corresponding signal in `on`, which has the same shape."""
    return (signal * on).sum(-1, keepdim=True) / on.square().sum(-1, keepdim=True) * on


def decibels(signal: Tensor, rest: Tensor) -> Tensor:
    """Compute 10 log10 |signal|^2 / |rest|^2 for each row of signals `[B, samples]`; the result is `[B]`."""
    return 10 * (signal.square().sum(-1) / rest.square().sum(-1)).log10()


def si_metrics(estimate: Tensor, clean: Tensor, noisy: Tensor) -> dict[str, Tensor]:
    """Compute `si_sdr`, `si_sir` and `si_sar`, each `[B]`, in decibels, for estimates `[B, samples]`."""
    speech, noise = project_signals(estimate, clean), project_signals(estimate, noisy - clean)
    return {
        "si_sdr": scale_invariant_signal_distortion_ratio(estimate, clean),
        "si_sir": decibels(speech, noise),
        "si_sar": decibels(speech, estimate - speech - noise),
    }


@cache
def dnsmos_network() -> Any:
    """Load the DNSMOS network, and cache it.

    Return None if one of the two packages that it needs is missing.
    """
    try:
        import onnxruntime

        [file] = [file for file in importlib.metadata.files(PACKAGE) or [] if file.as_posix() == FILE]
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file.locate()), options, providers=["CPUExecutionProvider"])


def windows(signal: Tensor) -> Tensor:
    """Split signals `[B, samples]` at 16 kHz into windows `[B, windows, 144160]` that start one second apart."""
    # Like the published code, skip windows that floating-point rounding makes one sample too short.
    repeats = 2 ** max(0, math.ceil(math.log2(WINDOW / signal.shape[1])))
    repeated = signal.repeat(1, repeats)
    cut = repeated[:, : max(WINDOW, repeated.shape[1] // WIDEBAND * WIDEBAND)].unfold(1, WINDOW, WIDEBAND)
    return cut[
        :, [start for start in range(cut.shape[1]) if int((start + SECONDS) * WIDEBAND) >= start * WIDEBAND + WINDOW]
    ]


def dnsmos(signal: Tensor) -> dict[str, Tensor]:
    """Compute the DNSMOS metrics `dnsmos_speech`, `dnsmos_background` and `dnsmos` of 16 kHz signals `[B, samples]`.

    Signals are clipped to [-1, 1]. Each metric has shape `[B]`. If a required package is missing, the result is empty.
    """
    session = dnsmos_network()
    if session is None:
        return {}
    cut = windows(signal.detach().float().clamp(-1, 1).cpu())
    [found] = session.run(None, {session.get_inputs()[0].name: cut.flatten(0, 1).numpy()})
    raw = torch.from_numpy(found).double().unflatten(0, cut.shape[:2])
    rated = {}
    for column, (key, (square, linear, constant)) in enumerate(SCALES.items()):
        value = raw[..., column]
        rated[key] = (square * value**2 + linear * value + constant).mean(dim=1)
    return rated


def perceptual_metrics(estimate: Tensor, clean: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """Compute `estoi` and, at 16 kHz, `pesq` and DNSMOS, each `[B]`. Leave out metrics that need a missing package."""
    found = dnsmos(estimate) if sample_rate == WIDEBAND else {}
    if find_spec("pystoi"):
        from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

        found["estoi"] = short_time_objective_intelligibility(estimate, clean, sample_rate, extended=True)
    if find_spec("pesq") and sample_rate == WIDEBAND:
        from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality

        try:
            found["pesq"] = perceptual_evaluation_speech_quality(estimate, clean, sample_rate, "wb")
        except (RuntimeError, ValueError):  # silence, or less than a quarter of a second
            found["pesq"] = torch.full((len(clean),), LEAST_PESQ)
    return found


class SpeechQuality(MeasuredItems):
    """Speech metrics for each recording in a dataset.

    In the table, a column `noisy_<metric>` contains a metric of the noisy recordings. The column `input_snr` contains
    the signal-to-noise ratios of the noisy recordings, in decibels.
    """

    warned = False

    def update(
        self,
        noisy: Tensor,
        estimate: Tensor,
        clean: Tensor,
        sample_rate: int,
        index: Tensor,
        name: Sequence[str],
        loader: int = 0,
        perception: bool = True,
        lengths: Sequence[int] | None = None,
        others: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add the metrics of a batch.

        Args:
            noisy: noisy signals, `[B, samples]`.
            estimate: enhanced signals, `[B, samples]`.
            clean: clean signals, `[B, samples]`.
            sample_rate: sample rate, in hertz.
            index: indices of the recordings in the dataset, `[B]`.
            name: names of the B recordings.
            loader: index of the test dataloader.
            perception: whether to compute intelligibility and perceived quality. Their computation takes seconds per
                recording.
            lengths: length of each recording in samples, without padding; None if there is no padding.
            others: other estimates by name; their metrics are named `<name>_<metric>`.
        """
        noisy, estimate, clean = (each.detach().double() for each in (noisy, estimate, clean))
        further = {key: each.detach().double() for key, each in (others or {}).items()}
        values = {"input_snr": decibels(clean, noisy - clean)}
        values["noisy_si_sdr"] = scale_invariant_signal_distortion_ratio(noisy, clean)
        values |= si_metrics(estimate, clean, noisy)
        for key, other in further.items():
            values |= {f"{key}_{measure}": value for measure, value in si_metrics(other, clean, noisy).items()}
        if perception:
            told = []
            for row, length in enumerate(lengths or [noisy.shape[1]] * len(noisy)):
                given, enhanced, meant = (signal[row : row + 1, :length] for signal in (noisy, estimate, clean))
                before = {f"noisy_{key}": value for key, value in perceptual_metrics(given, meant, sample_rate).items()}
                told.append(before | perceptual_metrics(enhanced, meant, sample_rate))
                for key, other in further.items():
                    found = perceptual_metrics(other[row : row + 1, :length], meant, sample_rate)
                    told[-1] |= {f"{key}_{measure}": value for measure, value in found.items()}
            values |= {key: torch.cat([one[key].reshape(1) for one in told]) for key in told[0]}
            missing = [(key, how) for key, (packages, how) in NEEDS.items() if not all(map(find_spec, packages))]
            if missing and not SpeechQuality.warned and sample_rate == WIDEBAND:
                SpeechQuality.warned = True
                rank_zero_warn(
                    f"metrics without an installed package are left out: "
                    f"{'; '.join(f'{key} ({how})' for key, how in missing)}"
                )
        self.add({key: torch.as_tensor(value) for key, value in values.items()}, index, name, loader)
