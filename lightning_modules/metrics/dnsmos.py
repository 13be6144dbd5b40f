"""DNSMOS: judge noisy or enhanced speech without the clean speech, as listeners would.

A network rates windows of 9.01 seconds at 16 kHz, a second apart, for speech, background and the whole, from 1 to 5;
shorter recordings are repeated. Polynomials take its outputs to the scale of listeners, and windows are averaged. The
package `speechmos` ships the network; its file alone is read, by `onnxruntime`.

Source: Reddy, Gopal and Cutler, DNSMOS P.835: A Non-intrusive Perceptual Objective Speech Quality Metric to Evaluate
Noise Suppressors, ICASSP 2022, arXiv 2110.01763.
"""

import importlib.metadata
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

RATE = 16_000
"""Sample rate that the network knows, in hertz."""
SECONDS = 9.01
"""Of a window."""
WINDOW = 144_160
"""Samples of a window."""
PACKAGE, FILE = "speechmos", "speechmos/dnsmos_models/sig_bak_ovr.onnx"
SCALES = {
    "dnsmos_speech": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_background": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos": (-0.06766283, 1.11546468, 0.04602535),
}
"""Coefficients of the polynomials, the square's first, in the order of the network's outputs."""


@cache
def network() -> Any:
    """Load the network once; None where one of the two packages is missing."""
    try:
        import onnxruntime

        [file] = [file for file in importlib.metadata.files(PACKAGE) or [] if file.as_posix() == FILE]
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file.locate()), options, providers=["CPUExecutionProvider"])


def windows(signal: Tensor) -> Tensor:
    """Cut whole seconds of signals `[B, samples]` at 16 kHz to windows `[B, windows, 144160]`, a second apart."""
    # The published code leaves out windows whose end, in floating point, falls short of a sample.
    repeats = 2 ** max(0, math.ceil(math.log2(WINDOW / signal.shape[1])))
    repeated = signal.repeat(1, repeats)
    cut = repeated[:, : max(WINDOW, repeated.shape[1] // RATE * RATE)].unfold(1, WINDOW, RATE)
    return cut[:, [start for start in range(cut.shape[1]) if int((start + SECONDS) * RATE) >= start * RATE + WINDOW]]


def dnsmos(signal: Tensor) -> dict[str, Tensor]:
    """Rate signals `[B, samples]` at 16 kHz: `dnsmos_speech`, `dnsmos_background` and `dnsmos`, `[B]` each.

    Signals are clipped to [-1, 1]. Nothing is rated where a package is missing.
    """
    session = network()
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
