"""Draw samples of any dataset, by the keys of `datamodules.batches` and by the shapes of all other keys."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from callbacks.data_preview.samples import as_batch, class_name, count_rows, row_values
from callbacks.drawing.curves import line_panels
from callbacks.drawing.image_grid import CELL, concatenate_rows, draw_image_grid
from callbacks.drawing.spectrograms import draw_spectrograms
from lightning_modules.interfaces import UNVERIFIED, ImageColumn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLAMPED = {"noisy", "second_noisy", "first", "second"}
"""Images in the units of clean images; their values outside [0, 1] are clipped instead of rescaled."""
LARGEST = 512
"""Images with more pixels per side are subsampled."""
FRAMES = 4
"""Maximum number of frames of a clip that are drawn side by side."""
WRITTEN = 12
"""A table with at most this number of columns is drawn with its numbers."""
LONG = 200
"""Rows with more numbers are drawn as curves."""
WIDTH, LINE = 26, 90
"""Width of a caption, and of a line of a text without an image, in characters."""


def plot(sample: Any, class_names: Sequence[str] | None = None, rows: int = 8, title: str = "") -> "Figure":
    """Draw a sample, or the first samples of a batch.

    Images, masks, pairs and clips are drawn as a grid of images; recordings as waveforms and spectrograms; sequences as
    curves; and rows of tables and graphs as maps with their numbers. Labels, texts and single numbers are written below
    the images; a label that differs from the true label is red.

    Args:
        sample: dict of tensors, arrays, images of PIL or texts, or a pair (image, label); a sample of a dataset, or a
            batch. The keys in `datamodules.batches` have the meaning given there.
        class_names: names of the classes. None shows their numbers.
        rows: maximum number of samples.
        title: line above the figure.
    """
    figure: Any = plot_batches([as_batch(sample)], class_names, rows, title)
    figure._repr_png_ = lambda: png_bytes(figure)  # notebooks display only figures of pyplot by themselves
    return figure


def png_bytes(figure: "Figure", dpi: int = 100) -> bytes:
    """Render a figure as PNG."""
    figure.savefig(memory := io.BytesIO(), dpi=dpi, format="png")
    return memory.getvalue()


def plot_batches(
    batches: Sequence[Mapping[str, Any]], class_names: Sequence[str] | None, rows: int, title: str
) -> "Figure":
    """Draw the first samples of flat batches of one dataset, see `plot`."""
    needed, missing = [], rows
    for batch in batches:
        if missing > 0 and count_rows(batch):
            needed.append(batch)
            missing -= count_rows(batch)
    drawn = [columns for batch in needed if (columns := image_columns(batch, class_names))]
    if drawn:
        columns = concatenate_rows(drawn, whole=True)
        return _draw_images(columns, class_names, rows, title)
    batch = needed[0] if needed else {}
    if signals := _signals(batch):
        names = batch.get("name") or [f"#{place}" for place in range(count_rows(batch))]
        recordings = [
            {
                "name": names[row],
                "sample_rate": batch["sample_rate"],
                **{key: each[row] for key, each in signals.items()},
            }
            for row in range(min(rows, count_rows(batch), 3))
        ]
        return draw_spectrograms(recordings, list(signals), waves=True)
    return _draw_numbers(batch, class_names, rows, title)


def _signals(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the recordings `[B, samples]` of a batch with a sample rate."""
    if "sample_rate" not in batch:
        return {}
    return {key: each for key, each in row_values(batch).items() if each.ndim == 2 and each.is_floating_point()}


