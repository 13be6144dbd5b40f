"""Write a page of thumbnails, most suspicious label first, as a single HTML file that loads no other files."""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from callbacks.labels.cleaning import with_actions
from datamodules.files.whole_files import write_text

PAGE = "label_report.html"
THUMBNAIL = 112
"""Maximum width and height of a thumbnail, in pixels."""
HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Suspected labels</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; background: #fff; color: #222; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 1rem; }
figure { margin: 0; overflow-wrap: anywhere; }
img { width: 112px; height: 112px; object-fit: contain; image-rendering: pixelated; background: #eee; }
.keep { border-left: 4px solid #bbb; padding-left: 6px; }
.relabel { border-left: 4px solid #c1272d; padding-left: 6px; }
.drop { border-left: 4px solid #e69f00; padding-left: 6px; }
small { color: #666; }
</style>
"""


def write_page(path: Path, table: pd.DataFrame, image: Iterable[NDArray[np.uint8]], num_labels: int) -> None:
    """Write a page with the image, given label, proposed label and confidences of each row of a label report.

    All text is escaped, and the page's Content-Security-Policy forbids scripts and requests.

    Args:
        path: HTML file to write.
        table: rows of a label report with the columns of `with_actions`, most suspicious label first.
        image: images of these rows: n arrays `[C, H, W]`. They are shown in colour if C is 3; otherwise, the mean over
            channels is shown in grey.
        num_labels: number of labels in the whole report.
    """
    which = (
        f"The {len(table):,} most suspicious of {num_labels:,}" if len(table) < num_labels else f"All {num_labels:,}"
    )
    said = (
        f"{which} labels, most suspicious first. Red: relabel; yellow: drop; grey: keep, as in cleaned_labels.csv. "
        f"p is the network's probability; the score is 0 for the most suspicious labels."
    )
    if "in_sample" in table and table["in_sample"].any():
        said += " The network was trained on these labels, and does not suspect a wrong label it has memorised."
    figures = [_figure(row, pixels) for (_, row), pixels in zip(table.iterrows(), image, strict=True)]
    write_text(
        path, f"{HEAD}<h1>Suspected labels</h1>\n<p>{escape(said)}</p>\n<main>\n{''.join(figures)}</main>\n</html>\n"
    )


def suspicious_rows(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most `most` rows of a label report, the most suspicious first, with all columns for `write_page`."""
    return with_actions(table).sort_values("score", kind="stable", ignore_index=True).head(most)


def _figure(row: pd.Series, pixels: NDArray[np.uint8]) -> str:
    given, proposed = (escape(str(row.get(f"{key}_name", row[key]))) for key in ("given", "proposed"))
    lines = [f"{given} (p {row['probability_given']:.2f})"]
    if row["given"] != row["proposed"]:
        lines.append(f"&rarr; <b>{proposed}</b> (p {row['probability_proposed']:.2f})")
    where = escape(str(row["name"] if "name" in row else row.get("row", row.get("index"))))
    lines.append(f"<small>{row['action']}, score {row['score']:.3g}<br>{where}</small>")
    return (
        f'<figure class="{row["action"]}"><img alt="" src="{_data_url(pixels)}">'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>\n"
    )


def _data_url(pixels: NDArray[np.uint8]) -> str:
    """Encode a thumbnail as a data URL: as PNG if it has at most 32 pixels per side, and otherwise as JPEG."""
    grey = pixels.mean(axis=0).round().astype(np.uint8)
    picture = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else grey)
    kind = "png" if max(picture.size) <= 32 else "jpeg"
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(memory := io.BytesIO(), kind)
    return f"data:image/{kind};base64,{base64.b64encode(memory.getvalue()).decode()}"
