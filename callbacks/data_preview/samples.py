"""Read samples and batches of any dataset as dicts of tensors and lists, whose first dimension counts samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.batches import UNVERIFIED

SHARED = {
    *("w_true", "x_star", "noise_std", "sigma", "exact_std", "curvature", "target_mean", "target_std", "classes"),
    *("interval", "sample_rate", "global_batch_size", "data_range"),
}
"""Keys of `datamodules.batches` with one value for all samples of a batch."""
DISTRIBUTION = {UNVERIFIED: "unverified", -1: "out of distribution"}
"""Labels that are no classes."""


def as_batch(sample: Any) -> dict[str, Any]:
    """Convert a sample or a batch to a flat dict; a single sample becomes a batch of one.

    A pair is an input and its label. Parts of other sequences are numbered. Dicts in a list are stacked. The keys of
    nested dicts are joined by dots. Images of PIL and arrays of NumPy become tensors.
    """
    flat = dict(_flatten("", sample))
    return {key: _with_first_dimension(value) for key, value in flat.items()} if _is_single(flat) else flat


def count_rows(batch: Mapping[str, Any]) -> int:
    """Count the samples of a flat batch: the length of `index`, or of the first value that is not shared."""
    own = [batch.get("index"), *(value for key, value in batch.items() if key not in SHARED)]
    return next((len(each) for each in own if isinstance(each, list) or (isinstance(each, Tensor) and each.ndim)), 0)


def row_values(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a flat batch with one entry for each sample. Original labels are omitted if uncorrected."""
    count = count_rows(batch)
    return {
        key: value
        for key, value in batch.items()
        if isinstance(value, Tensor) and key not in SHARED and value.ndim and len(value) == count
        if key != "original_label" or not torch.equal(value, batch["label"])
    }


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class, or its number if it has no name."""
    if class_names is not None and 0 <= label < len(class_names):
        return str(class_names[label])
    return DISTRIBUTION.get(label, str(label))


def _flatten(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        prefix = f"{key}." if key else ""
        return [part for name, each in value.items() for part in _flatten(f"{prefix}{name}", each)]
    if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value) and not key:
        value = {name: _stack([each[name] for each in value]) for name in value[0] if all(name in e for e in value)}
        return _flatten("", value)
    if isinstance(value, list | tuple) and not key:
        names = ("image", "label") if len(value) == 2 and _is_picture(value[0]) else ("features", "label")
        numbered = names if len(value) == 2 else [str(place) for place in range(len(value))]
        return [part for name, each in zip(numbered, value, strict=True) for part in _flatten(name, each)]
    if hasattr(value, "getbands"):  # an image of PIL
        value = pil_to_tensor(value)
    elif not isinstance(value, Tensor) and hasattr(value, "__array__") and value.dtype.kind in "fiub":
        value = torch.as_tensor(value)
    elif isinstance(value, tuple):
        value = list(value)
    if not key:
        key = "image" if _is_picture(value) else "features"
    return [(key, value.detach().cpu() if isinstance(value, Tensor) else value)]


def _stack(values: list[Any]) -> Any:
    """Stack tensors and numbers of equal shape."""
    if all(isinstance(each, int | float | Tensor) for each in values):
        tensors = [torch.as_tensor(each) for each in values]
        return torch.stack(tensors) if len({each.shape for each in tensors}) == 1 else values
    return values


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbands") or getattr(value, "ndim", 0) >= 3


def _is_single(flat: Mapping[str, Any]) -> bool:
    """Return whether a flat dict is one sample: it has a number or an image where a batch has several."""
    if isinstance(index := flat.get("index"), Tensor):
        return index.ndim == 0
    images = [flat[key] for key in ("image", "noisy", "clean") if isinstance(flat.get(key), Tensor)]
    numbers = [flat[key] for key in ("index", "label", "target") if key in flat]
    return any(each.ndim == 3 and 1 in (len(each) < 5, each.shape[-1] < 5) for each in images) or any(
        isinstance(each, int | float) or (isinstance(each, Tensor) and not each.ndim) for each in numbers
    )


def _with_first_dimension(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value[None]
    return torch.tensor([value]) if isinstance(value, bool | int | float) else [value]
