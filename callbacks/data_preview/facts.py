"""Describe recorded batches in numbers: keys, class counts, and the measured noise beside the stated noise."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from callbacks.data_preview.recorded import RecordedSplit
from callbacks.data_preview.samples import class_name, row_values
from datamodules.corruptions.image_noise import Gaussian
from lightning_modules.interfaces import IGNORED, LabelNoiseSource, MeasurementSource, NoiseSource, StoredLabels

Rows = list[list[str]]
PAIRS = (("noisy", "clean"), ("second_noisy", "clean"), ("target", "clean_target"), ("label", "clean_label"))
"""Keys with noise, and the keys of the same values without noise."""


def describe_keys(split: RecordedSplit) -> Rows:
    """List key, shape, type, range, mean and standard deviation of the values that were read."""
    rows = []
    for key, value in split.batches[0].items():
        if not isinstance(value, Tensor):
            text = str(value[0] if isinstance(value, list) and value else value)
            kind = f"list of {len(value)}" if isinstance(value, list) else ""
            rows.append([key, kind, type(value).__name__, text[:60], "", ""])
            continue
        parts = [batch[key].flatten().double() for batch in split.batches if isinstance(batch.get(key), Tensor)]
        every = torch.cat(parts)
        finite = every[every.isfinite()]
        numbers = ["", "", ""]
        if len(finite):
            numbers = [
                f"{finite.min():.4g} ... {finite.max():.4g}",
                f"{finite.mean():.4g}",
                f"{finite.std(unbiased=False):.4g}",
            ]
        if lost := len(every) - len(finite):
            numbers[0] += f" ({lost} not finite)"
        rows.append([key, str(list(value.shape)), str(value.dtype).removeprefix("torch."), *numbers])
    return rows


def count_classes(split: RecordedSplit, class_names: Sequence[str] | None) -> tuple[Rows, str]:
    """Count the samples, or pixels, of each class by given and by true label.

    Returns:
        Rows of class, number of given labels and number of true labels, and what was counted.
    """
    given: Tensor | None
    clean: Tensor | None
    if isinstance(split.dataset, StoredLabels) and split.dataset.label.ndim == 1:
        given, clean, what = split.dataset.label, split.dataset.clean_label, f"all {len(split.dataset.label):,} samples"
    else:
        given, clean = (_together(split, key) for key in ("label", "clean_label"))
        what = f"{'pixels of ' if given is not None and given.ndim > 1 else ''}the {split.samples:,} samples read"
    if given is None or given.is_floating_point():
        return [], what
    own = Counter(given[given != IGNORED].tolist())
    true = Counter([] if clean is None else clean[clean != IGNORED].tolist())
    rows = [[class_name(k, class_names), str(own[k]), str(true[k]) if true else ""] for k in sorted({*own, *true})]
    return rows, what


def measure_noise(split: RecordedSplit, data: Any) -> Rows:
    """Compare the noise in the samples with the noise that the DataModule states.

    Returns:
        Rows of what is compared, the stated value and the measured value. The stated value is empty if it is unknown.
    """
    rows = []
    for noisy, clean in PAIRS:
        if clean == "clean_label" and isinstance(split.dataset, StoredLabels):
            pairs: list[Any] = [(split.dataset.label, split.dataset.clean_label)]
        else:
            pairs = [(batch.get(noisy), batch.get(clean)) for batch in split.batches]
        first, second = _concatenate(pairs)
        if not len(first):
            continue
        signs = noisy == "target" and bool((first.abs() == 1).all() and (second.abs() == 1).all())
        if first.is_floating_point() and not signs:
            rows.append([f"{noisy} - {clean}", _stated_noise(data), _describe_error(first, second)])
            continue
        known = (second >= 0) & (second != IGNORED) & (first != IGNORED) | signs
        if known.any():
            wrong = (first != second)[known].double().mean()
            of = f"{int(known.sum()):,} {'pixels' if pairs[0][0].ndim > 1 else 'samples'}"
            rows.append([f"wrong {noisy}s", _stated_rate(data, second[known]), f"{wrong:.4f} of {of}"])
        if outside := 0 if signs else int((second == -1).sum()):
            rows.append(["out of distribution", "", f"{outside / len(second):.4f} of {len(second):,} samples"])
    if isinstance(data, MeasurementSource):
        first, second = _concatenate([_measurements(batch, data.operator) for batch in split.batches])
        if len(first):
            stated = f"std {2 * data.sigma:.4g}, {describe_noise(data.operator)}"
            rows.append(["measured - H x, for x in [-1, 1]", stated, _describe_error(first, second)])
    batch = split.batches[0]
    if {"features", "w_true", "noise_std"} <= batch.keys():
        features = torch.cat([each["features"] for each in split.batches])
        residual = (features - features @ batch["w_true"].to(features)).std(dim=0)
        rows.append(["std of the nodes' noise", _range(batch["noise_std"]), _range(residual)])
    return rows


def _concatenate(pairs: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Concatenate the values of pairs of tensors with equal shapes; other pairs are left out."""
    found = [
        pair for pair in pairs if all(isinstance(each, Tensor) for each in pair) and pair[0].shape == pair[1].shape
    ]
    first, second = (torch.cat([torch.zeros(0), *(pair[at].flatten() for pair in found)]) for at in (0, 1))
    return (first, second) if not found or found[0][0].is_floating_point() else (first.long(), second.long())