def image_columns(batch: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, ImageColumn]:
    """Return the columns of an image grid for the keys of a flat batch that are images, clips or masks."""
    values = {key: _subsample(_channels_first(value)) for key, value in row_values(batch).items() if value.ndim >= 3}
    images = {key: value for key, value in values.items() if value.ndim in (4, 5)}
    if not images and "interval" not in batch:
        images = {key: value[:, None] for key, value in values.items() if value.ndim == 3}
    columns = dict(_image_column(key, value) for key, value in images.items())
    if not columns:
        return {}
    size = next(iter(columns.values())).values.shape[-2:]
    masks = {k: v for k, v in values.items() if v.ndim == 3 and not v.is_floating_point() and v.shape[-2:] == size}
    columns |= {key: ImageColumn(value.long().where(value <= 255, value % 20 + 1)) for key, value in masks.items()}
    captions, marked = describe_rows(batch, class_names)
    name, last = [*columns.items()][-1]
    return columns | {name: last._replace(captions=captions, marked=marked)}


def _channels_first(value: Tensor) -> Tensor:
    """Move the channels of images `[B, H, W, 1 or 3]` to the front."""
    last = value.ndim == 4 and value.shape[-1] in (1, 3) and value.shape[1] not in (1, 3)
    return value.movedim(-1, 1) if last else value


