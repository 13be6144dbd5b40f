"""Write the report of recorded batches: one PNG, and one HTML file that contains this picture."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from callbacks.data_preview.facts import Rows, count_classes, describe_keys, measure_noise
from callbacks.data_preview.plot import plot_batches, png_bytes
from callbacks.data_preview.recorded import RecordedSplit
from callbacks.data_preview.samples import count_rows, row_values
from datamodules.files.whole_files import whole_file, write_text
from lightning_modules.interfaces import NamedClasses, TokenizerSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
LINE, MINIMUM_WIDTH = 30, 900
"""Height of a line of text, and width of the picture, in pixels."""
MOST_BARS = 100
"""With more classes, their counts are sorted and drawn as a line without names."""
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; background: #fff; color: #222; }
img { max-width: 100%; }
td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
</style>
"""


def write_report(
    splits: Sequence[RecordedSplit],
    data: Any,
    title: str,
    settings: str,
    folder: Path,
    rows: int,
    described: Sequence[list[str]] = (),
) -> Rows:
    """Write `samples.png` and `samples.html`.

    Args:
        splits: recorded splits, at least one.
        data: their DataModule.
        title: name of the configuration.
        settings: settings of the data, as text.
        folder: folder of the two files.
        rows: maximum number of samples of a split that are drawn.
        described: further facts about the training data, each with its value.

    Returns:
        The facts that are also printed: rows of split, fact and value.
    """
    names = data.class_names if isinstance(data, NamedClasses) else None
    facts: Rows = []
    pictures, tables = [], []
    for split in splits:
        size = "" if split.size is None else f"set of {split.size:,} samples, "
        heading = f"{split.name}: {size}{split.samples:,} read in batches of {count_rows(split.batches[0])}"
        heading += f", first of {split.loaders} sets" * (split.loaders > 1)
        pictures.append((heading, plot_batches(_with_texts(split.batches, data, rows), names, rows, "")))
        noise = measure_noise(split, data)
        counts, what = count_classes(split, names)
        facts.append([split.name, "size", heading.partition(": ")[2]])
        facts += [
            [split.name, name, f"measured {each}" + f"; stated {stated}" * bool(stated)] for name, stated, each in noise
        ]
        if counts:
            numbers = [int(given) for _, given, _ in counts]
            facts.append([split.name, "classes", f"{len(counts)}, with {min(numbers):,} to {max(numbers):,} in {what}"])
        tables.append(f"<h2>{escape(heading)}</h2>")
        tables.append(_table(["key", "shape of a batch", "type", "range", "mean", "std"], describe_keys(split)))
        tables += [_table(["noise", "stated", "measured"], noise)] * bool(noise)
        if counts:
            tables.append(_table(["class", f"labels of {what}", "true labels"], counts))
            pictures.append((f"{split.name}: classes in {what}", _draw_counts(counts)))
    facts += [["training", *fact] for fact in described]
    tables += [_table(["training images", ""], [*described])] * bool(described)
    pictures.append(("", _draw_facts(facts, splits)))
    picture = _stack(title, pictures)
    with whole_file(folder / "samples.png") as partial:
        picture.save(partial, "png")
    picture.save(memory := io.BytesIO(), "png")
    image = f'<img alt="samples" src="data:image/png;base64,{base64.b64encode(memory.getvalue()).decode()}">'
    body = [f"<title>{escape(title)}</title>", f"<h1>{escape(title)}</h1>", image, *tables]
    body += ["<h2>settings of the data</h2>", f"<pre>{escape(settings)}</pre>", "</html>\n"]
    write_text(folder / "samples.html", HEAD + "\n".join(body))
    return facts


def _with_texts(batches: Sequence[dict[str, Any]], data: Any, rows: int) -> Sequence[dict[str, Any]]:
    """Replace the tokens of the first batch by texts, if the DataModule has a tokenizer."""
    first = batches[0]
    if "text.input_ids" not in first or not isinstance(data, TokenizerSource):
        return batches
    texts = data.tokenizer.batch_decode(first["text.input_ids"][:rows], skip_special_tokens=True)
    kept = {key: value[:rows] for key, value in row_values(first).items() if not key.startswith("text.")}
    return [{**kept, "text": texts}]


def _table(header: Sequence[str], rows: Rows) -> str:
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in lines)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _draw_counts(counts: Rows) -> "Figure":
    """Draw the number of samples of each class, by given and by true label."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(12 if len(counts) > 10 else 9, 2.2 + 0.8 * (10 < len(counts) <= MOST_BARS)), layout="constrained"
    )
    panel = figure.subplots()
    columns = {
        name: np.array([int(row[at] or 0) for row in counts]) for at, name in ((1, "labels"), (2, "true labels"))
    }
    shown = {name: column for name, column in columns.items() if name == "labels" or column.any()}
    places = np.arange(len(counts))
    for number, (name, column) in enumerate(shown.items()):
        if len(counts) > MOST_BARS:
            panel.plot(places, np.sort(column)[::-1], label=name)
            panel.set_xlabel("classes, most frequent first")
        else:
            panel.bar(places + (number - 0.5) * 0.4 * (len(shown) - 1), column, 0.8 / len(shown), label=name)
    if len(counts) <= MOST_BARS:
        rotation, size = (0, 8) if len(counts) <= 10 else (90, 6)
        panel.set_xticks(places, [row[0][:20] for row in counts], rotation=rotation, fontsize=size)
    if len(shown) > 1:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_facts(facts: Rows, splits: Sequence[RecordedSplit]) -> "Figure":
    """Write the facts, and the keys of the first split, as text."""
    from matplotlib.figure import Figure

    lines = [f"{split}: {name}: {value}" for split, name, value in facts]
    keys = [["key", "shape", "type", "range", "mean", "std"], *describe_keys(splits[0])]
    widths = [min(34, max(len(row[at]) for row in keys)) for at in range(len(keys[0]))]
    lines += ["", *("  ".join(cell[:34].ljust(width) for cell, width in zip(row, widths, strict=True)) for row in keys)]
    figure = Figure(figsize=(12, 0.17 * len(lines) + 0.2))
    figure.text(0.01, 0.98, "\n".join(lines), family="monospace", fontsize=8, va="top")
    return figure


def _stack(title: str, figures: "Sequence[tuple[str, Figure]]") -> Image.Image:
    """Draw figures below each other, each with a line of text above it."""
    pictures = []
    for text, figure in figures:
        pictures.append((text, Image.open(io.BytesIO(png_bytes(figure, DPI))).convert("RGB")))
    width = max(MINIMUM_WIDTH, *(each.width for _, each in pictures))
    sheet = Image.new("RGB", (width, LINE + sum(LINE + each.height for _, each in pictures)), "white")
    draw, top = ImageDraw.Draw(sheet), LINE
    draw.text((8, 4), title, "black", ImageFont.load_default(20))
    for text, picture in pictures:
        draw.text((8, top + 6), text, "black", ImageFont.load_default(16))
        sheet.paste(picture, (0, top + LINE))
        top += LINE + picture.height
    return sheet