def _measurements(batch: dict[str, Any], operator: Any) -> tuple[Any, Any]:
    """Return the measurements of a batch, and those without noise. They are None if clean images are unknown."""
    if not {"measured", "clean"} <= batch.keys():
        return None, None
    clean = batch["clean"]
    return batch["measured"], operator.of(batch["index"], clean.shape[-2:]).forward(2 * clean - 1)


def _describe_error(noisy: Tensor, clean: Tensor) -> str:
    finite = (noisy - clean).isfinite()
    error, signal = (noisy - clean)[finite].double(), clean[finite].double()
    ratio = 10 * (signal.square().mean() / error.square().mean()).log10()
    lost = f", {int((~finite).sum()):,} not finite" * bool((~finite).any())
    return f"std {error.std(unbiased=False):.4g}, mean {error.mean():.2g}, SNR {ratio:.1f} dB{lost}"


def describe_noise(noise: Any) -> str:
    """Return the class of a noise model or an operator with its arguments, as `Gaussian(sigma=0.0980)`."""
    shown = {key: value for key, value in vars(noise).items() if isinstance(value, int | float | str | tuple)}
    arguments = ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in shown.items() if k[0] != "_")
    return f"{type(noise).__name__}({arguments})"


def _stated_noise(data: Any) -> str:
    if not isinstance(data, NoiseSource) or data.noise is None:
        return ""
    has_one_level = isinstance(data.noise, Gaussian) and isinstance(data.noise.grey_levels, int | float)
    known = f"std {data.noise.sigma:.4g}, " if has_one_level else ""
    return known + describe_noise(data.noise)


def _stated_rate(data: Any, clean: Tensor) -> str:
    """Return the expected fraction of wrong labels for the counts of the true classes, and the noise model."""
    if not isinstance(data, LabelNoiseSource) or data.label_noise is None or clean.ndim != 1:
        return ""
    described = describe_noise(data.label_noise)
    try:
        stays = data.label_noise.transition_matrix(data.num_classes).diagonal()
    except (ValueError, OSError, NotImplementedError):  # recorded labels without true labels
        return described
    return f"{1 - stays[clean.long()].nanmean():.4f}, {described}"


def _together(split: RecordedSplit, key: str) -> Tensor | None:
    """Concatenate the values of a key over all batches. Return None if it is missing, or if shapes differ."""
    values = [row_values(batch).get(key) for batch in split.batches]
    found = [value for value in values if value is not None]
    if len(found) < len(values) or len({value.shape[1:] for value in found}) != 1:
        return None
    return torch.cat(found)


def _range(values: Tensor) -> str:
    return f"{values.min():.4g} ... {values.max():.4g}"