def _subsample(value: Tensor) -> Tensor:
    step = max(1, max(value.shape[-2:]) // LARGEST)
    return value[..., ::step, ::step]


def _image_column(key: str, value: Tensor) -> tuple[str, ImageColumn]:
    """Convert images or clips to values in [0, 1]. If values were rescaled, the name of the column says their range."""
    if value.dtype == torch.bool:
        value = value.float().amax(dim=1, keepdim=True)
    if value.dtype == torch.uint8:
        value = value.float() / 255
    value = value.float().nan_to_num()
    if value.ndim == 5:
        shown = torch.linspace(0, value.shape[1] - 1, min(FRAMES, value.shape[1])).round().long()
        value = torch.cat([*value[:, shown].unbind(dim=1)], dim=-1)
    low, high = (float(value.min()), float(value.max())) if value.numel() else (0.0, 1.0)
    if key == "normal":
        value = (value + 1) / 2
    elif key not in CLAMPED and (low < -1e-3 or high > 1 + 1e-3):
        value, key = (value - low) / ((high - low) or 1), f"{key}\n{low:.3g} ... {high:.3g}"
    return key, ImageColumn(value)


def describe_rows(
    batch: Mapping[str, Any], class_names: Sequence[str] | None, width: int = WIDTH
) -> tuple[list[str], list[bool]]:
    """Describe each sample by its labels, texts and single numbers, and mark samples with a wrong label."""
    count = count_rows(batch)
    single = {key: each.flatten() for key, each in row_values(batch).items() if each.numel() == count}
    texts = _texts(batch)
    lines: list[list[str]] = [[] for _ in range(count)]
    marked = [False] * count
    label, clean = single.pop("label", None), single.pop("clean_label", None)
    index = single.pop("index", torch.arange(count))
    for row in range(count):
        if label is not None:
            given = label[row].item()
            name = f"{given:.3g}" if label.is_floating_point() else class_name(int(given), class_names)
            true = int(given if clean is None or clean[row] == UNVERIFIED else clean[row])
            marked[row] = clean is not None and true != given
            lines[row].append(name + (f" (true: {class_name(true, class_names)})" if marked[row] else ""))
        lines[row] += [f"{key} {each[row].item():.3g}" for key, each in single.items()]
        lines[row] += [
            str(each[row][0] if isinstance(each[row], list) and each[row] else each[row]) for each in texts.values()
        ]
        if "name" not in texts and not lines[row]:
            lines[row].append(f"#{index[row].item():.0f}")
    short = ["\n".join(part for line in own for part in textwrap.wrap(line, width)[:3]) for own in lines]
    return short, marked


def _texts(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of texts, or numbers, with one entry for each sample."""
    lists = {key: each for key, each in batch.items() if isinstance(each, list) and len(each) == count_rows(batch)}
    return {k: own for k, own in lists.items() if all(isinstance(each, str | int | float | list) for each in own)}


def _draw_images(
    columns: Mapping[str, ImageColumn], class_names: Sequence[str] | None, rows: int, title: str
) -> "Figure":
    first = next(iter(columns.values()))
    height, width = first.values.shape[-2:]
    cell = CELL * min(float(FRAMES), max(1.0, width / height))
    largest = max((int(each.values.max()) for each in columns.values() if each.values.dtype == torch.long), default=0)
    names = class_names if class_names is not None and largest < len(class_names) else None
    return draw_image_grid(columns, names, title, rows, cell, side_by_side=True)


def _draw_numbers(batch: Mapping[str, Any], class_names: Sequence[str] | None, rows: int, title: str) -> "Figure":
    """Draw the rows of tables, graphs and sequences, or write what cannot be drawn."""
    values = {key: each for key, each in row_values(batch).items() if key != "index"}
    captions = describe_rows(batch, class_names, LINE)[0] if not values or _texts(batch) else []
    if captions:  # which say single numbers
        values = {key: each for key, each in values.items() if each.ndim > 1}
    curves = {key: each for key, each in values.items() if each.ndim == 3 or (each.ndim == 2 and each.shape[1] > LONG)}
    flat = {key: each for key, each in values.items() if each.ndim < 3 and key not in curves}
    shared = {
        key: each
        for key, each in batch.items()
        if isinstance(each, Tensor) and each.ndim == 2 and key not in row_values(batch)
    }
    points = {
        key: each for key, each in flat.items() if each.ndim == 2 and each.shape[1] == 2 and each.is_floating_point()
    }
    count = len(curves) + bool(flat) + len(shared) + len(points) + bool(captions)
    figure, panels = line_panels(max(1, count), 4.8 if count > 1 else 8.0)
    remaining = iter(panels)
    if flat:
        _draw_rows(next(remaining), flat, rows)
    for key, each in points.items():
        colours = flat.get("target", flat.get("label"))
        panel = next(remaining)
        chosen = colours.numpy() if colours is not None and colours.ndim == 1 else np.zeros(len(each))
        panel.scatter(each[:, 0].numpy(), each[:, 1].numpy(), s=6, c=chosen, cmap="coolwarm")
        panel.set(title=f"{key}, {len(each)} rows", aspect="equal")
    for key, each in curves.items():
        panel = next(remaining)
        for row in each[:rows]:
            panel.plot(np.arange(each.shape[1]) * float(batch.get("interval", 1)), row.float().numpy(), linewidth=0.8)
        panel.set(title=key, xlabel="time" if "interval" in batch else "position")
    for key, each in shared.items():
        largest = float(each.abs().max()) or 1.0
        panel = next(remaining)
        image = panel.imshow(each.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
        panel.set_title(key)
        panel.grid(False)
        panel.locator_params(integer=True)
        figure.colorbar(image, ax=panel)
    if captions or not count:
        text = "\n\n".join(captions[:rows]) or "no sample"
        panel = next(remaining)
        panel.text(0, 1, text, va="top", fontsize=9)
        panel.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_rows(panel: "Axes", values: Mapping[str, Tensor], rows: int) -> None:
    """Draw the first rows of a table as a map, in which each key has its own scale of colours."""
    parts, names = [], []
    for key, each in values.items():
        part = each[:rows].reshape(len(each[:rows]), -1).double()
        parts.append((part, (part - part.nanmean()) / (float(part.nan_to_num().std(unbiased=False)) or 1.0)))
        names += [key] if part.shape[1] == 1 else [f"{key} {place}" for place in range(part.shape[1])]
    numbers, scaled = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    panel.imshow(scaled.clamp(-3, 3).numpy(), cmap="PuOr", vmin=-4, vmax=4, aspect="auto", interpolation="nearest")
    panel.grid(False)
    panel.locator_params(integer=True)
    panel.set(title=f"first {len(numbers)} rows", ylabel="row")
    if len(names) > WRITTEN:
        panel.set_xlabel(", ".join(f"{key} [{each[0].numel()}]" for key, each in values.items()))
        return
    panel.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    for row, own in enumerate(numbers.tolist()):
        for column, number in enumerate(own):
            panel.text(column, row, f"{number:.3g}", ha="center", va="center", fontsize=7)
